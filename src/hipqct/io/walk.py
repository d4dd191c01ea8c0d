"""The files below a folder, through links, each real folder once."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from hipqct.errors import ScanError


def walk_files(root: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[tuple[Path, list]]:
    """Each folder below ``root`` with the names of what it holds but folders, both in order of name.

    Linked folders come last, under the link's name; those that lead to what was seen are passed by, so that
    circles end. A folder that cannot be listed raises ScanError, or is given to ``on_error`` and passed by.
    """

    def refuse(error: OSError):
        raise ScanError(
            f"a folder of it cannot be read ({error.strerror}); correct its permissions"
        ) from error

    waiting, seen = [Path(root)], set()
    while waiting:
        for folder, folders, names in os.walk(waiting.pop(0), onerror=on_error or refuse):
            real = os.path.realpath(folder)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders.sort()
            waiting += [path for name in folders if (path := Path(folder, name)).is_symlink()]
            yield Path(folder), sorted(names)


def is_broken_link(path: Path) -> bool:
    """Whether a link leads to nothing."""
    return path.is_symlink() and not path.exists()
