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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from shared.formats.source_keys import IgnoredFile, UserFile, make_printable_path
from worker.bundles.members import (
    MAX_SIGNATURE_BYTES,
    CpuBudget,
    InvalidArchive,
    Member,
    MemberName,
    check_count,
    check_image,
    check_member_path,
    check_size,
    ignore_special_file,
    is_decoded,
    legacy_name_error,
    max_kept_bytes,
    special_file_error,
    unknown_format_error,
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
_DOS_FOLDER = 0x10
_DEFLATE64 = 9
_PLACEHOLDERS = dict.fromkeys(range(0xDC80, 0xDD00), "?")
"""One character for each byte that cannot be decoded."""
_ENCRYPTED_FLAGS = 0x1 | 0x40 | 0x2000
_UTF8_FLAG = 0x800
_LOCAL_SIGNATURE = b"PK\x03\x04"
_LOCAL_HEADER = struct.Struct("<4s2xH18xH2x")
"""Signature, flags and length of the name in a local header, which is followed by the name."""
_UNICODE_PATH_FIELD = 0x7075
_VOLUME_IN_EXTRA_FIELD = 0xFFFF
"""Instead of the number of a volume: zip64 has it in an extra field."""
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

    `zip_names` is the codec of names that are not UTF-8; if it is empty, they are refused.

    The constructor and `members` raise `InvalidArchive`.
    """

    def __init__(
        self, file: RangedFile, cpu: CpuBudget | None = None, *, zip_names: str = ""
    ) -> None:
        self._cpu = cpu or CpuBudget(file.size)
        # `zipfile` reads each member in many small reads.
        self._file = io.BufferedReader(file, _BUFFER_BYTES)
        self._archive = _open_zip(self._file)
        self._members = list(_check_directory(self._archive, file.size, zip_names))
        self.member_count: int | None = len(self._members)

    def members(self) -> Iterator[Member]:
        """Yield the members, as `worker.bundles.archive.Archive` describes."""
        for entry in self._members:
            self._cpu.check()
            body = b"" if isinstance(entry.file, IgnoredFile) else self._read(entry)
            check_image(entry.name, entry.file, body)
            name = entry.name._replace(path=make_printable_path(entry.name.path))
            yield Member(name, entry.file, body)

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
        signature, flags, name_length = _LOCAL_HEADER.unpack(header)
        if signature != _LOCAL_SIGNATURE or flags & _ENCRYPTED_FLAGS:
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
    except UnicodeDecodeError:
        raise InvalidArchive(
            "a name in its directory is marked as UTF-8 and is not; zip it with UTF-8 names"
        ) from None
    except (
        zipfile.BadZipFile,
        struct.error,
        NotImplementedError,
        ValueError,
        OSError,
        EOFError,
    ) as error:
        if "extra field" in str(error):
            raise InvalidArchive(
                "an extra field in its directory is damaged; pack it with another program"
            ) from None
        file.seek(0)
        head = file.read(MAX_SIGNATURE_BYTES)
        reason = (
            "it is no zip archive, or it is cut off: there is no directory at its end; "
            "pack or upload it again"
        )
        is_zip = head.startswith(_LOCAL_SIGNATURE)
        raise (InvalidArchive(reason) if is_zip else unknown_format_error(head, reason)) from None


def _check_directory(
    archive: zipfile.ZipFile, packed_bytes: int, zip_names: str
) -> Iterator[_ZipMember]:
    infos = archive.infolist()
    check_count(len(infos))
    if any(info.volume not in {0, _VOLUME_IN_EXTRA_FIELD} for info in infos):
        raise InvalidArchive(
            "it is one part of a split zip; join all parts (zip -s 0 users.zip --out whole.zip)"
        )
    check_size(sum(info.file_size for info in infos), packed_bytes)
    paths = _decode_paths(infos, zip_names)
    names = [MemberName(number, path) for number, path in enumerate(paths, 1)]
    # In the order of offsets, each member must end before the next one begins.
    members = sorted(zip(names, infos, strict=True), key=lambda item: item[1].header_offset)
    ends = [info.header_offset for _, info in members[1:]]
    for (name, info), max_end in zip(members, [*ends, archive.start_dir], strict=False):
        file = _classify_member(name, info, has_codec=bool(zip_names))
        if file:
            yield _check_member(name, file, info, max_end)


def _classify_member(
    name: MemberName, info: zipfile.ZipInfo, *, has_codec: bool
) -> UserFile | IgnoredFile | None:
    """Return what kind of file the member is; None for a folder."""
    if name.path.endswith("/"):
        return None
    # The extension is certain in every code page, and so is whether it is a user's file.
    file = check_member_path(name._replace(path=name.path.translate(_PLACEHOLDERS)))
    mode = info.external_attr >> 16
    kind = _SPECIAL_FILE_TYPES.get(stat.S_IFMT(mode))
    if not isinstance(file, IgnoredFile):
        if not is_decoded(name.path):
            raise legacy_name_error(name, has_codec=has_codec)
        if kind:
            raise special_file_error(name, kind)
        return file
    if kind:
        return ignore_special_file(file, kind)
    # Some programs write folders without a slash at the end.
    is_folder = stat.S_ISDIR(mode) or info.external_attr & _DOS_FOLDER
    return None if is_folder and not info.file_size else file


def _check_member(
    name: MemberName, file: UserFile | IgnoredFile, info: zipfile.ZipInfo, max_end: int
) -> _ZipMember:
    if info.header_offset < 0:
        raise _damaged_member_error(name)
    if info.header_offset + info.compress_size > max_end:
        raise name.error("overlaps another member")
    size = info.file_size
    if not isinstance(file, IgnoredFile):
        if info.flag_bits & _ENCRYPTED_FLAGS:
            raise name.error("is encrypted; pack the files without a password")
        max_kept_bytes(name, file, size)  # reject a too large image before any member is read
        _check_method(name, info.compress_type)
    # `zipfile` would cut a longer member to its declared size without an error.
    info.file_size += 1
    return _ZipMember(name, file, info, size, max_end)


def _check_method(name: MemberName, method: int) -> None:
    if method == _DEFLATE64:
        raise name.error(
            "is packed by Deflate64: Windows Explorer packs files above 2 GB in a way that is not "
            "supported; use 7-Zip or smaller zips"
        )
    if method not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise name.error(f"is packed by method {method}; pack it by deflate (8)")


def _decode_paths(infos: Sequence[zipfile.ZipInfo], zip_names: str) -> list[str]:
    """Return the path of each member with slashes, in the order of `infos`.

    A name is UTF-8 if the UTF-8 flag is set, or if Info-ZIP's extra field 0x7075 holds it. Other
    names that are not ASCII were written by one program. So they are UTF-8 if all of them are valid
    UTF-8 (macOS sets no flag), and otherwise all are in the code page `zip_names`. Surrogate
    escapes stand for bytes that cannot be decoded.
    """
    declared = [_decode_declared_path(info) for info in infos]
    raw_paths = {
        position: _encode_raw_name(infos[position])
        for position, path in enumerate(declared)
        if path is None
    }
    codec = "utf-8" if all(map(_is_utf8, raw_paths.values())) else zip_names
    decoded = [
        _decode_raw_path(raw_paths[position], codec) if path is None else path
        for position, path in enumerate(declared)
    ]
    return [path.replace("\\", "/") if is_decoded(path) else path for path in decoded]


def _decode_declared_path(info: zipfile.ZipInfo) -> str | None:
    """Return the path if the archive says how to decode it, or if it is ASCII; None otherwise."""
    path = info.orig_filename
    if info.flag_bits & _UTF8_FLAG or path.isascii():
        return path
    with contextlib.suppress(UnicodeDecodeError):
        return _decode_unicode_path(info.extra, _encode_raw_name(info))
    return None


def _decode_raw_path(raw: bytes, codec: str) -> str:
    if codec:
        with contextlib.suppress(UnicodeError):
            path = raw.decode(codec)
            if is_decoded(path):
                return path
    return raw.decode("ascii", "surrogateescape")


def _is_utf8(raw: bytes) -> bool:
    return is_decoded(raw.decode("utf-8", "surrogateescape"))


def _encode_raw_name(info: zipfile.ZipInfo) -> bytes:
    """Return the bytes of the name in the directory, before `zipfile` decoded them.

    `zipfile` decodes a name without the UTF-8 flag as CP437, which can encode every byte again.
    """
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
    return name.error("is damaged: it is not what the archive's directory says; pack it again")
