"""Archives as Windows, macOS, NAS systems and command lines write them."""

import io
import stat
import tarfile
from collections.abc import Iterable

from tests.archives import (
    RawZipMember,
    make_raw_zip,
    make_tar,
    make_tar_gz,
    make_unicode_path_field,
    make_zip,
    mark_zip_encrypted,
)
from tests.cases.case import Case, Expected, Kind, bundle, bundle_reject
from tests.cases.csv_cases import BORN, make_csv

CSV = make_csv().encode()
OTHER_CSV = make_csv("Ada").encode()
PNG = b"\x89PNG\r\n\x1a\n"
UTF8_FLAG = 0x800
DEFLATE64 = 9
LZMA = 14


def make_row(user_id: str, first_name: str = "Ida", *, has_image: bool = False) -> str:
    """Return the row that `CSV`, or the same CSV with another first name, gives."""
    return f"{user_id},{first_name},Lindqvist,{BORN}{',image' if has_image else ''}"


def make_typed_tar(members: Iterable[tuple[str, bytes, bytes | str]]) -> bytes:
    """Return a tar of members: name, type, and content or target of the link."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, body in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if isinstance(body, str):
                info.linkname = body
                archive.addfile(info)
            else:
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
    return target.getvalue()


def _named_by_codec(name: str, codec: str, user_id: str) -> Case:
    archive = make_raw_zip([RawZipMember(f"{user_id}.csv".encode(codec), CSV)])
    expected = Expected(rows=(make_row(user_id),))
    return Case(Kind.BUNDLE, name, archive, expected, zip_names=codec)


def _name_case(name: str, raw: bytes) -> Case:
    archive = make_raw_zip([RawZipMember(b"plain.csv", OTHER_CSV), RawZipMember(raw, CSV)])
    return bundle_reject(name, archive, "member 2 … ZIP_NAMES")


OLD_NAME = "\u0416\u0435\u043d\u044f.csv".encode("cp866")
NAMES = [
    _name_case("names-cp866.zip", OLD_NAME),
    _name_case("names-cp850.zip", "Andr\u00e9.csv".encode("cp850")),
    _name_case("names-cp1252.zip", "Ren\u00e9e.csv".encode("cp1252")),
    _name_case("names-shift-jis.zip", "\u8868.csv".encode("shift_jis")),
    _named_by_codec("zip-names-cp866.zip", "cp866", "\u0416\u0435\u043d\u044f"),
    _named_by_codec("zip-names-cp850.zip", "cp850", "Andr\u00e9"),
    _named_by_codec("zip-names-shift-jis.zip", "shift_jis", "\u8868"),
    bundle(
        "names-utf-8-flag.zip",
        make_raw_zip([RawZipMember("Ren\u00e9e.csv".encode(), CSV, UTF8_FLAG)]),
        make_row("Ren\u00e9e"),
    ),
    bundle(
        "names-utf-8-without-flag.zip",
        make_raw_zip([RawZipMember("Ren\u00e9e.csv".encode(), CSV)]),
        make_row("Ren\u00e9e"),
    ),
    bundle(
        "names-7-zip.zip",
        make_raw_zip(
            [
                RawZipMember(
                    OLD_NAME,
                    CSV,
                    extra=make_unicode_path_field(OLD_NAME, "\u0416\u0435\u043d\u044f.csv"),
                )
            ]
        ),
        make_row("\u0416\u0435\u043d\u044f"),
    ),
]
_JUNK_FILES = {
    "#recycle/7.csv": OTHER_CSV,
    ".snapshot/hourly.0/7.csv": OTHER_CSV,
    "$RECYCLE.BIN/$R1A2B3.csv": OTHER_CSV,
    ".Trash-1000/files/8.csv": OTHER_CSV,
    "a/.AppleDouble/7.csv": b"\0\5\x16\7",
    "@eaDir/7.png/SYNOPHOTO_THUMB_M.png": PNG,
    "~snapshot/9.csv": OTHER_CSV,
    "lost+found/10.csv": OTHER_CSV,
    "System Volume Information/11.csv": OTHER_CSV,
    "__MACOSX/._7.csv": b"\0\5\x16\7",
    "__pycache__/12.csv": OTHER_CSV,
    "node_modules/csv/13.csv": OTHER_CSV,
}
JUNK = [
    bundle(
        "junk-folders.zip",
        make_zip({**_JUNK_FILES, "deep/folder/7.csv": CSV}),
        make_row("7"),
        ignored=tuple(_JUNK_FILES),
    ),
]
DUPLICATES = [
    bundle(
        "nearest-first.zip",
        make_zip({"7.csv": CSV, "a/7.csv": OTHER_CSV}),
        make_row("7"),
        ignored=("a/7.csv … ",),
    ),
    bundle(
        "nearest-last.zip",
        make_zip({"a/7.csv": OTHER_CSV, "7.csv": CSV}),
        make_row("7"),
        ignored=("a/7.csv … ",),
    ),
    bundle(
        "first-by-path.tar",
        make_tar({"b/7.csv": OTHER_CSV, "a/7.csv": CSV}),
        make_row("7"),
        ignored=("b/7.csv … ",),
    ),
]
PATHS = [
    bundle(
        "leading-slash.tar", make_typed_tar([("/srv/7.csv", tarfile.REGTYPE, CSV)]), make_row("7")
    ),
    bundle("leading-slash.zip", make_raw_zip([RawZipMember(b"/srv/7.csv", CSV)]), make_row("7")),
    bundle(
        "leading-slash-junk.zip",
        make_raw_zip([RawZipMember(b"7.csv", CSV), RawZipMember(b"/__MACOSX/._7.csv", b"x")]),
        make_row("7"),
        ignored=("/__MACOSX/._7.csv",),
    ),
    bundle_reject(
        "parent-folder.zip",
        make_raw_zip([RawZipMember(b"7.csv", CSV), RawZipMember(b"../8.txt", b"x")]),
        "member 2 … out of the archive",
    ),
    bundle(
        "colon.zip",
        make_raw_zip([RawZipMember(b"b:7.csv", CSV), RawZipMember(b"9:15.csv", CSV)]),
        make_row("9:15"),
        make_row("b:7"),
    ),
    bundle("colon.tar", make_tar({"c:7.csv": CSV}), make_row("c:7")),
]
LINKS = [
    bundle(
        "hard-link.tar",
        make_typed_tar([("7.csv", tarfile.REGTYPE, CSV), ("8.csv", tarfile.LNKTYPE, "7.csv")]),
        make_row("7"),
        make_row("8"),
    ),
    bundle(
        "hard-link-to-itself.tar",
        make_typed_tar([("7.csv", tarfile.REGTYPE, CSV), ("7.csv", tarfile.LNKTYPE, "7.csv")]),
        make_row("7"),
        ignored=("7.csv … same path",),
    ),
    bundle(
        "hard-link-to-other-file.tar",
        make_typed_tar(
            [("newest.txt", tarfile.REGTYPE, CSV), ("7.csv", tarfile.LNKTYPE, "newest.txt")]
        ),
        make_row("7"),
        ignored=("newest.txt",),
    ),
    bundle_reject(
        "hard-link-to-nothing.tar",
        make_typed_tar([("7.csv", tarfile.LNKTYPE, "8.csv")]),
        "member 1 … link",
    ),
    bundle_reject(
        "symbolic-link.tar",
        make_typed_tar([("8.csv", tarfile.REGTYPE, CSV), ("7.csv", tarfile.SYMTYPE, "8.csv")]),
        "member 2 … link",
    ),
    bundle_reject(
        "symbolic-link.zip",
        make_raw_zip([RawZipMember(b"7.csv", b"8.csv", mode=stat.S_IFLNK)]),
        "member 1 … link",
    ),
    bundle_reject(
        "device.tar", make_typed_tar([("7.csv", tarfile.CHRTYPE, "")]), "member 1 … device"
    ),
    bundle_reject(
        "device.zip",
        make_raw_zip([RawZipMember(b"7.csv", b"", mode=stat.S_IFCHR)]),
        "member 1 … device",
    ),
    bundle_reject("pipe.tar", make_typed_tar([("7.csv", tarfile.FIFOTYPE, "")]), "member 1 … pipe"),
]
HARMLESS = [
    bundle(
        "link-of-no-user.tar",
        make_typed_tar([("7.csv", tarfile.REGTYPE, CSV), ("current", tarfile.SYMTYPE, ".")]),
        make_row("7"),
        ignored=("current … link",),
    ),
    bundle(
        "pipe-of-no-user.tar",
        make_typed_tar([("socket", tarfile.FIFOTYPE, ""), ("7.csv", tarfile.REGTYPE, CSV)]),
        make_row("7"),
        ignored=("socket … pipe",),
    ),
    bundle(
        "link-of-no-user.zip",
        make_raw_zip(
            [RawZipMember(b"7.csv", CSV), RawZipMember(b"now.txt", b"7.csv", mode=stat.S_IFLNK)]
        ),
        make_row("7"),
        ignored=("now.txt … link",),
    ),
    bundle(
        "deflate64-of-no-user.zip",
        make_raw_zip(
            [
                RawZipMember(b"7.csv", CSV),
                RawZipMember(b"film.mov", b"x", method=DEFLATE64, packed=b"\1"),
            ]
        ),
        make_row("7"),
        ignored=("film.mov",),
    ),
    bundle(
        "lzma-of-no-user.zip",
        make_raw_zip(
            [RawZipMember(b"7.csv", CSV), RawZipMember(b"a.iso", b"x", method=LZMA, packed=b"\1")]
        ),
        make_row("7"),
        ignored=("a.iso",),
    ),
    bundle(
        "encrypted-of-no-user.zip",
        make_raw_zip([RawZipMember(b"7.csv", CSV), RawZipMember(b"keys.txt", b"x", flags=1)]),
        make_row("7"),
        ignored=("keys.txt",),
    ),
    bundle_reject(
        "encrypted.zip", mark_zip_encrypted(make_zip({"7.csv": CSV})), "member 1 is encrypted"
    ),
    bundle_reject(
        "deflate64.zip",
        make_raw_zip([RawZipMember(b"7.csv", b"x", method=DEFLATE64, packed=b"\1")]),
        "Windows Explorer … 7-Zip",
    ),
]
IGNORED = [
    bundle(
        "upper-case-extension.zip",
        make_zip({"7.CSV": CSV, "8.csv": CSV}),
        make_row("8"),
        ignored=("7.CSV … lower case",),
    ),
    bundle(
        "blank-at-end.zip",
        make_zip({"7.csv ": CSV, "8.csv": CSV}),
        make_row("8"),
        ignored=("7.csv  … blank",),
    ),
    bundle(
        "name-not-utf-8.tar",
        make_tar({"Ren\udce9e.csv": CSV, "8.csv": CSV}, tarfile.GNU_FORMAT),
        make_row("8"),
        ignored=("not UTF-8",),
    ),
    bundle("nothing.zip", make_zip({})),
    bundle("no-user.zip", make_zip({"read me.txt": b"x"}), ignored=("read me.txt … neither",)),
    bundle(
        "image-and-csv.tgz",
        make_tar_gz({"7.png": PNG, "a/7.csv": CSV}),
        make_row("7", has_image=True),
    ),
]
BUNDLE_CASES = [*NAMES, *JUNK, *DUPLICATES, *PATHS, *LINKS, *HARMLESS, *IGNORED]
"""One or more archives for each rule of docs/formats.md."""
