"""Archive readers: the formats of common programs, damaged archives, and zip bombs."""

import contextlib
import gzip
import io
import itertools
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, SupportsIndex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.csv_reader.reasons import MAX_CSV_BYTES
from shared.formats.source_keys import IgnoredFile, UserFile
from tests.archives import (
    DIRECTORY_ENTRY,
    LOCAL_HEADER,
    ArchiveFiles,
    declare_member_size,
    make_link,
    make_overlapping_zip,
    make_special_tar,
    make_streamed_zip,
    make_tar,
    make_tar_gz,
    make_tar_member,
    make_tar_of,
    make_zip,
    mark_zip_encrypted,
    replace_raw_names,
    write_into_zip,
)
from worker.bundles.archive import open_archive
from worker.bundles.members import (
    MAX_CPU_S,
    MAX_MEMBERS,
    MAX_UNCHECKED_IMAGE_BYTES,
    CpuBudget,
    InvalidArchive,
    Member,
    check_count,
)
from worker.bundles.tar_archive import (
    MAX_EXTENDED_HEADERS,
    MAX_HEADER_RECORDS,
    MAX_PATH_LENGTH,
    TarArchive,
    parse_records,
)
from worker.bundles.zip_archive import MAX_DIRECTORY_BYTES, ZipArchive
from worker.source import ranged_file as ranged
from worker.source.ranged_file import RangedFile

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
FILES = {"a/1.csv": b"one", "a/1.png": b"\x89PNG" * 9, "2.csv": b"", "b/notes.txt": b"x", "b/": b""}


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def ranged_file(body: bytes, pool: ThreadPoolExecutor) -> RangedFile:
    return RangedFile(lambda start, end: body[start:end], len(body), pool, MAX_DIRECTORY_BYTES)


def members(key: str, body: bytes, pool: ThreadPoolExecutor, zip_names: str = "") -> list[Member]:
    steps = open_archive(key, ranged_file(body, pool), zip_names).members()
    return [member for member in steps if member]


def paths(key: str, body: bytes, pool: ThreadPoolExecutor) -> list[str]:
    return [member.path for member in members(key, body, pool)]


def refusal(key: str, body: bytes, pool: ThreadPoolExecutor) -> str:
    """Return the reason with which the archive is rejected; it must not quote a path."""
    with pytest.raises(InvalidArchive) as refused:
        members(key, body, pool)
    reason, path = refused.value.reason, refused.value.member_path
    assert not any(path[start : start + 4] in reason for start in range(len(path) - 3))
    return reason


# -- valid archives --------------------------------------------------------------------------------
def archives() -> dict[str, tuple[str, bytes]]:
    """Return valid archives of `FILES`: key and content by a description of the format."""
    files = {path: body for path, body in FILES.items() if not path.endswith("/")}
    with_folder = io.BytesIO()
    with tarfile.open(fileobj=with_folder, mode="w") as archive:
        folder = tarfile.TarInfo("b")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for path, body in files.items():
            info = tarfile.TarInfo(f"./{path}")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    split = gzip.compress(make_tar(files)[:700]) + gzip.compress(make_tar(files)[700:])
    return {
        "zip deflated": ("u.zip", make_zip(FILES)),
        "zip stored": ("u.zip", make_zip(FILES, zipfile.ZIP_STORED)),
        "zip from a pipe": ("u.zip", make_streamed_zip(FILES)),
        "stored zip from a pipe": ("u.zip", make_streamed_zip(FILES, zipfile.ZIP_STORED)),
        "zip with a prefix": ("u.zip", b"#!/bin/sh\n" * 50 + make_zip(FILES)),
        "pax": ("u.tar", make_tar(files)),
        "gnu": ("u.tar", make_tar(files, tarfile.GNU_FORMAT)),
        "ustar": ("u.tar", make_tar(files, tarfile.USTAR_FORMAT)),
        "tar with folders": ("u.tar", with_folder.getvalue()),
        "gzip": ("u.tar.gz", make_tar_gz(files)),
        "gzip named .tar": ("u.tar", make_tar_gz(files)),
        "gzip in two streams": ("u.tgz", split),
        "gzip with padding": ("u.tgz", make_tar_gz(files) + bytes(1000)),
    }


@pytest.mark.parametrize(("key", "body"), archives().values(), ids=archives().keys())
def test_archive_yields_members_of_every_format(
    key: str, body: bytes, pool: ThreadPoolExecutor
) -> None:
    members_by_path = {
        member.path.removeprefix("./"): member for member in members(key, body, pool)
    }
    assert list(members_by_path) == ["a/1.csv", "a/1.png", "2.csv", "b/notes.txt"]
    assert [members_by_path[path].body for path in ("a/1.csv", "a/1.png", "2.csv")] == [
        b"one",
        b"\x89PNG" * 9,
        b"",
    ]
    assert members_by_path["a/1.png"].file == UserFile("1", "png")
    assert isinstance(members_by_path["b/notes.txt"].file, IgnoredFile)


NAMES = st.text("ab/é .", min_size=1, max_size=9).map(lambda name: f"x{name}.csv")


@given(st.dictionaries(NAMES, st.binary(), max_size=5))
def test_archive_returns_any_names_and_bytes(files: dict[str, bytes]) -> None:
    files = {path: body for path, body in files.items() if ".." not in path.split("/")}
    with ThreadPoolExecutor(2) as pool:
        for key, body in (
            ("u.zip", make_zip(files)),
            ("u.tar", make_tar(files)),
            ("u.tgz", make_tar_gz(files)),
        ):
            bodies = {
                member.path: member.body
                for member in members(key, body, pool)
                if isinstance(member.file, UserFile)
            }
            assert bodies == {
                path: body
                for path, body in files.items()
                if not any(part[:1] == "." and part != "." for part in path.split("/"))
            }


def test_archive_larger_than_block_is_read_in_blocks(pool: ThreadPoolExecutor) -> None:
    big = bytes(range(256)) * (ranged.BLOCK_BYTES // 100)
    files = {"1.png": PNG_SIGNATURE + big, "2.png": b"\xff\xd8\xff" + big, "3.csv": b"last"}
    for key, body in (("u.zip", make_zip(files, zipfile.ZIP_STORED)), ("u.tar", make_tar(files))):
        assert [member.body for member in members(key, body, pool)] == list(files.values())


def test_archive_without_members_is_empty(pool: ThreadPoolExecutor) -> None:
    for key, body in (
        ("u.zip", make_zip({})),
        ("u.tar", make_tar({})),
        ("u.tar.gz", make_tar_gz({})),
    ):
        assert members(key, body, pool) == []


def test_zip_archive_supports_zip64(pool: ThreadPoolExecutor) -> None:
    body = make_zip({f"{number}.csv": b"" for number in range(66_000)}, zipfile.ZIP_STORED)
    archive = open_archive("u.zip", ranged_file(body, pool))
    assert archive.member_count == 66_000
    assert sum(1 for _ in archive.members()) == 66_000


def test_tar_archive_reads_extended_header_name(pool: ThreadPoolExecutor) -> None:
    path = "folder/" * 30 + "1.csv"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert paths("u.tar", make_tar({path: b"x"}, form), pool) == [path]


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("é.csv".encode(), "é.csv"),  # UTF-8 without its flag, written by macOS
        (b"a\\1.csv", "a/1.csv"),  # backslashes, written by old versions of .NET
    ],
)
def test_zip_archive_decodes_names_without_utf8_flag(
    raw: bytes, path: str, pool: ThreadPoolExecutor
) -> None:
    name = b"x" * (len(raw) - 4) + b".csv"
    body = replace_raw_names(make_zip({name.decode(): b"x"}), {name: raw})
    assert paths("u.zip", body, pool) == [path]


def test_zip_archive_reads_name_from_unicode_path_field(pool: ThreadPoolExecutor) -> None:
    raw, name = b"\xe4\xf6.csv", "äö.csv".encode()  # Latin-1, and UTF-8 in the extra field
    field = struct.pack("<HHBL", 0x7075, 5 + len(name), 1, zlib.crc32(raw)) + name
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        info = zipfile.ZipInfo("xy.csv")
        info.extra = struct.pack("<HH", 0x9901, 3) + b"abc" + field
        archive.writestr(info, b"x")
    assert paths("u.zip", replace_raw_names(target.getvalue(), {b"xy.csv": raw}), pool) == [
        "äö.csv"
    ]


def test_zip_archive_decodes_names_with_utf8_flag(pool: ThreadPoolExecutor) -> None:
    body = make_zip({"тест.csv": b"", "😀.csv": b""})
    assert paths("u.zip", body, pool) == ["тест.csv", "😀.csv"]


def test_tar_archive_ignores_non_utf8_name(pool: ThreadPoolExecutor) -> None:
    body = make_tar({"x.csv": b"x"}, tarfile.USTAR_FORMAT)
    header = bytearray(body[:512].replace(b"x.csv", b"\xff.csv"))
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (member,) = members("u.tar", bytes(header) + body[512:], pool)
    assert isinstance(member.file, IgnoredFile)
    member.path.encode()


def test_archive_returns_start_of_oversized_csv(pool: ThreadPoolExecutor) -> None:
    files = {"1.csv": b"x" * (MAX_CSV_BYTES + 5), "2.csv": b"y"}
    for key, body in (("u.zip", make_zip(files)), ("u.tar", make_tar(files))):
        assert [len(member.body) for member in members(key, body, pool)] == [MAX_CSV_BYTES + 1, 1]


# -- damaged and unsafe archives -------------------------------------------------------------------
@pytest.mark.parametrize("key", ["u.zip", "u.tar", "u.tar.gz"])
@pytest.mark.parametrize(
    "body", [b"", b"x", b"first_name,last_name\n" * 100, b"PK\x05\x06", b"\x1f\x8b\x08\x00"]
)
def test_archive_refuses_other_file_formats(
    key: str, body: bytes, pool: ThreadPoolExecutor
) -> None:
    assert refusal(key, body, pool).startswith(("it is ", "this is "))


@pytest.mark.parametrize("key", ["u.zip", "u.tar", "u.tar.gz"])
def test_archive_refuses_truncated_file(key: str, pool: ThreadPoolExecutor) -> None:
    files = {"1.csv": b"x" * 600, "2.png": bytes(range(256)) * 9}
    writers = {"u.zip": make_zip, "u.tar": make_tar, "u.tar.gz": make_tar_gz}
    archive = writers[key](files)
    needed = len(archive) if key != "u.tar" else 512 * 10
    for length in range(0, needed - 1, 37):
        refusal(key, archive[:length], pool)


def test_archive_detects_changed_member_byte(pool: ThreadPoolExecutor) -> None:
    files = {"1.csv": b"x" * 100, "2.csv": b"y" * 100}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        body = bytearray(make_zip(files, method))
        body[40] ^= 0xFF
        assert "damaged" in refusal("u.zip", bytes(body), pool)
    body = bytearray(make_tar_gz(files))
    body[40] ^= 0xFF
    refusal("u.tar.gz", bytes(body), pool)


def test_zip_archive_detects_wrong_declared_size(pool: ThreadPoolExecutor) -> None:
    for declared in (0, 10, 1000, 2_000_000):
        body = declare_member_size(make_zip({"1.csv": b"x" * 100}), declared)
        assert "damaged" in refusal("u.zip", body, pool)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_zip_archive_refuses_member_longer_than_declared(
    method: int, pool: ThreadPoolExecutor
) -> None:
    """The declared CRC is that of the declared size, so only the rest of the member is wrong."""
    body = declare_member_size(make_zip({"1.csv": b"x" * 5000}, method), 100)
    crc = struct.pack("<L", zlib.crc32(b"x" * 100))
    body = write_into_zip(body, DIRECTORY_ENTRY, 16, crc)
    assert "damaged" in refusal("u.zip", body, pool)


def test_zip_archive_refuses_other_name_in_local_header(pool: ThreadPoolExecutor) -> None:
    body = write_into_zip(make_zip({"aaaa.csv": b"x"}), LOCAL_HEADER, 30, b"bbbb.png")
    assert refusal("u.zip", body, pool) == (
        "member 1 has another name in its own header than in the directory"
    )


def test_zip_archive_refuses_encryption_in_local_header(pool: ThreadPoolExecutor) -> None:
    body = write_into_zip(make_zip({"1.csv": b"x"}), LOCAL_HEADER, 6, b"\x01")
    assert "damaged" in refusal("u.zip", body, pool)


def test_zip_archive_refuses_local_header_reaching_next_member(pool: ThreadPoolExecutor) -> None:
    """The data begins after the extra field; only the local header declares its length here."""
    files = {"1.csv": b"x" * 100, "2.csv": b"x" * 200}
    body = write_into_zip(make_zip(files, zipfile.ZIP_STORED), LOCAL_HEADER, 28, b"\x50")
    assert "damaged" in refusal("u.zip", body, pool)


def test_zip_archive_refuses_overlapping_members(pool: ThreadPoolExecutor) -> None:
    assert "overlap" in refusal("u.zip", make_overlapping_zip(), pool)


def test_zip_archive_refuses_encrypted_members(pool: ThreadPoolExecutor) -> None:
    assert "encrypted" in refusal("u.zip", mark_zip_encrypted(make_zip({"1.csv": b"x"})), pool)


@pytest.mark.parametrize(
    "path", ["../1.csv", "a/../../1.csv", "/../1.csv", "a/..", "..\\1.csv", "../notes.txt"]
)
def test_archive_refuses_path_outside_root(path: str, pool: ThreadPoolExecutor) -> None:
    assert "leads out" in refusal("u.zip", make_zip({"0.csv": b"", path: b"x"}), pool)
    if "\\" not in path:  # a backslash separates folders only on Windows
        assert "leads out" in refusal("u.tar", make_tar({"0.csv": b"", path: b"x"}), pool)


def test_archive_refusal_numbers_member_and_keeps_path_apart(pool: ThreadPoolExecutor) -> None:
    files = {"b/": b"", "1.csv": b"", "../secret-project.csv": b"x", "2.csv": b""}
    for key, body in (("u.zip", make_zip(files)), ("u.tgz", make_tar_gz(files))):
        with pytest.raises(InvalidArchive) as refused:
            members(key, body, pool)
        assert refused.value.reason == "member 3 has a path that leads out of the archive"
        assert refused.value.member_path == "../secret-project.csv"


@pytest.mark.parametrize("name", ["in.zip", "in.tar", "in.tar.gz", "in.tgz"])
def test_archive_refuses_nested_archive(name: str, pool: ThreadPoolExecutor) -> None:
    files = {"1.csv": b"x", f"more/{name}": make_zip({"2.csv": b"x"})}
    for key, body in (("u.zip", make_zip(files)), ("u.tgz", make_tar_gz(files))):
        assert "another archive" in refusal(key, body, pool)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.LNKTYPE, "link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.GNUTYPE_SPARSE, "holes"),
    ],
)
def test_tar_archive_refuses_links_and_devices(
    kind: bytes, word: str, pool: ThreadPoolExecutor
) -> None:
    assert word in refusal("u.tar", make_special_tar(kind), pool)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (stat.S_IFLNK, "link"),
        (stat.S_IFCHR, "device"),
        (stat.S_IFBLK, "device"),
        (stat.S_IFIFO, "pipe"),
        (stat.S_IFSOCK, "socket"),
    ],
)
def test_zip_archive_refuses_links_and_devices(
    kind: int, word: str, pool: ThreadPoolExecutor
) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        info = zipfile.ZipInfo("1.csv")
        info.external_attr = (kind | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert f"member 1 is a {word}" in refusal("u.zip", target.getvalue(), pool)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_archive_refuses_unsupported_compression_method(
    method: int, pool: ThreadPoolExecutor
) -> None:
    assert f"method {method}" in refusal("u.zip", make_zip({"1.csv": b"x" * 50}, method), pool)


# -- zip bombs and limits --------------------------------------------------------------------------
def test_archive_refuses_compression_ratio_above_hundred(pool: ThreadPoolExecutor) -> None:
    zeros = {f"{number}.png": PNG_SIGNATURE + bytes(60_000_000) for number in range(2)}
    assert "100 times" in refusal("u.zip", make_zip(zeros), pool)
    assert "100 times" in refusal("u.tar.gz", make_tar_gz(zeros), pool)


@pytest.mark.parametrize("kind", ["u.zip", "u.tgz"])
def test_archive_refuses_large_image_that_is_none(kind: str, pool: ThreadPoolExecutor) -> None:
    """100 MB of zeros pack to 97 kB, and would be stored twice."""
    write = make_zip if kind == "u.zip" else make_tar_gz
    reason = refusal(kind, write({"1.csv": b"x", "2.png": bytes(90_000_000)}), pool)
    assert reason == (
        "member 2 is named as an image and has 90,000,000 bytes, but it is no image; leave it out"
    )
    assert members(kind, write({"2.png": bytes(MAX_UNCHECKED_IMAGE_BYTES)}), pool)


@pytest.mark.parametrize(
    "head",
    [
        PNG_SIGNATURE,
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
        b"BM6\0",
        b"II*\0",
        b"MM\0*",
        b"RIFF\n\0\n\0WEBP",
        b"\0\0\0\x18ftypheic",
    ],
)
def test_archive_accepts_large_image_of_any_format(head: bytes, pool: ThreadPoolExecutor) -> None:
    body = head + bytes(MAX_UNCHECKED_IMAGE_BYTES)
    assert [member.body for member in members("u.tgz", make_tar_gz({"1.jpg": body}), pool)] == [
        body
    ]


@pytest.mark.parametrize("kind", ["zip", "tar", "gzip bomb", "tar of folders", "hard links"])
def test_archive_refuses_more_than_its_cpu_budget(kind: str, pool: ThreadPoolExecutor) -> None:
    """All members together are limited; each step of this clock takes a second."""
    files = {f"{number}.csv": b"x" for number in range(1000)}
    folders = make_tar_member("x", b"", tarfile.DIRTYPE) * 1000 + make_tar(files)
    clock = itertools.count().__next__
    read: list[Member | None] = []
    with pytest.raises(InvalidArchive, match="than 60 seconds of processor time; split"):
        match kind:
            case "zip":
                file = ranged_file(make_zip(files), pool)
                read += ZipArchive(file, CpuBudget(1, clock)).members()
            case "tar":
                file = ranged_file(make_tar(files), pool)
                read += TarArchive(file, cpu=CpuBudget(1, clock)).members()
            case "gzip bomb":
                file = ranged_file(gzip.compress(bytes(90_000_000)), pool)
                list(TarArchive(file, cpu=CpuBudget(1, clock)).members())
            case "tar of folders":
                file = ranged_file(folders, pool)
                list(TarArchive(file, cpu=CpuBudget(1, clock)).members())
            case _:  # a link is one header, and its content is parsed like any other
                links = [(make_link(f"{number}.csv", "0.csv"), b"") for number in range(1, 41)]
                body = make_tar_of([(tarfile.TarInfo("0.csv"), b"x"), *links], tarfile.GNU_FORMAT)
                members = TarArchive(ranged_file(body, pool), cpu=CpuBudget(1, clock)).members()
                read += members
    assert len(read) < 100


def test_cpu_budget_grows_with_packed_size() -> None:
    """A bundle of 10 GB may take longer than one of 10 MB."""
    times = iter([5.0, 5.0 + MAX_CPU_S + 10.0, 5.0 + MAX_CPU_S + 10.1])
    budget = CpuBudget(10_000_000, times.__next__)
    budget.check()
    with pytest.raises(InvalidArchive):
        budget.check()


def test_archive_refuses_bomb_in_ignored_member(pool: ThreadPoolExecutor) -> None:
    assert "100 times" in refusal("u.tgz", make_tar_gz({"notes.txt": bytes(120_000_000)}), pool)


def test_archive_refuses_oversized_image(pool: ThreadPoolExecutor) -> None:
    body = make_tar({"1.png": b""})
    huge = tarfile.TarInfo("1.png")
    huge.size = 100_000_001
    packed = huge.tobuf(tarfile.GNU_FORMAT) + body[512:]
    assert "of more than" in refusal("u.tar", packed + b"x" * 2_000_000, pool)


def test_tar_archive_refuses_oversized_extended_header(pool: ThreadPoolExecutor) -> None:
    header = tarfile.TarInfo("x")
    header.type = tarfile.XHDTYPE
    header.size = 8_000_000_000
    assert "extended header" in refusal(
        "u.tar", header.tobuf(tarfile.GNU_FORMAT) + bytes(10_000), pool
    )


SMALL_RECORD = b"5 a=\n"
LONG_NAME = b"x" * 600 + b"\0"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (
            make_tar_member("x", SMALL_RECORD * 200_000, tarfile.XHDTYPE),
            "an extended header has more than 1,000 records",
        ),
        (
            make_tar_member("x", SMALL_RECORD * 100, tarfile.XHDTYPE),
            "a member has more than 2 extended headers",
        ),
        (
            make_tar_member("x", LONG_NAME, tarfile.GNUTYPE_LONGNAME),
            "a member has more than 2 extended headers",
        ),
    ],
    ids=["many records", "many pax headers", "many GNU headers"],
)
def test_tar_archive_refuses_many_headers_in_first_block(
    header: bytes, reason: str, pool: ThreadPoolExecutor
) -> None:
    """A file of 20 MB is refused after one range request, so little of it is parsed."""
    body = header * (20_000_000 // len(header)) + make_tar({"1.csv": b"x"})
    requests: list[int] = []

    def read_range(start: int, end: int) -> bytes:
        requests.append(start)
        return body[start:end]

    file = RangedFile(read_range, len(body), pool, MAX_DIRECTORY_BYTES)
    with pytest.raises(InvalidArchive) as refused:
        list(open_archive("u.tar", file).members())
    assert refused.value.reason == reason
    assert requests == [0]
    assert refusal("u.tgz", gzip.compress(body, 1), pool) == reason


def test_tar_archive_reads_largest_allowed_headers(pool: ThreadPoolExecutor) -> None:
    records = SMALL_RECORD * MAX_HEADER_RECORDS
    headers = make_tar_member("x", records, tarfile.XHDTYPE) * MAX_EXTENDED_HEADERS
    body = (headers + make_tar_member("1.csv", b"x")) * 2 + bytes(1024)
    assert paths("u.tar", body, pool) == ["1.csv", "1.csv"]


def test_tar_archive_limits_records_of_all_headers(pool: ThreadPoolExecutor) -> None:
    header = make_tar_member("x", SMALL_RECORD * 4, tarfile.XHDTYPE)
    body = (header + make_tar_member("1.csv", b"x")) * 3 + bytes(1024)
    assert len(list(TarArchive(ranged_file(body, pool), max_records=12).members())) == 3
    with pytest.raises(InvalidArchive, match="its extended headers have more than 11 records"):
        list(TarArchive(ranged_file(body, pool), max_records=11).members())


def test_tar_archive_limits_paths_of_all_members(pool: ThreadPoolExecutor) -> None:
    path = b"x" * 1_000_000 + b"/1.csv"
    member = make_tar_member("x", path, tarfile.GNUTYPE_LONGNAME) + make_tar_member("1.csv", b"x")
    count = MAX_PATH_LENGTH // len(path)
    assert len(paths("u.tar", member * count + bytes(1024), pool)) == count
    assert "the paths of its members" in refusal("u.tar", member * (count + 1), pool)


@pytest.mark.parametrize(
    "record", [b"5011 size=" + b"9" * 5000 + b"\n", b"11 size=-1\n", b"12 size=1e3\n"]
)
def test_tar_archive_refuses_size_that_is_no_number(
    record: bytes, pool: ThreadPoolExecutor
) -> None:
    header = make_tar_member("x", record, tarfile.XHDTYPE)
    assert refusal("u.tar", header + make_tar({"1.csv": b"x"}), pool) == (
        "the size in an extended header is no number of at most 20 digits"
    )


class CountedBytes(bytes):
    """Bytes that add the length of every slice of them, and of its slices, to `copied`."""

    copied: ClassVar[int] = 0

    def __getitem__(self, key: SupportsIndex | slice) -> Any:  # noqa: ANN401
        piece = super().__getitem__(key)
        if not isinstance(piece, bytes):
            return piece
        CountedBytes.copied += len(piece)
        return CountedBytes(piece)


def test_extended_header_is_parsed_in_linear_time() -> None:
    body = CountedBytes(SMALL_RECORD * 5000)
    CountedBytes.copied = 0
    assert list(parse_records(body)) == [(b"a", b"")] * 5000
    assert CountedBytes.copied <= len(body)


def test_archive_refuses_too_many_members() -> None:
    check_count(MAX_MEMBERS)
    with pytest.raises(InvalidArchive, match="250,000 members"):
        check_count(MAX_MEMBERS + 1)


def test_zip_archive_refuses_oversized_directory(pool: ThreadPoolExecutor) -> None:
    body = make_zip(
        {"x" * 60_000 + f"{number}.csv": b"" for number in range(600)}, zipfile.ZIP_STORED
    )
    assert "directory is larger" in refusal("u.zip", body, pool)


@given(st.sampled_from(["u.zip", "u.tar", "u.tgz"]), st.binary(max_size=2000), st.integers(0, 2000))
def test_archive_reads_or_refuses_any_bytes(key: str, random_bytes: bytes, position: int) -> None:
    write = {"u.zip": make_zip, "u.tar": make_tar, "u.tgz": make_tar_gz}[key]
    archive = write({"a/1.csv": b"x", "1.png": b"y" * 600})
    body = archive[:position] + random_bytes + archive[position + len(random_bytes) :]
    with ThreadPoolExecutor(2) as pool:
        try:
            members(key, body, pool)
        except InvalidArchive as refused:
            assert "\n" not in refused.reason


MEMBERS = {"a/1.csv": b"one" * 50, "1.png": bytes(range(256)) * 40, "é2.csv": b"", "n.txt": b"n"}
CHANGES = st.lists(st.tuples(st.integers(0, 12_000), st.integers(0, 255)), min_size=1, max_size=4)


@given(
    st.sampled_from([make_zip, make_streamed_zip]),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]),
    CHANGES,
)
def test_changed_zip_archive_is_refused_or_intact(
    write: Callable[[ArchiveFiles, int], bytes], method: int, changes: list[tuple[int, int]]
) -> None:
    """Compare with `zipfile`: every member that is read has its size and CRC in the directory."""
    body = bytearray(write(MEMBERS, method))
    for position, value in changes:
        body[position % len(body)] = value
    with ThreadPoolExecutor(2) as pool:
        try:
            found = members("u.zip", bytes(body), pool)
        except InvalidArchive:
            return
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        sizes = [(info.file_size, info.CRC) for info in archive.infolist()]
    for member in found:
        if isinstance(member.file, UserFile):
            assert (len(member.body), zlib.crc32(member.body)) in sizes


LONG_PATHS = st.text("aé/", max_size=30).map(lambda text: f"x{text * 9}x.csv")
PAX_RECORDS = st.dictionaries(st.text("abc.", min_size=1, max_size=5), st.text(max_size=9))


@given(
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.dictionaries(LONG_PATHS, PAX_RECORDS, min_size=1, max_size=3),
    CHANGES,
)
def test_tar_archive_reads_extended_headers_as_tarfile_does(
    tar_format: int, records_by_path: dict[str, dict[str, str]], changes: list[tuple[int, int]]
) -> None:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tar_format) as archive:
        for path, records in records_by_path.items():
            info = tarfile.TarInfo(path)
            info.pax_headers = records
            archive.addfile(info)
    with tarfile.open(fileobj=io.BytesIO(target.getvalue())) as archive:
        expected = archive.getnames()
    changed = bytearray(target.getvalue())
    for position, value in changes:
        changed[position % len(changed)] = value
    with ThreadPoolExecutor(2) as pool:
        assert paths("u.tar", target.getvalue(), pool) == expected
        with contextlib.suppress(InvalidArchive):
            members("u.tar", bytes(changed), pool)
