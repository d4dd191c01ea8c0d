"""File-to-file functions: the vocabulary of the workflow. One function per rule, of the same name."""
