"""Members of archives: names in code pages, links, duplicates, and what is ignored."""

import gzip
import stat
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.formats.source_keys import IgnoredFile, UserFile
from tests.archives import (
    RawZipMember,
    make_link,
    make_raw_zip,
    make_tar,
    make_tar_member,
    make_tar_of,
    make_unicode_path_field,
    make_zip,
)
from worker.bundles.archive import open_archive
from worker.bundles.members import (
    MAX_NAMED_MEMBERS,
    IgnoredMembers,
    InvalidArchive,
    Member,
    MemberName,
    SelectedMembers,
)
from worker.bundles.zip_archive import MAX_DIRECTORY_BYTES
from worker.source.ranged_file import RangedFile

UTF8_FLAG = 0x800
NOT_A_USERS = "it is neither a .csv nor an image"


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def read(key: str, body: bytes, pool: ThreadPoolExecutor, zip_names: str = "") -> list[Member]:
    file = RangedFile(lambda start, end: body[start:end], len(body), pool, MAX_DIRECTORY_BYTES)
    return [member for member in open_archive(key, file, zip_names).members() if member]


def read_users(
    key: str, body: bytes, pool: ThreadPoolExecutor, zip_names: str = ""
) -> dict[str, bytes]:
    """Return the content of each user's file by its path."""
    members = read(key, body, pool, zip_names)
    return {member.path: member.body for member in members if isinstance(member.file, UserFile)}


def read_ignored(
    key: str, body: bytes, pool: ThreadPoolExecutor, zip_names: str = ""
) -> dict[str, str]:
    """Return the reason of each ignored member by its path."""
    members = read(key, body, pool, zip_names)
    return {
        member.path: member.file.reason
        for member in members
        if isinstance(member.file, IgnoredFile)
    }


def refusal(key: str, body: bytes, pool: ThreadPoolExecutor, zip_names: str = "") -> str:
    with pytest.raises(InvalidArchive) as refused:
        read(key, body, pool, zip_names)
    return refused.value.reason


# -- names -----------------------------------------------------------------------------------------
LEGACY_NAMES = [
    ("Søren", "cp850"),
    ("Юлия", "cp866"),
    ("Юлия", "cp1251"),
    ("Żaneta", "cp852"),
    ("Renée", "latin-1"),
    ("表示", "shift_jis"),  # the second byte of the first character is a backslash
    ("王芳", "gbk"),
    ("ソ/表", "cp932"),
]


@pytest.mark.parametrize(("name", "codec"), LEGACY_NAMES)
def test_zip_archive_reads_legacy_name_only_by_setting(
    name: str, codec: str, pool: ThreadPoolExecutor
) -> None:
    raw = f"{name}.csv".encode(codec)
    body = make_raw_zip([RawZipMember(b"1.csv", b"one"), RawZipMember(raw, b"two")])
    assert read_users("u.zip", body, pool, codec) == {"1.csv": b"one", f"{name}.csv": b"two"}
    with pytest.raises(InvalidArchive) as refused:
        read("u.zip", body, pool)
    assert refused.value.reason == (
        "member 2 has a name in a legacy code page, which may be any: zip it with UTF-8 names, "
        "or set ZIP_NAMES (for example cp866)"
    )


def test_zip_archive_refuses_name_that_setting_cannot_decode(pool: ThreadPoolExecutor) -> None:
    body = make_raw_zip([RawZipMember(b"\x81.csv", b"x")])
    reason = refusal("u.zip", body, pool, "cp1252")
    assert "member 1 has a name that is neither UTF-8 nor in the code page of ZIP_NAMES" in reason


def test_zip_archive_prefers_declared_names_to_setting(pool: ThreadPoolExecutor) -> None:
    raw = "Юлия.csv".encode("cp866")
    members = [
        RawZipMember("Zoë.csv".encode(), b"flag", UTF8_FLAG),
        RawZipMember(raw, b"field", extra=make_unicode_path_field(raw, "Юлия.csv")),
        RawZipMember("é.csv".encode(), b"valid"),
        RawZipMember(b"1.csv", b"ascii"),
    ]
    expected = {"Zoë.csv": b"flag", "Юлия.csv": b"field", "é.csv": b"valid", "1.csv": b"ascii"}
    for zip_names in ("", "cp850"):
        assert read_users("u.zip", make_raw_zip(members), pool, zip_names) == expected


def test_zip_archive_decodes_all_undeclared_names_alike(pool: ThreadPoolExecutor) -> None:
    """Some names in a code page are valid UTF-8 by chance: the others of the archive show it."""
    by_chance = "сон.csv".encode("cp866")
    assert by_chance.decode() == "ᮭ.csv"
    body = make_raw_zip([RawZipMember(by_chance), RawZipMember("Юлия.csv".encode("cp866"))])
    assert read_users("u.zip", body, pool, "cp866").keys() == {"сон.csv", "Юлия.csv"}
    assert "legacy code page" in refusal("u.zip", body, pool)


@pytest.mark.parametrize("name", ["Übersicht.txt", "#recycle/Søren.csv", "é.CSV"])
def test_zip_archive_ignores_legacy_name_of_other_file(name: str, pool: ThreadPoolExecutor) -> None:
    body = make_raw_zip([RawZipMember(b"1.csv", b"x"), RawZipMember(name.encode("cp850"))])
    assert read_users("u.zip", body, pool) == {"1.csv": b"x"}
    assert len(read_ignored("u.zip", body, pool)) == 1


def test_zip_archive_refuses_legacy_name_of_folder(pool: ThreadPoolExecutor) -> None:
    """A backslash may be part of a character, so the user cannot be known."""
    body = make_raw_zip([RawZipMember("表\\1.csv".encode("shift_jis"), b"x")])
    assert "legacy code page" in refusal("u.zip", body, pool)
    assert read_users("u.zip", body, pool, "shift_jis") == {"表/1.csv": b"x"}


def test_zip_archive_refuses_wrong_utf8_flag(pool: ThreadPoolExecutor) -> None:
    body = make_raw_zip([RawZipMember(b"\xff.csv", b"x", UTF8_FLAG)])
    assert "is marked as UTF-8 and is not" in refusal("u.zip", body, pool)


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_tar_archive_reads_legacy_name_only_by_setting(
    tar_format: int, pool: ThreadPoolExecutor
) -> None:
    infos = [
        (tarfile.TarInfo("Ren\udce9e.csv"), b"x"),
        (tarfile.TarInfo("Zoë.csv"), b"y"),
        (make_link("2.csv", "Ren\udce9e.csv"), b""),
    ]
    body = make_tar_of(infos, tar_format)
    assert read_users("u.tar", body, pool, "latin-1") == {
        "Renée.csv": b"x", "Zoë.csv": b"y", "2.csv": b"x",
    }  # fmt: skip
    assert read_users("u.tar", body, pool) == {"Zoë.csv": b"y", "2.csv": b"x"}
    assert read_ignored("u.tar", body, pool) == {
        "Ren\ufffde.csv": "its name is not UTF-8; pack it with UTF-8 names, or set ZIP_NAMES"
    }


@pytest.mark.parametrize(
    ("path", "user_id"),
    [
        ("/1.csv", "1"),
        ("//server/share/1.csv", "1"),
        ("C:/users/1.csv", "1"),
        ("a:1.csv", "a:1"),
        ("a:b:1.csv", "a:b:1"),
        ("10:30/1.csv", "1"),
        ("https://x/1.csv", "1"),
    ],
)
def test_archive_reads_absolute_paths_and_colons(
    path: str, user_id: str, pool: ThreadPoolExecutor
) -> None:
    for key, body in (
        ("u.zip", make_raw_zip([RawZipMember(path.encode(), b"x")])),
        ("u.tar", make_tar({path: b"x"})),
    ):
        (member,) = read(key, body, pool)
        assert (member.file, member.body) == (UserFile(user_id, "csv"), b"x")


def test_archive_skips_folder_without_slash(pool: ThreadPoolExecutor) -> None:
    members = [RawZipMember(b"users", mode=stat.S_IFDIR), RawZipMember(b"users/1.csv", b"x")]
    assert [member.path for member in read("u.zip", make_raw_zip(members), pool)] == ["users/1.csv"]


# -- members that are no user's file ---------------------------------------------------------------
@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (RawZipMember(b"film.mp4", b"x", method=9), NOT_A_USERS),
        (RawZipMember(b"notes.txt", b"x", method=14), NOT_A_USERS),
        (RawZipMember(b"notes.txt", b"x", flags=1), NOT_A_USERS),
        (RawZipMember(b"now", b"x", mode=stat.S_IFLNK), "it is a link and not a file"),
        (RawZipMember(b"tty", b"", mode=stat.S_IFCHR), "it is a device and not a file"),
        (RawZipMember(b"queue", b"", mode=stat.S_IFIFO), "it is a pipe and not a file"),
        (RawZipMember(b"old.zip", b"x", mode=stat.S_IFLNK), None),
        (RawZipMember(b"#recycle/1.csv", b"x", method=9), "begins with '#'"),
        (RawZipMember(b".trash/old.zip", b"x", flags=1), "begins with '.'"),
        (RawZipMember(b"1.csv ", b"x", method=9), "its name ends with a blank"),
    ],
)
def test_zip_archive_ignores_other_members_of_any_kind(
    member: RawZipMember, reason: str | None, pool: ThreadPoolExecutor
) -> None:
    body = make_raw_zip([member, RawZipMember(b"2.csv", b"two")])
    if reason is None:
        assert "is another archive" in refusal("u.zip", body, pool)
        return
    assert read_users("u.zip", body, pool) == {"2.csv": b"two"}
    assert reason in read_ignored("u.zip", body, pool)[member.name.decode()]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (RawZipMember(b"1.csv", b"x", method=9), (
            "member 1 is packed by Deflate64: Windows Explorer packs files above 2 GB in a way "
            "that is not supported; use 7-Zip or smaller zips"
        )),
        (RawZipMember(b"1.csv", b"x", method=14), "member 1 is packed by method 14"),
        (RawZipMember(b"1.csv", b"x", flags=1), "member 1 is encrypted"),
        (RawZipMember(b"1.csv", b"x", mode=stat.S_IFLNK), "member 1 is a link and not a file"),
        (RawZipMember(b"1.png", b"", mode=stat.S_IFCHR), "member 1 is a device and not a file"),
    ],
)  # fmt: skip
def test_zip_archive_refuses_such_members_as_user_files(
    member: RawZipMember, reason: str, pool: ThreadPoolExecutor
) -> None:
    assert refusal("u.zip", make_raw_zip([member]), pool).startswith(reason)


@pytest.mark.parametrize(
    ("kind", "word"),
    [
        (tarfile.SYMTYPE, "link"),
        (tarfile.CHRTYPE, "device"),
        (tarfile.FIFOTYPE, "pipe"),
        (tarfile.GNUTYPE_SPARSE, "file with holes"),
        (b"M", "part of a file in another volume"),
        (b"Z", "record of an unknown type"),
    ],
)
def test_tar_archive_ignores_special_files_beside_users(
    kind: bytes, word: str, pool: ThreadPoolExecutor
) -> None:
    data = b"" if kind in {tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE} else b"data"
    body = make_tar_member("now", data, kind) + make_tar({"2.csv": b"two"})
    assert read_users("u.tar", body, pool) == {"2.csv": b"two"}
    assert read_ignored("u.tar", body, pool) == {"now": f"it is a {word} and not a file"}
    refused = refusal("u.tar", make_tar_member("1.csv", data, kind), pool)
    assert refused == f"member 1 is a {word} and not a file; pack the file itself, or leave it out"


def test_tar_archive_skips_map_of_sparse_file(pool: ThreadPoolExecutor) -> None:
    """The map is continued in blocks between the header and the data."""
    sparse = bytearray(make_tar_member("disk.img", b"data", tarfile.GNUTYPE_SPARSE))
    sparse[482] = 1
    sparse[148:156] = b" " * 8
    sparse[148:156] = f"{sum(sparse[:512]):06o}\0 ".encode()
    more = bytearray(1024)
    more[504] = 1
    body = bytes(sparse[:512] + more + sparse[512:]) + make_tar({"2.csv": b"two"})
    assert read_users("u.tar", body, pool) == {"2.csv": b"two"}


def test_tar_archive_refuses_sparse_user_file_in_pax_format(pool: ThreadPoolExecutor) -> None:
    records = b"22 GNU.sparse.major=1\n" + b"24 GNU.sparse.name=1.png\n"
    header = make_tar_member("x", records.replace(b"24 ", b"25 "), tarfile.XHDTYPE)
    body = header + make_tar_member("GNUSparseFile.0/1", b"x") + make_tar({"2.csv": b"two"})
    assert "member 1 is a file with holes" in refusal("u.tar", body, pool)
    other = header.replace(b"1.png", b"1.img") + body[len(header) :]
    assert read_users("u.tar", other, pool) == {"2.csv": b"two"}


def test_tar_archive_positions_do_not_count_global_headers(pool: ThreadPoolExecutor) -> None:
    body = make_tar_member("x", b"13 comment=y\n", tarfile.XGLTYPE) + make_tar({"../1.csv": b""})
    assert refusal("u.tar", body, pool).startswith("member 1 has")


# -- hard links ------------------------------------------------------------------------------------
def make_linked_tar(
    entries: Sequence[tuple[str, bytes | str]], tar_format: int = tarfile.PAX_FORMAT
) -> bytes:
    """Return a tar of files (path and content) and hard links (path and path)."""
    infos = []
    for path, content in entries:
        if isinstance(content, str):
            infos.append((make_link(path, content), b""))
        else:
            infos.append((tarfile.TarInfo(path), content))
    return make_tar_of(infos, tar_format)


LONG_FOLDER = "folder" * 30


@pytest.mark.parametrize("tar_format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize("packed", [False, True])
def test_tar_archive_reads_hard_links(
    packed: bool, tar_format: int, pool: ThreadPoolExecutor
) -> None:
    body = make_linked_tar(
        [
            ("data.bin", b"data"),
            (f"{LONG_FOLDER}/1.csv", b"one"),
            ("2.csv", f"./{LONG_FOLDER}/1.csv"),
            ("3.csv", "2.csv"),  # a link to a link
            ("4.png", "data.bin"),
            ("5.csv", b"five"),
            ("5.csv", "5.csv"),  # the same file, packed twice
            ("notes.txt", "5.csv"),
            ("/6.csv", "/5.csv"),
        ],
        tar_format,
    )
    key = "u.tgz" if packed else "u.tar"
    assert read_users(key, gzip.compress(body) if packed else body, pool) == {
        f"{LONG_FOLDER}/1.csv": b"one",
        "2.csv": b"one",
        "3.csv": b"one",
        "4.png": b"data",
        "5.csv": b"five",
        "/6.csv": b"five",
    }


def test_tar_archive_link_has_content_at_its_position(pool: ThreadPoolExecutor) -> None:
    """A newer version of the target that is appended later does not change the link."""
    body = make_linked_tar([("1.csv", b"old"), ("2.csv", "1.csv"), ("1.csv", b"new")])
    assert read_users("u.tar", body, pool) == {"1.csv": b"new", "2.csv": b"old"}


@pytest.mark.parametrize("target", ["1.csv", "later.csv", "../1.csv", "missing.csv"])
def test_tar_archive_refuses_link_without_earlier_target(
    target: str, pool: ThreadPoolExecutor
) -> None:
    ignored = make_linked_tar([("1.txt", target), ("later.csv", b"x")])
    assert read_users("u.tar", ignored, pool) == {"later.csv": b"x"}
    body = make_linked_tar([("1.csv", target), ("later.csv", b"x")])
    reason = refusal("u.tar", body, pool)
    assert reason.startswith("member 1 is a link to a file that is not in the archive before it")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE])
def test_tar_archive_expects_no_data_of_links_and_folders(
    kind: bytes, pool: ThreadPoolExecutor
) -> None:
    """Some archivers write the size of the target, or a limit."""
    info = make_link("now", "1.csv", kind)
    info.size = 700
    body = make_tar_member("1.csv", b"one") + info.tobuf() + make_tar({"2.csv": b"two"})
    assert read_users("u.tar", body, pool) == {"1.csv": b"one", "2.csv": b"two"}


def test_tar_archive_limits_content_of_links(pool: ThreadPoolExecutor) -> None:
    """A link costs a header and unpacks to its target, so it counts as that."""
    image = b"\x89PNG\r\n\x1a\n" + bytes(900_000)
    entries: list[tuple[str, bytes | str]] = [("0.png", image)]
    entries += [(f"{number}.png", "0.png") for number in range(1, 200)]
    assert "100 times" in refusal("u.tgz", gzip.compress(make_linked_tar(entries)), pool)


# -- other formats ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("key", "body", "reason"),
    [
        ("u.zip", b"Rar!\x1a\x07\x01\x00" + bytes(90), "this is a RAR archive; pack the files"),
        ("u.zip", b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(90), "this is a 7z archive; pack the"),
        ("u.zip", make_tar({"1.csv": b"x"}), "this is a tar archive; rename it to .tar"),
        ("u.zip", gzip.compress(b"x"), "this is packed by gzip; if it is a tar, rename it"),
        ("u.zip", b"\n<!DOCTYPE html><p>", "this is a web page (HTML), such as a sign-in page"),
        ("u.tar", b"x" + make_tar({"1.csv": b"x"})[1:], "it is damaged: a header"),
        ("u.zip", b"", "it is empty: it has 0 bytes and no users"),
        ("u.tar", b"", "it is empty: it has 0 bytes and no users"),
        ("u.zip", make_zip({"1.csv": b"x"})[:-9], "it is no zip archive, or it is cut off"),
        ("u.tar", make_zip({"1.csv": b"x" * 900}), "this is a zip archive; rename it to .zip"),
        ("u.tgz", b"\xfd7zXZ\0" + bytes(900), "this is packed by xz; pack it by gzip (.tar.gz)"),
        ("u.tar", b"BZh91AY&SY" + bytes(900), "this is packed by bzip2; pack it by gzip"),
        ("u.tar", b"\x28\xb5\x2f\xfd" + bytes(900), "this is packed by zstd; pack it by gzip"),
        ("u.tgz", gzip.compress(make_tar({})) + b"--end--", "something else follows after the"),
    ],
)
def test_archive_names_other_format_by_first_bytes(
    key: str, body: bytes, reason: str, pool: ThreadPoolExecutor
) -> None:
    assert refusal(key, body, pool).startswith(reason)


def test_tar_archive_reports_second_archive(pool: ThreadPoolExecutor) -> None:
    body = make_tar({"1.csv": b"one"}) + make_tar({"2.csv": b"two"})
    assert read_users("u.tar", body, pool) == {"1.csv": b"one"}
    (reason,) = read_ignored("u.tar", body, pool).values()
    assert reason.startswith("another archive begins after the end of this one")
    assert len(read("u.tar", make_tar({"1.csv": b"one"}) + b"x" * 2000, pool)) == 1


# -- duplicates ------------------------------------------------------------------------------------
def select(paths: Sequence[str]) -> tuple[dict[str, int], list[int]]:
    """Return the number of the selected member by file name, and those of the others."""
    selected = SelectedMembers()
    numbers: dict[str, int] = {}
    others = []
    for number, path in enumerate(paths, 1):
        name = MemberName(number, path)
        duplicate = selected.add(name)
        if duplicate is None or duplicate[0] is not name:
            numbers[path.rpartition("/")[2]] = number
        if duplicate:
            others.append(duplicate[0].number)
    return numbers, others


@pytest.mark.parametrize(
    ("paths", "number", "others"),
    [
        (["1.csv", "old/1.csv"], 1, [2]),
        (["old/1.csv", "1.csv"], 2, [1]),
        (["b/1.csv", "a/1.csv", "c/1.csv"], 2, [1, 3]),
        (["a/b/1.csv", "z/1.csv"], 2, [1]),
        (["1.csv", "./1.csv"], 2, [1]),  # a newer version of the same path
        (["a/1.csv", "/a//1.csv", "b/1.csv"], 2, [1, 3]),
        (["1.csv", "1.png", "1.jpg"], 1, []),
    ],
)
def test_selected_members_prefer_top_then_first_by_path(
    paths: list[str], number: int, others: list[int]
) -> None:
    numbers, found = select(paths)
    assert (numbers["1.csv"], found) == (number, others)


def test_selected_members_keep_later_version_in_any_order() -> None:
    """Hard links are read last, although a later member may have the same path."""
    selected = SelectedMembers()
    newer = MemberName(7, "1.csv")
    older = MemberName(3, "1.csv")
    assert selected.add(newer) is None
    duplicate = selected.add(older)
    assert duplicate is not None
    assert duplicate[0] is older


@pytest.mark.parametrize(
    "folder",
    ["a\nERROR all is lost", "\x1b[2J", "\udcff", "a/" * 50_000],
    ids=lambda folder: ascii(folder[:12]),
)
def test_selected_members_explain_duplicate_on_one_short_line(folder: str) -> None:
    """The reason is logged, stored in Redis, and printed by the loader."""
    selected = SelectedMembers()
    assert selected.add(MemberName(1, f"{folder}/1.csv")) is None
    duplicate = selected.add(MemberName(2, f"{folder}/z/1.csv"))
    assert duplicate is not None
    reason = duplicate[1].reason
    assert (len(reason.splitlines()), len(reason) < 1100) == (1, True)
    assert "\x1b" not in reason
    reason.encode()


def test_ignored_members_name_twenty_with_junk_last() -> None:
    ignored = IgnoredMembers()
    for number in range(1, 31):
        ignored.add(MemberName(number, f"._{number}.csv"), IgnoredFile("junk", is_junk=True))
    for number in range(31, 34):
        ignored.add(MemberName(number, "n" * 500 + ".txt"), IgnoredFile("other"))
    named = ignored.list_named()
    assert (ignored.count, len(named)) == (33, MAX_NAMED_MEMBERS)
    assert [member.number for member in named[:4]] == [31, 32, 33, 1]
    assert max(len(member.path) for member in named) == 200
