"""Generated archives: an independent reader agrees with the product on every one.

The reader uses only `zipfile`, `tarfile` and the rules in docs/formats.md.
"""

import gzip
import hashlib
import io
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import cast

import hypothesis
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.formats.bundle_catalog import BundleCatalog
from shared.formats.records import ValidCsv
from shared.progress.leases import Lease
from tests.archives import (
    RawZipMember,
    make_link,
    make_raw_zip,
    make_tar_of,
    make_unicode_path_field,
)
from tests.factories import make_csv_body
from tests.fakes import FakeObjectStore
from tests.faults.case_form import CaseForm
from worker.bundles.catalog import BundleRules
from worker.bundles.index import BundleIndex, make_index_key
from worker.bundles.members import InvalidArchive
from worker.bundles.unpacked_folders import UnpackedFolders
from worker.jobs.entry_builder import ArchiveUnpacker

JUNK_STARTS = tuple(".~#@$")
JUNK_NAMES = {"lost+found", "__pycache__", "node_modules"}
JUNK_NAMES_IN_ANY_CASE = {"system volume information", "__macosx", "thumbs.db"}
EXTENSIONS = ("csv", "png", "jpg", "jpeg")
BUNDLE_ENDS = (".zip", ".tar", ".tar.gz", ".tgz")
UTF8_FLAG = 0x800
CODECS = ["cp866", "cp850", "cp1251", "latin-1", "shift_jis", "gbk"]


class Refused(Exception):
    """The independent reader rejects the archive."""


@dataclass
class Entry:
    """A member as the independent reader sees it. `path` is None if it cannot be decoded.

    `plain` is the path with "?" for what cannot be decoded. `is_usable`: a file of a kind and
    packing that is read.
    """

    number: int
    path: str | None
    plain: str
    body: bytes
    is_usable: bool


@dataclass
class Content:
    """What the archive gives: MD5 of the CSV, and extension and MD5 of the image, by user."""

    csvs: dict[str, str] = field(default_factory=dict)
    images: dict[str, tuple[str, str]] = field(default_factory=dict)
    ignored: set[int] = field(default_factory=set)


# -- the independent reader ------------------------------------------------------------------------
def apply_rules(entries: list[Entry]) -> Content:
    content = Content()
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        if ".." in entry.plain.split("/"):
            raise Refused("leads out")
        parts = split(entry.plain)
        if any(map(is_junk, parts)):
            content.ignored.add(entry.number)
            continue
        name = entry.plain.split("/")[-1]
        is_clean = not any(ord(character) < 32 or ord(character) == 127 for character in name)
        stem, _, extension = name.rpartition(".")
        if is_clean and stem and extension in EXTENSIONS and len(name.encode()) <= 255:
            if entry.path is None or not entry.is_usable:
                raise Refused("not readable")
            groups.setdefault(name, []).append(entry)
        elif is_clean and any(name.endswith(end) and name != end for end in BUNDLE_ENDS):
            raise Refused("archive in an archive")
        else:
            content.ignored.add(entry.number)
    for name, group in groups.items():
        top = min((len(split(entry.plain)), "/".join(split(entry.plain))) for entry in group)
        same_path = [entry for entry in group if "/".join(split(entry.plain)) == top[1]]
        winner = max(same_path, key=lambda entry: entry.number)
        content.ignored |= {entry.number for entry in group if entry is not winner}
        stem, _, extension = name.rpartition(".")
        digest = hashlib.md5(winner.body, usedforsecurity=False).hexdigest()
        if extension == "csv":
            content.csvs[stem] = digest
        else:
            current = content.images.get(stem)
            if current is None or EXTENSIONS.index(extension) < EXTENSIONS.index(current[0]):
                content.images[stem] = extension, digest
    return content


def split(path: str) -> list[str]:
    return [part for part in path.split("/") if part and part != "."]


def is_junk(part: str) -> bool:
    return (
        part.startswith(JUNK_STARTS) or part in JUNK_NAMES or part.lower() in JUNK_NAMES_IN_ANY_CASE
    )


def read_zip(body: bytes, zip_names: str) -> Content:
    archive = zipfile.ZipFile(io.BytesIO(body))
    infos = archive.infolist()
    raws = [
        info.orig_filename.encode("utf-8" if info.flag_bits & UTF8_FLAG else "cp437")
        for info in infos
    ]
    fields = [find_field(info.extra, raw) for info, raw in zip(infos, raws, strict=True)]
    undeclared = [
        raw
        for info, raw, name in zip(infos, raws, fields, strict=True)
        if not info.flag_bits & UTF8_FLAG and name is None
    ]
    are_utf8 = all(can_decode(raw, "utf-8") for raw in undeclared)
    entries = []
    for number, (info, raw, name) in enumerate(zip(infos, raws, fields, strict=True), 1):
        if info.flag_bits & UTF8_FLAG or raw.isascii():
            path: str | None = raw.decode()
        elif name is not None:
            path = name
        else:
            codec = "utf-8" if are_utf8 else zip_names
            path = raw.decode(codec) if codec and can_decode(raw, codec) else None
        if path is None:
            plain = "".join(chr(byte) if byte < 128 else "?" for byte in raw)
        else:
            path = plain = path.replace("\\", "/")
        mode = info.external_attr >> 16
        is_special = stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}
        is_usable = info.compress_type in {0, 8} and not info.flag_bits & 1 and not is_special
        if plain.endswith("/"):
            continue
        data = archive.read(info) if is_usable else b""
        entries.append(Entry(number, path, plain, data, is_usable))
    return apply_rules(entries)


def find_field(extra: bytes, raw: bytes) -> str | None:
    if raw.isascii() or extra[:2] != b"\x75\x70":
        return None
    is_current = int.from_bytes(extra[5:9], "little") == zlib.crc32(raw)
    return extra[9 : 4 + int.from_bytes(extra[2:4], "little")].decode() if is_current else None


def can_decode(raw: bytes, codec: str) -> bool:
    try:
        raw.decode(codec)
    except UnicodeDecodeError:
        return False
    return True


def read_tar(body: bytes, zip_names: str) -> Content:
    entries: list[Entry] = []
    found: dict[str, bytes] = {}
    with tarfile.open(fileobj=io.BytesIO(body), errors="surrogateescape") as archive:
        for number, info in enumerate(archive.getmembers(), 1):
            path = decode_tar_name(info.name, zip_names)
            place = "/".join(split(path))
            content: bytes | None = None
            if info.isreg():
                stream = archive.extractfile(info)
                content = stream.read() if stream else b""
            elif info.islnk():
                target = "/".join(split(decode_tar_name(info.linkname, zip_names)))
                content = found.get(target)
            elif info.isdir():
                continue
            if content is not None:
                found[place] = content
            plain = path.encode(errors="surrogateescape").decode(errors="replace")
            if can_encode(path.split("/")[-1]):
                entries.append(Entry(number, plain, plain, content or b"", content is not None))
            else:  # such a member of a tar is ignored
                plain = plain.rpartition("/")[0] + "/x"
                entries.append(Entry(number, plain, plain, b"", is_usable=True))
    return apply_rules(entries)


def decode_tar_name(name: str, zip_names: str) -> str:
    raw = name.encode(errors="surrogateescape")
    if can_encode(name) or not zip_names or not can_decode(raw, zip_names):
        return name
    return raw.decode(zip_names)


def can_encode(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)


# -- the product -----------------------------------------------------------------------------------
class StubLease:
    """A lease that is never lost."""

    def renew(self) -> None:
        """Do nothing."""


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def unpack(key: str, body: bytes, zip_names: str, pool: ThreadPoolExecutor) -> Content:
    """Unpack the archive as a worker does, and return what its index and folder have."""
    source = FakeObjectStore("src-data", time.time)
    output = FakeObjectStore("processed-data", time.time)
    source.put(key, body)
    info = source.get_info(key)
    assert info is not None
    lease = cast("Lease", StubLease())
    folders = UnpackedFolders(output, lease, rules=BundleRules(zip_names))
    digest = folders.rules.make_digest(key, info.etag)
    budget = folders.get_budget(BundleCatalog(), key, "")
    unpacker = ArchiveUnpacker(source, folders, pool)
    entry, ignored = unpacker.unpack_archive(info, digest, budget, lambda _done, _total: None)
    assert folders.is_complete(digest)
    assert entry.ignored == ignored.count
    content = Content(ignored={member.number for member in ignored.list_named()})
    index = BundleIndex(key, 0, output.get(make_index_key(digest)).body)
    for user_id, csv, image in index.iterate_users():
        if csv:
            assert isinstance(csv, ValidCsv)
            content.csvs[user_id] = csv.version.etag
        if image:
            content.images[user_id] = image.extension, image.etag
    assert entry.users == len(content.csvs.keys() | content.images.keys())
    return content


def check_agreement(
    key: str, body: bytes, expected: Content | None, zip_names: str, pool: ThreadPoolExecutor
) -> None:
    """Compare the product with the reader; `expected` None is a reject."""
    try:
        content = unpack(key, body, zip_names, pool)
    except InvalidArchive as refused:
        assert expected is None, refused.reason
        assert refused.reason.isprintable()
    else:
        assert content == expected


# -- generated archives ----------------------------------------------------------------------------
FOLDERS = st.sampled_from(
    ["", "", "", "a/", "b/", "a/b/", "./", "/", "//a/", "a//", "C:/", "#recycle/", ".git/", "~old/",
     "$RECYCLE.BIN/", "@eaDir/", "lost+found/", "Lost+Found/", "__MACOSX/", "__macosx/",
     "System Volume Information/", "a/node_modules/", "__pycache__/", "a\\", "a/../", "é/", "Ж/"]
)  # fmt: skip
NAMES = st.sampled_from(
    ["1.csv", "1.csv", "1.csv", "1.png", "1.jpg", "2.csv", "2.jpeg", "a:1.csv", "1.CSV", "1.csv ",
     "1.csv.", ".csv", "._1.csv", "~$1.csv", "#1.csv", "notes.txt", "film.mp4", ".DS_Store",
     "Thumbs.db", "1.csv.csv", "x" * 252 + ".csv", "Søren.csv", "Юлия.csv", "сон.csv", "表.csv",
     "é.csv", "e\u0301.csv", "é.txt", "\u00fcbersicht.pdf", "a\tb.csv"]
)  # fmt: skip
RARE_NAMES = st.sampled_from(["in.zip", "in.tar.gz"])
CONTENTS = st.integers(0, 5).map(lambda number: make_csv_body({"first_name": f"N{number}"}))
PATHS = st.tuples(FOLDERS, NAMES).map("".join) | st.tuples(FOLDERS, NAMES | RARE_NAMES).map("".join)


@st.composite
def zip_members(draw: st.DrawFn, codec: str) -> RawZipMember:
    path = draw(PATHS)
    body = draw(CONTENTS)
    form = draw(st.sampled_from(["flag", "plain", "codec", "codec", "field", "stale field"]))
    raw = path.encode(codec if form in {"codec", "field", "stale field"} else "utf-8", "replace")
    fields = {"field": path, "stale field": path}
    extra = make_unicode_path_field(raw if form == "field" else raw + b"x", path)
    return RawZipMember(
        raw,
        body,
        (UTF8_FLAG if form == "flag" else 0) | draw(st.sampled_from([0] * 15 + [1])),
        draw(st.sampled_from([8] * 15 + [9, 12, 14])),
        draw(st.sampled_from([0] * 12 + [stat.S_IFREG] * 3 + [stat.S_IFLNK, stat.S_IFCHR])),
        extra if form in fields else b"",
    )


ZIPS = st.sampled_from(CODECS).flatmap(
    lambda codec: st.tuples(
        st.lists(zip_members(codec), max_size=6), st.sampled_from(["", codec, codec, *CODECS])
    )
)


def test_zip_archives_agree_with_independent_reader(
    form: CaseForm, pool: ThreadPoolExecutor
) -> None:
    @hypothesis.seed(form.seed)
    @form.build_settings(short=800, long=20_000)
    @example(([RawZipMember("сон.csv".encode("cp866"), make_csv_body())], ""))
    @example(([], ""))
    @given(ZIPS)
    def check_zip(case: tuple[list[RawZipMember], str]) -> None:
        members, zip_names = case
        body = make_raw_zip(members)
        expected: Content | None
        try:
            expected = read_zip(body, zip_names)
        except Refused:
            expected = None
        check_agreement("u.zip", body, expected, zip_names, pool)

    check_zip()


@st.composite
def tar_members(draw: st.DrawFn) -> list[tuple[tarfile.TarInfo, bytes]]:
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    for _ in range(draw(st.integers(0, 7))):
        path = draw(PATHS)
        if draw(st.integers(0, 9)) == 0:
            raw = path.encode(draw(st.sampled_from(CODECS)), "replace")
            path = raw.decode(errors="surrogateescape")
        kind = draw(st.sampled_from(["file"] * 6 + ["hard link"] * 4 + ["link", "pipe", "folder"]))
        if kind == "file":
            members.append((tarfile.TarInfo(path), draw(CONTENTS)))
        elif kind == "hard link" and members:
            target = draw(st.sampled_from([info.name for info, _ in members]))
            members.append((make_link(path, target), b""))
        elif kind in SPECIAL_TYPES:
            members.append((make_link(path, "1.csv", SPECIAL_TYPES[kind]), b""))
    return members


SPECIAL_TYPES = {"link": tarfile.SYMTYPE, "pipe": tarfile.FIFOTYPE, "folder": tarfile.DIRTYPE}
TARS = st.tuples(
    tar_members(),
    st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    st.sampled_from(["", "", *CODECS]),
    st.booleans(),
)


def test_tar_archives_agree_with_independent_reader(
    form: CaseForm, pool: ThreadPoolExecutor
) -> None:
    @hypothesis.seed(form.seed)
    @form.build_settings(short=800, long=20_000)
    @given(TARS)
    def check_tar(case: tuple[list[tuple[tarfile.TarInfo, bytes]], int, str, bool]) -> None:
        members, tar_format, zip_names, is_packed = case
        body = make_tar_of(members, tar_format)
        expected: Content | None
        try:
            expected = read_tar(body, zip_names)
        except Refused:
            expected = None
        packed = gzip.compress(body, 1) if is_packed else body
        check_agreement("u.tgz", packed, expected, zip_names, pool)

    check_tar()
