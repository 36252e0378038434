"""A zip, read member by member.

Sections of PKWARE's APPNOTE.TXT: 4.3.7 local header, 4.4.4 flags, 4.5.3 zip64.

`zipfile` reads the directory and the members. All of the directory is validated before the first
member is read. The members are read in the order of their offsets, so the file is read once from
start to end.
"""

import contextlib
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

from shared.formats.source_keys import IgnoredFile, UserFile
from worker.bundles.members import (
    CpuBudget,
    InvalidArchive,
    Member,
    MemberName,
    check_count,
    check_image,
    check_member_path,
    check_size,
    max_kept_bytes,
    special_file_error,
)
from worker.source.ranged_file import RangedFile

MAX_DIRECTORY_BYTES = 32 << 20
"""Maximum size of a zip's directory in bytes: `zipfile` holds it in memory."""

_SPECIAL_FILE_TYPES = {
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}
_ENCRYPTED_FLAGS = 0x1 | 0x40 | 0x2000
_UTF8_FLAG = 0x800
_LOCAL_HEADER = struct.Struct("<6xH18xH2x")
"""The flags and the length of the name in a local header, which is followed by the name."""
_UNICODE_PATH_FIELD = 0x7075
_BUFFER_BYTES = 1 << 16
_STEP_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _ZipMember:
    """A file in the directory.

    `size` is the declared size in bytes. `max_end` is the offset before which the data must end.
    """

    name: MemberName
    file: UserFile | IgnoredFile
    info: zipfile.ZipInfo
    size: int
    max_end: int


class ZipArchive:
    """The zip in `file`, within the limits of `worker.bundles.members`.

    The constructor and `members` raise `InvalidArchive`.
    """

    def __init__(self, file: RangedFile, cpu: CpuBudget | None = None) -> None:
        self._cpu = cpu or CpuBudget(file.size)
        # `zipfile` reads each member in many small reads.
        self._file = io.BufferedReader(file, _BUFFER_BYTES)
        self._archive = _open_zip(self._file)
        self._members = list(_check_directory(self._archive, file.size))
        self.member_count: int | None = len(self._members)

    def members(self) -> Iterator[Member]:
        """Yield the members, as `worker.bundles.members.Archive` describes."""
        for entry in self._members:
            self._cpu.check()
            body = b"" if isinstance(entry.file, IgnoredFile) else self._read(entry)
            check_image(entry.name, entry.file, body)
            yield Member(entry.name.path, entry.file, body)

    def _read(self, entry: _ZipMember) -> bytes:
        body = bytearray()
        size = 0
        max_bytes = max_kept_bytes(entry.name, entry.file, entry.size)
        try:
            with self._open(entry) as stream:
                # All of the member is unpacked to verify its CRC, but only `max_bytes` are kept.
                while piece := stream.read(_STEP_BYTES):
                    self._cpu.check()
                    size += len(piece)
                    body += piece[: max_bytes - len(body)]
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError):
            raise _damaged_member_error(entry.name) from None
        if size != entry.size:
            raise _damaged_member_error(entry.name)
        return bytes(body)

    def _open(self, entry: _ZipMember) -> IO[bytes]:
        """Open the member for reading. `zipfile` compares its local header with the directory."""
        self._file.seek(entry.info.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise _damaged_member_error(entry.name)
        flags, name_length = _LOCAL_HEADER.unpack(header)
        if flags & _ENCRYPTED_FLAGS:
            raise _damaged_member_error(entry.name)
        # Other programs may show the name in the local header.
        if self._file.read(name_length) != _encode_raw_name(entry.info):
            raise entry.name.error("has another name in its own header than in the directory")
        stream = self._archive.open(entry.info)
        # The file is now at the data. Its offset depends on the lengths in the local header.
        if self._file.tell() + entry.info.compress_size > entry.max_end:
            raise _damaged_member_error(entry.name)
        return stream


def _open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except MemoryError:
        raise InvalidArchive(
            f"its directory is larger than {MAX_DIRECTORY_BYTES:,} bytes"
        ) from None
    except (zipfile.BadZipFile, struct.error, NotImplementedError, ValueError, OSError, EOFError):
        raise InvalidArchive(
            "it is no zip archive, or it is cut off: there is no directory at its end"
        ) from None


def _check_directory(archive: zipfile.ZipFile, packed_bytes: int) -> Iterator[_ZipMember]:
    infos = archive.infolist()
    check_count(len(infos))
    check_size(sum(info.file_size for info in infos), packed_bytes)
    # In the order of offsets, each member must end before the next one begins.
    numbered = sorted(enumerate(infos, 1), key=lambda item: item[1].header_offset)
    ends = [info.header_offset for _, info in numbered[1:]]
    for (number, info), max_end in zip(numbered, [*ends, archive.start_dir], strict=False):
        entry = _check_member(MemberName(number, _decode_path(info)), info, max_end)
        if entry:
            yield entry


def _check_member(name: MemberName, info: zipfile.ZipInfo, max_end: int) -> _ZipMember | None:
    if name.path.endswith("/"):
        return None
    if info.flag_bits & _ENCRYPTED_FLAGS:
        raise name.error("is encrypted; pack the files without a password")
    kind = _SPECIAL_FILE_TYPES.get(stat.S_IFMT(info.external_attr >> 16))
    if kind:
        raise special_file_error(name, kind)
    if info.header_offset < 0:
        raise _damaged_member_error(name)
    if info.header_offset + info.compress_size > max_end:
        raise name.error("overlaps another member")
    file = check_member_path(name)
    if file is None:
        return None
    max_kept_bytes(name, file, info.file_size)  # reject a too large image before any member is read
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise name.error(f"is packed by method {info.compress_type}; pack it by deflate (8)")
    size = info.file_size
    # `zipfile` would cut a longer member to its declared size without an error.
    info.file_size += 1
    return _ZipMember(name, file, info, size, max_end)


def _decode_path(info: zipfile.ZipInfo) -> str:
    """Return the member's path with slashes.

    It is UTF-8 if the UTF-8 flag is set, if Info-ZIP's extra field 0x7075 holds it, or if the bytes
    are valid UTF-8 (macOS sets no flag). Otherwise it is CP437.
    """
    path = info.orig_filename
    if not info.flag_bits & _UTF8_FLAG and not path.isascii():
        # `zipfile` decoded the name as CP437; encoding it again restores the raw bytes.
        raw = _encode_raw_name(info)
        with contextlib.suppress(UnicodeDecodeError):
            path = _decode_unicode_path(info.extra, raw) or raw.decode()
    return path.replace("\\", "/")


def _encode_raw_name(info: zipfile.ZipInfo) -> bytes:
    """Return the bytes of the name in the directory, before `zipfile` decoded them."""
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_FLAG else "cp437")


def _decode_unicode_path(extra: bytes, raw: bytes) -> str | None:
    start = 0
    while start + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, start)
        end = start + 4 + size
        if (
            kind == _UNICODE_PATH_FIELD
            and size > 5
            and struct.unpack_from("<L", extra, start + 5)[0] == zlib.crc32(raw)
        ):
            return extra[start + 9 : end].decode()
        start = end
    return None


def _damaged_member_error(name: MemberName) -> InvalidArchive:
    return name.error("is damaged: it is not what the archive's directory says")
