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

from shared.formats.source_keys import IgnoredFile, UserFile
from shared.formats.user_csv import excerpt
from worker.bundles.members import (
    InvalidArchive,
    Member,
    check_count,
    check_member_path,
    check_size,
    max_kept_bytes,
    special_file_error,
    truncated_error,
)
from worker.source.ranged_file import RangedFile

MAX_DIRECTORY_BYTES = 32 << 20
"""Maximum size of a zip's directory in bytes: `zipfile` holds it in memory."""

# Signature, flags, length of the name, length of the extra field.
_LOCAL_HEADER = struct.Struct("<4s2xH18xHH")
_LOCAL_MARK = b"PK\x03\x04"
_ENCRYPTED_FLAGS = 0x1 | 0x40 | 0x2000
_UTF8_FLAG = 0x800
_UNICODE_PATH_FIELD = 0x7075
_STEP = 1 << 20


@dataclass(frozen=True, slots=True)
class _ZipMember:
    """A file in the directory; `end` is the offset before which its data must end."""

    path: str
    file: UserFile | IgnoredFile
    info: zipfile.ZipInfo
    max_end: int


class ZipArchive:
    """The zip in `file`, within the limits of `worker.bundles.members`.

    The constructor and `members` raise `InvalidArchive`.
    """

    def __init__(self, file: RangedFile) -> None:
        self._file = file
        self._members = list(_read_directory(file))
        self.member_count: int | None = len(self._members)

    def members(self) -> Iterator[Member]:
        """Yield the members, as `worker.bundles.members.Archive` describes."""
        for entry in self._members:
            body = b"" if isinstance(entry.file, IgnoredFile) else self._read(entry)
            yield Member(entry.path, entry.file, body)

    def _read(self, entry: _ZipMember) -> bytes:
        info = entry.info
        body = bytearray()
        size = 0
        crc = 0
        max_bytes = max_kept_bytes(entry.path, entry.file, info.file_size)
        # All of the member is unpacked to verify size and CRC, but only `max_bytes` bytes are kept.
        for piece in self._unpacked(entry):
            size += len(piece)
            if size > info.file_size:
                break  # damaged: the comparison below fails
            crc = zlib.crc32(piece, crc)
            body += piece[: max_bytes - len(body)]
        if (size, crc) != (info.file_size, info.CRC):
            raise _damaged_member_error(entry.path)
        return bytes(body)

    def _unpacked(self, entry: _ZipMember) -> Iterator[bytes | memoryview]:
        start = self._start(entry)
        packed = self._file.read_chunks(start, start + entry.info.compress_size)
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
            raise _damaged_member_error(entry.path) from None
        if not inflater.eof or inflater.unused_data:
            raise _damaged_member_error(entry.path)

    def _start(self, entry: _ZipMember) -> int:
        """Return the offset of the member's data, according to its local header."""
        offset = entry.info.header_offset
        self._file.seek(offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise truncated_error()
        # The lengths in the local header may differ from those in the directory.
        mark, flags, name, extra = _LOCAL_HEADER.unpack(header)
        start: int = offset + _LOCAL_HEADER.size + name + extra
        if (
            mark != _LOCAL_MARK
            or flags & _ENCRYPTED_FLAGS
            or start + entry.info.compress_size > entry.max_end
        ):
            raise _damaged_member_error(entry.path)
        return start


def _read_directory(file: RangedFile) -> Iterator[_ZipMember]:
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
            end = archive.start_dir
    except MemoryError:
        raise InvalidArchive(
            f"its directory is larger than {MAX_DIRECTORY_BYTES:,} bytes"
        ) from None
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OSError, EOFError):
        raise InvalidArchive(
            "it is no zip archive, or it is cut off: there is no directory at its end"
        ) from None
    check_count(len(infos))
    # In the order of offsets, each member must end before the next one begins.
    infos.sort(key=lambda info: info.header_offset)
    check_size(sum(info.file_size for info in infos), file.size)
    ends = [info.header_offset for info in infos[1:]]
    for info, max_end in zip(infos, [*ends, end], strict=False):
        entry = _check_member(info, max_end)
        if entry:
            yield entry


def _check_member(info: zipfile.ZipInfo, max_end: int) -> _ZipMember | None:
    path = _decode_path(info)
    if path.endswith("/"):
        return None
    if info.flag_bits & _ENCRYPTED_FLAGS:
        raise InvalidArchive(f"it is encrypted, at least '{excerpt(path)}'")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise special_file_error(path, "link")
    if info.header_offset < 0:
        raise _damaged_member_error(path)
    if info.header_offset + info.compress_size > max_end:
        raise InvalidArchive(f"members overlap: '{excerpt(path)}'")
    file = check_member_path(path)
    if file is None:
        return None
    max_kept_bytes(path, file, info.file_size)  # reject a too large image before any member is read
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise InvalidArchive(
            f"'{excerpt(path)}' is packed by method {info.compress_type}; pack it by deflate (8)"
        )
    return _ZipMember(path, file, info, max_end)


def _decode_path(info: zipfile.ZipInfo) -> str:
    """Return the member's path with slashes.

    It is UTF-8 if the UTF-8 flag is set, if Info-ZIP's extra field 0x7075 holds it, or if the bytes
    are valid UTF-8 (macOS sets no flag). Otherwise it is CP437.
    """
    path = info.orig_filename
    if not info.flag_bits & _UTF8_FLAG and not path.isascii():
        # `zipfile` decoded the name as CP437; encoding it again restores the raw bytes.
        raw = path.encode("cp437")
        with contextlib.suppress(UnicodeDecodeError):
            path = _decode_unicode_path(info.extra, raw) or raw.decode()
    return path.replace("\\", "/")


def _decode_unicode_path(extra: bytes, raw: bytes) -> str | None:
    while len(extra) >= 4:
        kind, size = struct.unpack("<HH", extra[:4])
        if (
            kind == _UNICODE_PATH_FIELD
            and size > 5
            and struct.unpack("<L", extra[5:9])[0] == zlib.crc32(raw)
        ):
            return extra[9 : 4 + size].decode()
        extra = extra[4 + size :]
    return None


def _damaged_member_error(path: str) -> InvalidArchive:
    return InvalidArchive(
        f"'{excerpt(path)}' is damaged: it is not what the archive's directory says"
    )
