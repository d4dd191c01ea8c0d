"""Writing files so that a name never stands for a half-written one."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_when_done(path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` (same suffixes); rename it to ``path`` when the block succeeds.

    When the block raises, the temporary file is deleted and an older ``path`` stays as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.tmp.{path.name}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_folder_when_done(path) -> Iterator[Path]:
    """Give an empty temporary folder beside ``path``; rename it to ``path`` when the block succeeds.

    When the block raises, the temporary folder is deleted and an older ``path`` stays as it was. What a run
    that was killed left under the temporary name goes first.
    """
    path = Path(path)
    temporary = path.with_name(f".tmp.{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(content: dict, path) -> None:
    """Write ``content`` as indented JSON; NaN and infinity are refused (ValueError), as JSON has none."""
    text = json.dumps(content, indent=2, allow_nan=False)
    with replace_when_done(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path) -> dict:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def hash_file(path) -> str:
    """SHA-256 of a file, read piece by piece."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
