"""Valid, damaged and hostile archives for tests, in the form that common programs write."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ArchiveFiles = Mapping[str, bytes]
LOCAL_HEADER = b"PK\x03\x04"
DIRECTORY_ENTRY = b"PK\x01\x02"


def make_zip(files: ArchiveFiles, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip with these members, in this order."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for path, body in files.items():
            archive.writestr(path, body)
    return target.getvalue()


@dataclass(frozen=True)
class RawZipMember:
    """A member of a zip as any program may write it: name and header fields as they are.

    `mode` is the Unix mode, and `packed` replaces the data of methods that are not deflate.
    """

    name: bytes
    body: bytes = b""
    flags: int = 0
    method: int = zipfile.ZIP_DEFLATED
    mode: int = 0
    extra: bytes = b""
    packed: bytes = b"not deflated"


def make_raw_zip(members: Sequence[RawZipMember]) -> bytes:
    """Return a zip with these members, in this order."""
    content = bytearray()
    directory = bytearray()
    for member in members:
        packed = member.packed
        if member.method == zipfile.ZIP_DEFLATED:
            packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            packed = packer.compress(member.body) + packer.flush()
        lengths = len(member.name), len(member.extra)
        sizes = zlib.crc32(member.body), len(packed), len(member.body)
        fields = 20, member.flags, member.method, 0, 0x21, *sizes, *lengths
        offset = len(content)
        content += LOCAL_HEADER + struct.pack("<5H3L2H", *fields)
        content += member.name + member.extra + packed
        directory += DIRECTORY_ENTRY + struct.pack("<H5H3L2H", 20, *fields)
        directory += struct.pack("<3H2L", 0, 0, 0, member.mode << 16, offset)
        directory += member.name + member.extra
    count = len(members)
    end = struct.pack("<4H2LH", 0, 0, count, count, len(directory), len(content), 0)
    return bytes(content + directory) + b"PK\x05\x06" + end


def make_unicode_path_field(raw_name: bytes, name: str) -> bytes:
    """Return Info-ZIP's extra field 0x7075, which has the name in UTF-8."""
    encoded = name.encode()
    return struct.pack("<HHBL", 0x7075, 5 + len(encoded), 1, zlib.crc32(raw_name)) + encoded


def make_tar_of(infos: Sequence[tuple[tarfile.TarInfo, bytes]], tar_format: int) -> bytes:
    """Return a tar with these headers and bodies, in this order."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tar_format) as archive:
        for info, body in infos:
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return target.getvalue()


def make_link(path: str, target: str, kind: bytes = tarfile.LNKTYPE) -> tarfile.TarInfo:
    """Return the header of a hard link, or of another kind of link."""
    info = tarfile.TarInfo(path)
    info.type = kind
    info.linkname = target
    return info


def make_tar(files: ArchiveFiles, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar with these members, in this order."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tar_format) as archive:
        for path, body in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return target.getvalue()


def make_tar_gz(files: ArchiveFiles) -> bytes:
    """Return a tar with these members, compressed by gzip."""
    return gzip.compress(make_tar(files))


def make_special_tar(kind: bytes, path: str = "1.csv", target: str = "/etc/passwd") -> bytes:
    """Return a tar with one member of the type `kind`, such as a link or a device."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo(path)
        info.type = kind
        info.linkname = target
        archive.addfile(info)
    return buffer.getvalue()


def make_tar_member(name: str, body: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return the header and the data of one tar member, or one extended header."""
    info = tarfile.TarInfo(name)
    info.type = kind
    info.size = len(body)
    return info.tobuf(tarfile.GNU_FORMAT) + body + bytes(-len(body) % tarfile.BLOCKSIZE)


def mark_zip_encrypted(body: bytes) -> bytes:
    """Return the zip with the encryption flag set on all members, as 7-Zip and Info-ZIP set it."""
    archive_bytes = bytearray(body)
    for signature, offset in ((LOCAL_HEADER, 6), (DIRECTORY_ENTRY, 8)):
        position = archive_bytes.find(signature)
        while position >= 0:
            flags = struct.unpack_from("<H", archive_bytes, position + offset)[0]
            struct.pack_into("<H", archive_bytes, position + offset, flags | 1)
            position = archive_bytes.find(signature, position + 4)
    return bytes(archive_bytes)


def declare_member_size(body: bytes, size: int) -> bytes:
    """Return the zip with a wrong unpacked size in both headers of its first member."""
    for mark, offset in ((LOCAL_HEADER, 22), (DIRECTORY_ENTRY, 24)):
        body = write_into_zip(body, mark, offset, struct.pack("<L", size))
    return body


def write_into_zip(body: bytes, mark: bytes, offset: int, new: bytes) -> bytes:
    """Return the zip with `new` written at an offset from the first record with this signature."""
    position = body.find(mark) + offset
    return body[:position] + new + body[position + len(new) :]


def make_streamed_zip(files: ArchiveFiles, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip as it is written to a pipe: sizes and CRC follow the data of each member."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.written = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: "ReadableBuffer") -> int:
            self.written += data
            return memoryview(data).nbytes

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", method) as archive:
        for path, body in files.items():
            archive.writestr(path, body)
    return bytes(pipe.written)


def replace_raw_names(body: bytes, names: Mapping[bytes, bytes]) -> bytes:
    """Return the zip with the names of members replaced, without the UTF-8 flag.

    A new name must have the length of the old one.
    """
    for old, new in names.items():
        assert len(old) == len(new)
        body = body.replace(old, new)
    return body


def make_overlapping_zip() -> bytes:
    """Return a zip with two directory entries for the bytes of one member."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("1.csv", b"x" * 1000)
        archive.writestr("2.csv", b"x" * 1000)
        archive.infolist()[1].header_offset = archive.infolist()[0].header_offset
        archive.infolist()[1].orig_filename = archive.infolist()[0].orig_filename
    return target.getvalue()
