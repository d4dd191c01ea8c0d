"""The files below a folder, through links, each real folder once; and whether they have changed."""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from hipqct.errors import ScanError
from hipqct.io.text_header import HEADER_BYTES, read_text_header


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
    state, files = [], _files_of(Path(path))
    while True:
        try:
            file = next(files)
            status = file.stat()
        except StopIteration:
            break
        except (OSError, ValueError):  # also of a name that no file can have
            continue
        state.append((os.path.relpath(file, path), status.st_size, int(status.st_mtime)))
    return hashlib.sha256(repr(state).encode()).hexdigest()


def _files_of(path: Path) -> Iterator[Path]:
    if path.is_dir():
        for folder, names in walk_files(path, on_error=lambda error: None):
            yield from (folder / name for name in names if not _is_litter(name))
        return
    yield path
    header = read_text_header(path)
    if header is None or header.data == path:
        return
    if header.data:
        yield header.data
        return
    for line in path.read_bytes()[:HEADER_BYTES].decode("latin-1").splitlines():
        words = line.split()
        if words and (path.parent / words[0]).is_file():  # of a list of files, one a line
            yield path.parent / words[0]
        for word in words:
            if "%" in word:  # names with a number
                yield from sorted(path.parent.glob(re.sub(r"%\d*d", "*", word)))


def _is_litter(name: str) -> bool:
    """Whether file managers and file servers leave such files about."""
    return name.startswith(".") or name.lower() in ("thumbs.db", "desktop.ini")
