"""The text at the start of NRRD and MetaImage files, and the check of their compressed voxels.

ITK reads both formats without telling that compressed voxels fail their checksum.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from hipqct.errors import ScanError

NRRD_SUFFIXES, META_SUFFIXES = (".nrrd", ".nhdr"), (".mha", ".mhd")
HEADER_BYTES = 1 << 16
CHUNK_BYTES = 1 << 22
GZIP_OR_ZLIB = zlib.MAX_WBITS + 32  # as zlib numbers the formats
LOCAL = "LOCAL"


class TextHeader(NamedTuple):
    """Fields of an NRRD (names in lower case) or MetaImage, and the file and byte at which voxels begin.

    ``data`` is None where the voxels lie in several files.
    """

    fields: dict[str, str]
    data: Path | None
    offset: int


def read_text_header(path: Path) -> TextHeader | None:
    """What an NRRD or a MetaImage says before its voxels; None for files of other formats."""
    name = path.name.lower()
    if not name.endswith(NRRD_SUFFIXES + META_SUFFIXES):
        return None
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    return _read_nrrd(path, head) if name.endswith(NRRD_SUFFIXES) else _read_metaimage(path, head)


def files_beside(path: Path) -> Iterator[Path]:
    """The files in which an NRRD or a MetaImage has its voxels, if not in its own; none of other formats."""
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


def _read_nrrd(path: Path, head: bytes) -> TextHeader:
    """https://teem.sourceforge.net/nrrd/format.html: lines ``field: value`` up to an empty one."""
    fields, offset = {}, 0
    for line in head.splitlines(keepends=True):
        offset += len(line)
        text = line.decode("latin-1").strip()
        if not text:
            break
        field, colon, value = text.partition(":")
        if colon and not text.startswith("#") and not value.startswith("="):
            fields[field.strip().lower()] = value.strip()
    elsewhere = fields.get("data file", fields.get("datafile"))
    if elsewhere is None:
        return TextHeader(fields, path, offset)
    several = elsewhere.startswith("LIST") or "%" in elsewhere
    return TextHeader(fields, None if several else path.parent / elsewhere, 0)


def _read_metaimage(path: Path, head: bytes) -> TextHeader:
    """Lines ``Key = value``; ElementDataFile is the last and names the file of the voxels."""
    fields, offset = {}, 0
    for line in head.splitlines(keepends=True):
        offset += len(line)
        key, _, value = line.decode("latin-1").partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    elsewhere = fields.get("ElementDataFile", LOCAL)
    if elsewhere.upper() == LOCAL:
        return TextHeader(fields, path, offset)
    several = elsewhere.upper().startswith("LIST") or "%" in elsewhere
    return TextHeader(fields, None if several else path.parent / elsewhere, 0)


def check_compressed(path: Path, voxel_bytes: int) -> None:
    """Refuse a compressed NRRD or MetaImage whose voxels are cut short or fail their checksum (ScanError).

    Args:
        voxel_bytes: how many the voxels take, uncompressed.
    """
    header = read_text_header(path)
    if header is None or header.data is None:
        return
    if header.fields.get("CompressedData", "").lower() == "true":
        inflate = _inflate_zlib
    elif header.fields.get("encoding", "").lower() in ("gzip", "gz"):
        inflate = _inflate_gzip
    else:
        return
    try:
        there = sum(inflate(header.data, header.offset, _packed_bytes(path, header)))
    except (OSError, EOFError, zlib.error) as error:
        raise ScanError(f"{path.name} is truncated or damaged ({error}); copy it again") from error
    if there < voxel_bytes:
        raise ScanError(f"{path.name} is truncated: {there} of {voxel_bytes} bytes are there; copy it again")


def _packed_bytes(path: Path, header: TextHeader) -> int | None:
    """How many bytes a MetaImage says its compressed voxels take, which is all that ITK reads of them."""
    stated = header.fields.get("CompressedDataSize")
    if stated is None:
        if "CompressedData" in header.fields and header.data == path:
            raise ScanError(f"{path.name} has no CompressedDataSize, so programs misread it; export it again")
        return None
    if not stated.isdecimal():
        raise ScanError(f"{path.name} has CompressedDataSize {stated}, which is no number; export it again")
    return int(stated)


def _inflate_gzip(path: Path, offset: int, _packed_bytes: int | None) -> Iterator[int]:
    """Lengths of the pieces of a gzip stream, whose checksum Python's reader verifies."""
    with path.open("rb") as file:
        file.seek(offset)
        with gzip.open(file) as stream:
            while chunk := stream.read(CHUNK_BYTES):
                yield len(chunk)


def _inflate_zlib(path: Path, offset: int, packed_bytes: int | None) -> Iterator[int]:
    """The same of a zlib (or gzip) stream, of so many bytes if known; its checksum comes with its end."""
    left = path.stat().st_size if packed_bytes is None else packed_bytes
    stream = zlib.decompressobj(GZIP_OR_ZLIB)
    with path.open("rb") as file:
        file.seek(offset)
        while not stream.eof:
            packed = file.read(min(CHUNK_BYTES, left))
            left -= len(packed)
            if not packed:
                raise EOFError("its end is missing")
            while packed and not stream.eof:
                yield len(stream.decompress(packed, CHUNK_BYTES))
                packed = stream.unconsumed_tail
