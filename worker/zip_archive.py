"""A zip, read member by member.

Sections of PKWARE's APPNOTE.TXT: 4.3.7 local header, 4.3.12 directory, 4.4.4 flags, 4.5.3 zip64.

`zipfile` reads the directory, and all of it is validated before the first member is read. The
members are then read here in the order of their offsets. So the file is read once from start to
end, and a member that does not match the directory is detected.
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
"""Maximum size of a zip's directory in bytes: `zipfile` holds it in memory."""

# Signature, flags, length of the name, length of the extra field.
_LOCAL_HEADER, _LOCAL_MARK = struct.Struct("<4s2xH18xHH"), b"PK\x03\x04"
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
_UNICODE_PATH = 0x7075
_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file in the directory; `end` is the offset before which its data must end."""

    path: str
    file: UserFile | Ignored
    info: zipfile.ZipInfo
    end: int


class ZipArchive:
    """The zip in `file`, within the limits of `worker.archive`.

    The constructor and `members` raise `InvalidArchive`.
    """

    def __init__(self, file: RangedFile) -> None:
        self._file = file
        self._entries = list(_entries(file))
        self.total: int | None = len(self._entries)

    def members(self) -> Iterator[Member]:
        """Yield the members, as `worker.archive.Archive` describes."""
        for entry in self._entries:
            body = b"" if isinstance(entry.file, Ignored) else self._read(entry)
            yield Member(entry.path, entry.file, body)

    def _read(self, entry: _Entry) -> bytes:
        info, kept, size, crc = entry.info, bytearray(), 0, 0
        most = most_kept(entry.path, entry.file, info.file_size)
        # All of the member is unpacked to verify size and CRC, but only `most` bytes are kept.
        for piece in self._unpacked(entry):
            size += len(piece)
            if size > info.file_size:
                break  # damaged: the comparison below fails
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
            yield inflater.flush()  # the output that exceeded the last step
        except zlib.error:
            raise _damaged(entry.path) from None
        if not inflater.eof or inflater.unused_data:
            raise _damaged(entry.path)

    def _start(self, entry: _Entry) -> int:
        """Return the offset of the member's data, according to its local header."""
        offset = entry.info.header_offset
        self._file.seek(offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise cut_off()
        # The lengths in the local header may differ from those in the directory.
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
    # In the order of offsets, each member must end before the next one begins.
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
    most_kept(path, file, info.file_size)  # reject a too large image before any member is read
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise InvalidArchive(f"'{excerpt(path)}' is packed by method {info.compress_type}; pack it by deflate (8)")
    return _Entry(path, file, info, end)


def _path(info: zipfile.ZipInfo) -> str:
    """Return the member's path with slashes.

    It is UTF-8 if the UTF-8 flag is set, if Info-ZIP's extra field 0x7075 holds it, or if the bytes
    are valid UTF-8 (macOS sets no flag). Otherwise it is CP437.
    """
    path = info.orig_filename
    if not info.flag_bits & _UTF8 and not path.isascii():
        # `zipfile` decoded the name as CP437; encoding it again restores the raw bytes.
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
