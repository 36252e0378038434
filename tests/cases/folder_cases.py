"""Folders that `rowdrop load` loads, and keys that people put into the bucket."""

from tests.archives import make_zip
from tests.cases.bundle_cases import CSV, OTHER_CSV, PNG, make_row
from tests.cases.case import Case, Expected, Folder, Kind


def load(
    name: str,
    files: Folder,
    *rows: str,
    ignored: tuple[str, ...] = (),
    suspicious: tuple[str, ...] = (),
) -> Case:
    """Return a folder that gives these rows; `ignored` lists the skipped files by path."""
    return Case(Kind.FOLDER, name, files, Expected(rows, (), ignored, suspicious))


LOADED = [
    load(
        "recycle-bin",
        {"7.csv": CSV, "#recycle/7.csv": OTHER_CSV, "#recycle/8.csv": OTHER_CSV},
        make_row("7"),
        ignored=("#recycle",),
    ),
    load(
        "snapshots",
        {".snapshot/daily.0/7.csv": OTHER_CSV, "people/7.csv": CSV},
        make_row("7"),
        ignored=(".snapshot",),
    ),
    load(
        "nearest",
        {"a/7.csv": OTHER_CSV, "7.csv": CSV},
        make_row("7"),
        ignored=("a/7.csv … duplicate of",),
    ),
    load(
        "first-by-path",
        {"b/7.csv": OTHER_CSV, "a/7.csv": CSV},
        make_row("7"),
        ignored=("b/7.csv … duplicate of",),
    ),
    load(
        "links",
        {"7.csv": CSV, "8.csv": "7.csv", "9.csv": "no-such-file"},
        make_row("7"),
        ignored=("8.csv … link", "9.csv … link"),
    ),
    load(
        "office-files",
        {"7.csv": CSV, "~$7.csv": b"x", ".~lock.7.csv#": b"x", "._7.csv": b"\0\5\x16\7"},
        make_row("7"),
        ignored=("._7.csv", ".~lock.7.csv#", "~$7.csv"),
    ),
    load(
        "bundle-in-a-folder",
        {"a/u.zip": make_zip({"7.csv": CSV}), "7.png": PNG},
        make_row("7", has_image=True),
    ),
    load(
        "own-file-and-bundle",
        {"u.zip": make_zip({"7.csv": OTHER_CSV, "8.csv": OTHER_CSV}), "7.csv": CSV},
        make_row("7"),
        make_row("8", "Ada"),
    ),
    load(
        "composed-and-decomposed",
        {"Jos\u00e9.csv": CSV, "Jose\u0301.csv": OTHER_CSV},
        make_row("Jose\u0301", "Ada"),
        make_row("Jos\u00e9"),
        suspicious=("looks the same … rename", "looks the same … rename"),
    ),
]


def key(name: str, reason: str) -> Case:
    """Return a key of the source bucket that is ignored."""
    return Case(Kind.BUNDLE, name, b"x", Expected(ignored=(reason,)))


KEYS = [
    key("._7.csv", ""),
    key("~$7.csv", ""),
    key(".~lock.7.csv#", ""),
    key("7.csv ", "blank"),
    key("7.CSV", "lower case"),
]
FOLDER_CASES = [*LOADED, *KEYS]
"""One or more folders and keys for each rule of docs/formats.md."""
