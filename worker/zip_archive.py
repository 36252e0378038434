"""A zip, member by member (APPNOTE.TXT of PKWARE: 4.3.7 local header, 4.3.12 directory, 4.4.4 flags, 4.5.3 zip64).

`zipfile` reads the directory; everything that it says is checked before a single member is read.  The members are then
read here, in the order in which they lie in the file, so that the file is read once from the beginning to the end, and
so that a member which is not what the directory says is found out.
"""

import contextlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from shared.keys import Ignored, UserFile
from worker.archive import InvalidArchive, Member, check_count, check_size, cut_off, file_of, most_kept, no_file
from worker.ranged import RangedFile
from worker.user_csv import excerpt

MOST_DIRECTORY_BYTES = 32 << 20
"""Of a zip's directory: `zipfile` holds it in memory."""

_LOCAL_HEADER, _LOCAL_MARK = struct.Struct("<4s2xH18xHH"), b"PK\x03\x04"
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
_UNICODE_PATH = 0x7075
_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the directory says of a member that is a file; `end` is where it must end in the archive at the latest."""

    path: str
    file: UserFile | Ignored
    info: zipfile.ZipInfo
    end: int


class ZipArchive:
    """The zip in `file`, whose members are at most as large as `worker.archive` allows.  Raises `InvalidArchive`."""

    def __init__(self, file: RangedFile) -> None:
        self._file = file
        self._entries = list(_entries(file))
        self.total: int | None = len(self._entries)

    def members(self) -> Iterator[Member]:
        """See `worker.archive.Archive`."""
        for entry in self._entries:
            body = b"" if isinstance(entry.file, Ignored) else self._read(entry)
            yield Member(entry.path, entry.file, body)

    def _read(self, entry: _Entry) -> bytes:
        info, kept, size, crc = entry.info, bytearray(), 0, 0
        most = most_kept(entry.path, entry.file, info.file_size)
        for piece in self._unpacked(entry):
            size += len(piece)
            if size > info.file_size:
                break
            crc = zlib.crc32(piece, crc)
            kept += piece[: most - len(kept)]
        if (size, crc) != (info.file_size, info.CRC):
            raise _damaged(entry.path)
        return bytes(kept)

    def _unpacked(self, entry: _Entry) -> Iterator[bytes | memoryview]:
        start = self._start(entry)
        packed = self._file.chunks(start, start + entry.info.compress_size)
        if entry.info.compress_type == zipfile.ZIP_STORED:
            yield from packed
            return
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            for chunk in packed:
                rest: bytes | memoryview = chunk
                while rest and not inflater.eof:
                    yield inflater.decompress(rest, _STEP)
                    rest = inflater.unconsumed_tail
            yield inflater.flush()  # what the last step had no room for
        except zlib.error:
            raise _damaged(entry.path) from None
        if not inflater.eof or inflater.unused_data:
            raise _damaged(entry.path)

    def _start(self, entry: _Entry) -> int:
        """Where the member's bytes begin, by its own header."""
        offset = entry.info.header_offset
        self._file.seek(offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise cut_off()
        mark, flags, name, extra = _LOCAL_HEADER.unpack(header)
        start: int = offset + _LOCAL_HEADER.size + name + extra
        if mark != _LOCAL_MARK or flags & _ENCRYPTED or start + entry.info.compress_size > entry.end:
            raise _damaged(entry.path)
        return start


def _entries(file: RangedFile) -> Iterator[_Entry]:
    try:
        with zipfile.ZipFile(file) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except MemoryError:
        raise InvalidArchive(f"its directory is larger than {MOST_DIRECTORY_BYTES:,} bytes") from None
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OSError, EOFError):
        raise InvalidArchive("it is no zip archive, or it is cut off: there is no directory at its end") from None
    check_count(len(infos))
    infos.sort(key=lambda info: info.header_offset)
    check_size(sum(info.file_size for info in infos), file.size)
    ends = [info.header_offset for info in infos[1:]]
    for info, following in zip(infos, [*ends, end], strict=False):
        entry = _entry(info, following)
        if entry:
            yield entry


def _entry(info: zipfile.ZipInfo, end: int) -> _Entry | None:
    path = _path(info)
    if path.endswith("/"):
        return None
    if info.flag_bits & _ENCRYPTED:
        raise InvalidArchive(f"it is encrypted, at least '{excerpt(path)}'")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise no_file(path, "link")
    if info.header_offset < 0:
        raise _damaged(path)
    if info.header_offset + info.compress_size > end:
        raise InvalidArchive(f"members overlap: '{excerpt(path)}'")
    file = file_of(path)
    if file is None:
        return None
    most_kept(path, file, info.file_size)
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise InvalidArchive(f"'{excerpt(path)}' is packed by method {info.compress_type}; pack it by deflate (8)")
    return _Entry(path, file, info, end)


def _path(info: zipfile.ZipInfo) -> str:
    """The member's path with slashes.

    UTF-8 by its flag, or by the extra field 0x7075 of Info-ZIP, or because it is valid UTF-8, which macOS writes
    without saying so; else CP437.
    """
    path = info.orig_filename
    if not info.flag_bits & _UTF8 and not path.isascii():
        raw = path.encode("cp437")
        with contextlib.suppress(UnicodeDecodeError):
            path = _unicode_path(info.extra, raw) or raw.decode()
    return path.replace("\\", "/")


def _unicode_path(extra: bytes, raw: bytes) -> str | None:
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if kind == _UNICODE_PATH and size > 5 and struct.unpack("<L", extra[5:9])[0] == zlib.crc32(raw):
            return extra[9 : 4 + size].decode()
        extra = extra[4 + size :]
    return None


def _damaged(path: str) -> InvalidArchive:
    return InvalidArchive(f"'{excerpt(path)}' is damaged: it is not what the archive's directory says")
