"""Valid, damaged and hostile archives for tests, in the form that common programs write."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping
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
