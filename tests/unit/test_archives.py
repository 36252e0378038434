"""Archive readers: the formats of common programs, damaged archives, and zip bombs."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.keys import Ignored, UserFile
from tests.archives import (
    encrypted,
    overlapping,
    tar_gz_of,
    tar_of,
    tar_with,
    with_declared_size,
    with_raw_names,
    zip_of,
)
from worker import ranged
from worker.archive import MOST_MEMBERS, InvalidArchive, Member, check_count
from worker.ranged import RangedFile
from worker.unpack import open_archive
from worker.user_csv import MAX_CSV_BYTES
from worker.zip_archive import MOST_DIRECTORY_BYTES

FILES = {"a/1.csv": b"one", "a/1.png": b"\x89PNG" * 9, "2.csv": b"", "b/notes.txt": b"x", "b/": b""}


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def ranged_file(body: bytes, pool: ThreadPoolExecutor) -> RangedFile:
    return RangedFile(lambda start, end: body[start:end], len(body), pool, MOST_DIRECTORY_BYTES)


def members(key: str, body: bytes, pool: ThreadPoolExecutor) -> list[Member]:
    return list(open_archive(key, ranged_file(body, pool)).members())


def paths(key: str, body: bytes, pool: ThreadPoolExecutor) -> list[str]:
    return [member.path for member in members(key, body, pool)]


def refusal(key: str, body: bytes, pool: ThreadPoolExecutor) -> str:
    """Return the reason with which the archive is rejected."""
    with pytest.raises(InvalidArchive) as refused:
        members(key, body, pool)
    return refused.value.reason


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
    split = gzip.compress(tar_of(files)[:700]) + gzip.compress(tar_of(files)[700:])
    return {
        "zip deflated": ("u.zip", zip_of(FILES)),
        "zip stored": ("u.zip", zip_of(FILES, zipfile.ZIP_STORED)),
        "zip with a prefix": ("u.zip", b"#!/bin/sh\n" * 50 + zip_of(FILES)),
        "pax": ("u.tar", tar_of(files)),
        "gnu": ("u.tar", tar_of(files, tarfile.GNU_FORMAT)),
        "ustar": ("u.tar", tar_of(files, tarfile.USTAR_FORMAT)),
        "tar with folders": ("u.tar", with_folder.getvalue()),
        "gzip": ("u.tar.gz", tar_gz_of(files)),
        "gzip named .tar": ("u.tar", tar_gz_of(files)),
        "gzip in two streams": ("u.tgz", split),
        "gzip with padding": ("u.tgz", tar_gz_of(files) + bytes(1000)),
    }


@pytest.mark.parametrize(("key", "body"), archives().values(), ids=archives().keys())
def test_every_kind_of_archive_gives_its_members(key: str, body: bytes, pool: ThreadPoolExecutor) -> None:
    found = {member.path.removeprefix("./"): member for member in members(key, body, pool)}
    assert list(found) == ["a/1.csv", "a/1.png", "2.csv", "b/notes.txt"]
    assert [found[path].body for path in ("a/1.csv", "a/1.png", "2.csv")] == [b"one", b"\x89PNG" * 9, b""]
    assert found["a/1.png"].file == UserFile("1", "png")
    assert isinstance(found["b/notes.txt"].file, Ignored)


NAMES = st.text("ab/é .", min_size=1, max_size=9).map(lambda name: f"x{name}.csv")


@given(st.dictionaries(NAMES, st.binary(), max_size=5))
def test_any_names_and_bytes_come_back(files: dict[str, bytes]) -> None:
    files = {path: body for path, body in files.items() if ".." not in path.split("/")}
    with ThreadPoolExecutor(2) as pool:
        for key, body in (("u.zip", zip_of(files)), ("u.tar", tar_of(files)), ("u.tgz", tar_gz_of(files))):
            mine = (member for member in members(key, body, pool) if isinstance(member.file, UserFile))
            wanted = {path: body for path, body in files.items() if not path.endswith("/.csv")}
            assert {member.path: member.body for member in mine} == wanted


def test_an_archive_larger_than_a_block_is_read_in_blocks(pool: ThreadPoolExecutor) -> None:
    big = bytes(range(256)) * (ranged.BLOCK_BYTES // 100)
    files = {"1.png": big, "2.png": big[::-1], "3.csv": b"last"}
    for key, body in (("u.zip", zip_of(files, zipfile.ZIP_STORED)), ("u.tar", tar_of(files))):
        assert [member.body for member in members(key, body, pool)] == list(files.values())


def test_an_empty_archive_has_no_members(pool: ThreadPoolExecutor) -> None:
    for key, body in (("u.zip", zip_of({})), ("u.tar", tar_of({})), ("u.tar.gz", tar_gz_of({}))):
        assert members(key, body, pool) == []


def test_a_zip_of_more_than_65535_members_is_zip64(pool: ThreadPoolExecutor) -> None:
    body = zip_of({f"{number}.csv": b"" for number in range(66_000)}, zipfile.ZIP_STORED)
    archive = open_archive("u.zip", ranged_file(body, pool))
    assert archive.total == 66_000
    assert sum(1 for _ in archive.members()) == 66_000


def test_a_long_name_is_read_from_an_extended_header(pool: ThreadPoolExecutor) -> None:
    path = "folder/" * 30 + "1.csv"
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        assert paths("u.tar", tar_of({path: b"x"}, form), pool) == [path]


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"\x82.csv", "é.csv"),  # CP437, written by zip on DOS
        ("é.csv".encode(), "é.csv"),  # UTF-8 without its flag, written by macOS
        (b"a\\1.csv", "a/1.csv"),  # backslashes, written by old versions of .NET
    ],
)
def test_names_without_the_flag_for_utf8_are_understood(raw: bytes, path: str, pool: ThreadPoolExecutor) -> None:
    name = b"x" * (len(raw) - 4) + b".csv"
    body = with_raw_names(zip_of({name.decode(): b"x"}), {name: raw})
    assert paths("u.zip", body, pool) == [path]


def test_names_with_the_flag_are_utf8(pool: ThreadPoolExecutor) -> None:
    assert paths("u.zip", zip_of({"тест.csv": b"", "😀.csv": b""}), pool) == ["тест.csv", "😀.csv"]


def test_a_name_that_is_not_utf8_in_a_tar_is_ignored(pool: ThreadPoolExecutor) -> None:
    body = tar_of({"x.csv": b"x"}, tarfile.USTAR_FORMAT)
    header = bytearray(body[:512].replace(b"x.csv", b"\xff.csv"))
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    (member,) = members("u.tar", bytes(header) + body[512:], pool)
    assert isinstance(member.file, Ignored)
    member.path.encode()


def test_of_a_csv_that_is_too_large_the_beginning_is_kept(pool: ThreadPoolExecutor) -> None:
    files = {"1.csv": b"x" * (MAX_CSV_BYTES + 5), "2.csv": b"y"}
    for key, body in (("u.zip", zip_of(files)), ("u.tar", tar_of(files))):
        assert [len(member.body) for member in members(key, body, pool)] == [MAX_CSV_BYTES + 1, 1]


# -- damaged and unsafe archives -------------------------------------------------------------------
@pytest.mark.parametrize("key", ["u.zip", "u.tar", "u.tar.gz"])
@pytest.mark.parametrize("body", [b"", b"x", b"first_name,last_name\n" * 100, b"PK\x05\x06", b"\x1f\x8b\x08\x00"])
def test_what_is_no_archive_is_refused(key: str, body: bytes, pool: ThreadPoolExecutor) -> None:
    assert refusal(key, body, pool).startswith("it is ")


@pytest.mark.parametrize("key", ["u.zip", "u.tar", "u.tar.gz"])
def test_what_is_cut_off_anywhere_is_refused(key: str, pool: ThreadPoolExecutor) -> None:
    files = {"1.csv": b"x" * 600, "2.png": bytes(range(256)) * 9}
    whole = zip_of(files) if key == "u.zip" else tar_of(files) if key == "u.tar" else tar_gz_of(files)
    needed = len(whole) if key != "u.tar" else 512 * 10
    for length in range(0, needed - 1, 37):
        refusal(key, whole[:length], pool)


def test_a_flipped_byte_of_a_member_is_found(pool: ThreadPoolExecutor) -> None:
    files = {"1.csv": b"x" * 100, "2.csv": b"y" * 100}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        body = bytearray(zip_of(files, method))
        body[40] ^= 0xFF
        assert "damaged" in refusal("u.zip", bytes(body), pool)
    body = bytearray(tar_gz_of(files))
    body[40] ^= 0xFF
    refusal("u.tar.gz", bytes(body), pool)


def test_a_member_that_is_not_as_long_as_declared_is_found(pool: ThreadPoolExecutor) -> None:
    for declared in (0, 10, 1000, 2_000_000):
        body = with_declared_size(zip_of({"1.csv": b"x" * 100}), declared)
        assert "damaged" in refusal("u.zip", body, pool)


def test_members_that_share_bytes_are_refused(pool: ThreadPoolExecutor) -> None:
    assert "overlap" in refusal("u.zip", overlapping(), pool)


def test_an_encrypted_zip_is_refused(pool: ThreadPoolExecutor) -> None:
    assert "encrypted" in refusal("u.zip", encrypted(zip_of({"1.csv": b"x"})), pool)


@pytest.mark.parametrize("path", ["../1.csv", "a/../../1.csv", "/etc/1.csv", "C:/1.csv", "a/..", "..\\1.csv"])
def test_a_path_that_leads_out_is_refused(path: str, pool: ThreadPoolExecutor) -> None:
    assert "leads out" in refusal("u.zip", zip_of({"0.csv": b"", path: b"x"}), pool)
    if "\\" not in path:  # a backslash separates folders only on Windows
        assert "leads out" in refusal("u.tar", tar_of({"0.csv": b"", path: b"x"}), pool)


@pytest.mark.parametrize("name", ["in.zip", "in.tar", "in.tar.gz", "in.tgz"])
def test_an_archive_in_an_archive_is_refused(name: str, pool: ThreadPoolExecutor) -> None:
    files = {"1.csv": b"x", f"more/{name}": zip_of({"2.csv": b"x"})}
    for key, body in (("u.zip", zip_of(files)), ("u.tgz", tar_gz_of(files))):
        assert "another archive" in refusal(key, body, pool)


@pytest.mark.parametrize(
    ("kind", "word"),
    [(tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.CHRTYPE, "device"), (tarfile.FIFOTYPE, "pipe"),
     (tarfile.GNUTYPE_SPARSE, "holes")],
)  # fmt: skip
def test_links_and_devices_are_refused(kind: bytes, word: str, pool: ThreadPoolExecutor) -> None:
    assert word in refusal("u.tar", tar_with(kind), pool)


def test_a_link_in_a_zip_is_refused(pool: ThreadPoolExecutor) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        info = zipfile.ZipInfo("1.csv")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    assert "link" in refusal("u.zip", target.getvalue(), pool)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_method_that_nobody_uses_is_refused_by_its_number(method: int, pool: ThreadPoolExecutor) -> None:
    assert f"method {method}" in refusal("u.zip", zip_of({"1.csv": b"x" * 50}, method), pool)


# -- zip bombs and limits --------------------------------------------------------------------------
def test_what_unpacks_to_a_hundred_times_its_size_is_refused(pool: ThreadPoolExecutor) -> None:
    zeros = {"1.png": bytes(60_000_000), "2.png": bytes(60_000_000)}
    assert "100 times" in refusal("u.zip", zip_of(zeros), pool)
    assert "100 times" in refusal("u.tar.gz", tar_gz_of(zeros), pool)


def test_a_bomb_in_a_file_that_is_nobodys_is_refused_too(pool: ThreadPoolExecutor) -> None:
    assert "100 times" in refusal("u.tgz", tar_gz_of({"notes.txt": bytes(120_000_000)}), pool)


def test_an_image_larger_than_a_hundred_megabytes_is_refused(pool: ThreadPoolExecutor) -> None:
    body = tar_of({"1.png": b""})
    huge = tarfile.TarInfo("1.png")
    huge.size = 100_000_001
    packed = huge.tobuf(tarfile.GNU_FORMAT) + body[512:]
    assert "larger than" in refusal("u.tar", packed + b"x" * 2_000_000, pool)


def test_a_huge_extended_header_is_not_read(pool: ThreadPoolExecutor) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 8_000_000_000
    assert "extended header" in refusal("u.tar", header.tobuf(tarfile.GNU_FORMAT) + bytes(10_000), pool)


def test_too_many_members_are_refused() -> None:
    check_count(MOST_MEMBERS)
    with pytest.raises(InvalidArchive, match="250,000 members"):
        check_count(MOST_MEMBERS + 1)


def test_a_directory_that_is_too_large_is_not_read(pool: ThreadPoolExecutor) -> None:
    body = zip_of({"x" * 60_000 + f"{number}.csv": b"" for number in range(600)}, zipfile.ZIP_STORED)
    assert "directory is larger" in refusal("u.zip", body, pool)


@given(st.sampled_from(["u.zip", "u.tar", "u.tgz"]), st.binary(max_size=2000), st.integers(0, 2000))
def test_whatever_the_bytes_an_archive_is_read_or_refused(key: str, noise: bytes, place: int) -> None:
    make = {"u.zip": zip_of, "u.tar": tar_of, "u.tgz": tar_gz_of}[key]
    whole = make({"a/1.csv": b"x", "1.png": b"y" * 600})
    body = whole[:place] + noise + whole[place + len(noise) :]
    with ThreadPoolExecutor(2) as pool:
        try:
            members(key, body, pool)
        except InvalidArchive as refused:
            assert "\n" not in refused.reason
