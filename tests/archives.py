"""Valid, damaged and hostile archives for tests, in the form that common programs write."""

import gzip
import io
import struct
import tarfile
import zipfile
from collections.abc import Mapping

Files = Mapping[str, bytes]


def zip_of(files: Files, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return a zip with these members, in this order."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for path, body in files.items():
            archive.writestr(path, body)
    return target.getvalue()


def tar_of(files: Files, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return a tar with these members, in this order."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for path, body in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return target.getvalue()


def tar_gz_of(files: Files) -> bytes:
    """Return a tar with these members, compressed by gzip."""
    return gzip.compress(tar_of(files))


def tar_with(kind: bytes, path: str = "1.csv", target: str = "/etc/passwd") -> bytes:
    """Return a tar with one member of the type `kind`, such as a link or a device."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo(path)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return out.getvalue()


def encrypted(body: bytes) -> bytes:
    """Return the zip with the encryption flag set on all members, as 7-Zip and Info-ZIP set it."""
    changed = bytearray(body)
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = changed.find(mark)
        while place >= 0:
            flags = struct.unpack_from("<H", changed, place + offset)[0]
            struct.pack_into("<H", changed, place + offset, flags | 1)
            place = changed.find(mark, place + 4)
    return bytes(changed)


def with_declared_size(body: bytes, size: int) -> bytes:
    """Return the zip with a wrong unpacked size in both headers of its first member."""
    changed = bytearray(body)
    struct.pack_into("<L", changed, changed.find(b"PK\x03\x04") + 22, size)
    struct.pack_into("<L", changed, changed.find(b"PK\x01\x02") + 24, size)
    return bytes(changed)


def with_raw_names(body: bytes, names: Mapping[bytes, bytes]) -> bytes:
    """Return the zip with the names of members replaced, without the UTF-8 flag.

    A new name must have the length of the old one.
    """
    for old, new in names.items():
        assert len(old) == len(new)
        body = body.replace(old, new)
    return body


def overlapping() -> bytes:
    """Return a zip with two directory entries for the bytes of one member."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("1.csv", b"x" * 1000)
        archive.writestr("2.csv", b"x" * 1000)
        archive.infolist()[1].header_offset = archive.infolist()[0].header_offset
        archive.infolist()[1].orig_filename = archive.infolist()[0].orig_filename
    return target.getvalue()
