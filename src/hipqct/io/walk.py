"""The files below a folder, through links, each real folder once; and whether they have changed."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from hipqct.errors import ScanError
from hipqct.io.text_header import files_beside


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


def files_state(path: Path) -> str:
    """A hash of the names, sizes and times (s) of all files that a scan or a mask is read from.

    It tells what the path's own time does not: slices overwritten in place or added in a folder below, the
    voxels beside a header, and files that were put there with an old time. What cannot be looked at is left
    out: reading it will say why.

    Args:
        path: a folder, or a file, with the files that its header names.
    """
    state = []
    with suppress(OSError, ValueError):  # also of a name that no file can have
        for file in _files_of(Path(path)):
            with suppress(OSError, ValueError):
                status = file.stat()
                state.append((os.path.relpath(file, path), status.st_size, int(status.st_mtime)))
    return hashlib.sha256(repr(state).encode()).hexdigest()


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for folder, names in walk_files(path, on_error=lambda error: None):
            yield from (folder / name for name in names if not _is_litter(name))
    else:
        yield path
        yield from files_beside(path)


def _is_litter(name: str) -> bool:
    """Whether file managers and file servers leave such files about."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")
