"""Valid, damaged and hostile archives for tests, in the form that common programs write."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping

ArchiveFiles = Mapping[str, bytes]


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


def mark_zip_encrypted(body: bytes) -> bytes:
    """Return the zip with the encryption flag set on all members, as 7-Zip and Info-ZIP set it."""
    archive_bytes = bytearray(body)
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        position = archive_bytes.find(signature)
        while position >= 0:
            flags = struct.unpack_from("<H", archive_bytes, position + offset)[0]
            struct.pack_into("<H", archive_bytes, position + offset, flags | 1)
            position = archive_bytes.find(signature, position + 4)
    return bytes(archive_bytes)


def declare_member_size(body: bytes, size: int) -> bytes:
    """Return the zip with a wrong unpacked size in both headers of its first member."""
    archive_bytes = bytearray(body)
    struct.pack_into("<L", archive_bytes, archive_bytes.find(b"PK\x03\x04") + 22, size)
    struct.pack_into("<L", archive_bytes, archive_bytes.find(b"PK\x01\x02") + 24, size)
    return bytes(archive_bytes)


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
