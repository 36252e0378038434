"""Recognizes files that are no CSV by how they begin.

It is asked only about a file that cannot be read, so it costs other files nothing.
"""

import re
from typing import NamedTuple

from shared.csv_reader.characters import TRIMMED
from shared.csv_reader.reasons import InvalidUserCsv, Reason

EXCEL = "an Excel workbook"
OLD_OFFICE = "an old Excel workbook (.xls) or another file of Office"
OFFICE_DOCUMENT = "a Word or PowerPoint document"
YAML = "YAML"
OPEN_DOCUMENT = "an OpenDocument spreadsheet"

MAX_EXAMINED_LENGTH = 4096
"""Characters of a text that are examined."""


class FileType(NamedTuple):
    """A reason, and what its braces stand for."""

    reason: Reason
    values: dict[str, str]


def _other(kind: str) -> FileType:
    return FileType(Reason.OTHER_FORMAT, {"kind": kind})


def _compressed(kind: str) -> FileType:
    return FileType(Reason.COMPRESSED, {"kind": kind})


def _image(kind: str) -> FileType:
    return FileType(Reason.IMAGE, {"kind": kind})


# The first bytes of each type.
BINARY_TYPES = {
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": _other(OLD_OFFICE),
    b"%PDF-": _other("a PDF document"),
    b"SQLite format 3\0": _other("an SQLite database"),
    b"PAR1": _other("a Parquet file"),
    b"\x89PNG\r\n\x1a\n": _image("PNG"),
    b"\xff\xd8\xff": _image("JPEG"),
    b"GIF87a": _image("GIF"),
    b"GIF89a": _image("GIF"),
    b"II*\0": _image("TIFF"),
    b"MM\0*": _image("TIFF"),
    b"7z\xbc\xaf\x27\x1c": _compressed("7-Zip"),
    b"Rar!\x1a\x07": _compressed("RAR"),
    b"BZh": _compressed("bzip2"),
    b"\xfd7zXZ\0": _compressed("xz"),
    b"\x28\xb5\x2f\xfd": _compressed("zstd"),
    b"\x04\x22\x4d\x18": _compressed("lz4"),
}
# The bytes of other types at an offset.
INNER_TYPES = (
    (8, b"WEBP", _image("WebP")),
    (4, b"ftyphei", _image("HEIF")),
    (4, b"ftypmif", _image("HEIF")),
    (4, b"ftypavif", _image("AVIF")),
)
TAR_MAGIC_OFFSET = 257
ZIP_MAGICS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
# A part of a name or of a stored member, which says what a zip is.
ZIP_CONTENTS = {
    b"application/vnd.oasis.opendocument": _other(OPEN_DOCUMENT),
    b"word/": _other(OFFICE_DOCUMENT),
    b"ppt/": _other(OFFICE_DOCUMENT),
    b"xl/": _other(EXCEL),
    b"[Content_Types].xml": _other(EXCEL),
}
# How a text begins, after blanks and in lower case.
TEXT_TYPES = {
    r"\{\\rtf": _other("an RTF document"),
    r"%pdf-": _other("a PDF document"),
    r"(<\?xml[^>]*>\s*)?<error>\s*<code>": FileType(Reason.S3_ERROR, {}),
    r"<\?xml[^>]*>\s*<\?mso-application[^>]*excel": _other(EXCEL),
    r"<html[^>]*urn:schemas-microsoft-com": _other(EXCEL),
    r"<table\b": _other("an HTML table"),
    r"(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)?<(!doctype\s+html|html|head|body|meta)\b": (
        FileType(Reason.WEB_PAGE, {})
    ),
    r"<\?xml|<[a-z][\w:.-]*[\s/>]": _other("XML"),
    r"--[^\n]*\ncontent-disposition: form-data": FileType(Reason.FORM, {}),
    r"[0-9a-f]{1,8};chunk-signature=|[0-9a-f]{1,8}\r\n.*^x-amz-checksum-": FileType(
        Reason.UPLOAD_CHUNKS, {}
    ),
    r"version https://git-lfs": FileType(Reason.LFS_POINTER, {}),
    r"<{7}( |$)": FileType(Reason.CONFLICT, {}),
    r"\{[^\n]*\}\s*\n\s*\{": _other("JSON Lines"),
    r'\{\s*("|\}|$)|\[\s*[\[{"\]]': _other("JSON"),
    r"(--[^\n]*\n\s*)*(insert\s+into|create\s+(table|database)|begin\s*;|drop\s+table|select)\s": (
        _other("SQL")
    ),
    r"begin:vcard": _other("a vCard"),
}
_TEXT_TYPES = [
    (re.compile(pattern, re.DOTALL | re.MULTILINE), file_type)
    for pattern, file_type in TEXT_TYPES.items()
]


def reject_binary_type(body: bytes, *, was_gzip: bool = False) -> None:
    """Raise `InvalidUserCsv` if the file begins like one of another binary type."""
    if body.startswith(ZIP_MAGICS):
        for content, file_type in ZIP_CONTENTS.items():
            if content in body:
                raise InvalidUserCsv(file_type.reason, **file_type.values)
        raise InvalidUserCsv(Reason.ZIP)
    if body.startswith(b"ustar", TAR_MAGIC_OFFSET):
        raise InvalidUserCsv(Reason.TAR, extension=".tar.gz" if was_gzip else ".tar")
    for offset, magic, (reason, values) in INNER_TYPES:
        if body.startswith(magic, offset):
            raise InvalidUserCsv(reason, **values)
    for magic, (reason, values) in BINARY_TYPES.items():
        if body.startswith(magic):
            raise InvalidUserCsv(reason, **values)


def reject_text_type(text: str) -> None:
    """Raise `InvalidUserCsv` if the text begins like one of another format."""
    beginning = text.lstrip(TRIMMED)[:MAX_EXAMINED_LENGTH].lower()
    for pattern, (reason, values) in _TEXT_TYPES:
        if pattern.match(beginning):
            raise InvalidUserCsv(reason, **values)
