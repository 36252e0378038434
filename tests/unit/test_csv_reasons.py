"""Tests the reasons of rejected CSVs: each leads to the remedy, and none quotes the file."""

import bz2
import contextlib
import gzip
import io
import lzma
import re
import string
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.csv_reader import characters
from shared.csv_reader.file_types import (
    BINARY_TYPES,
    INNER_TYPES,
    TEXT_TYPES,
    YAML,
    ZIP_CONTENTS,
)
from shared.csv_reader.reasons import MAX_CSV_BYTES, InvalidUserCsv, Reason
from shared.csv_reader.user_csv import parse_person
from tests.factories import CSV_COLUMNS, make_csv_body, make_csv_text
from tests.unit.test_docs import rows

FORMATS = (Path(__file__).parents[2] / "docs" / "formats.md").read_text(encoding="utf-8")
HEADER = "first_name,last_name,birthts\n"
FILE_TYPES = [
    *BINARY_TYPES.values(),
    *ZIP_CONTENTS.values(),
    *TEXT_TYPES.values(),
    *(file_type for _, _, file_type in INNER_TYPES),
]
KINDS = {file_type.values["kind"] for file_type in FILE_TYPES if file_type.values} | {YAML}
EXPECTED = "milliseconds since 1970 UTC are expected, for example 946598400000 for 1999-12-31"


def refusal(body: bytes | str) -> InvalidUserCsv:
    with pytest.raises(InvalidUserCsv) as raised:
        parse_person(body.encode() if isinstance(body, str) else body)
    assert str(raised.value) == raised.value.reason
    return raised.value


def make_zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


def make_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("1.csv"))
    return buffer.getvalue()


# -- the file, the header, the record --------------------------------------------------------------
TEXT_CASES: list[tuple[str, str, int | None]] = [
    ("", "the file is empty", None),
    ("\ufeff\r\n \n,,\n;;\u200b\n\x1a", "the file is empty", None),
    (HEADER, "only a header, no record", 1),
    (f"\n{HEADER},,\n", "only a header, no record", 2),
    (
        f"{HEADER}a,b,1\n\nc,d,2\n",
        "2 records instead of one; keep one, and write a file for each user",
        4,
    ),
    (
        f"{HEADER}a,b,1\n" + "c,d,2\n" * 99,
        "100 records instead of one; keep one, and write a file for each user",
        3,
    ),
    (
        f"{HEADER}a,b,1\n" + "c,d,2\n" * 100,
        "more than 100 records instead of one; keep one, and write a file for each user",
        3,
    ),
    (f"{HEADER}{HEADER}a,b,1\n", "a second header; remove this line", 2),
    (f"{HEADER}a,b,1\n\n{HEADER}", "a second header; remove this line", 4),
    # conflicts of a merge
    (f"{HEADER}<<<<<<< HEAD\na,b,1\n=======\na,c,1\n>>>>>>> x\n", str(Reason.CONFLICT), 2),
    (f"{HEADER}a,b,1\n<<<<<<< HEAD\n=======\n{HEADER}>>>>>>> x\n", str(Reason.CONFLICT), 3),
    # names of columns
    (
        "FirstName,last_name,birthts\na,b,1\n",
        "missing column first_name; similar names: rename column 1 to first_name",
        1,
    ),
    (
        "\nbirth;LastName;Firstname;x\n1;b;a;c\n",
        "missing columns first_name, last_name, birthts; "
        "similar names: rename column 3 to first_name, column 2 to last_name, column 1 to birthts",
        2,
    ),
    (
        "name,last_name,birthts\na,b,1\n",
        "missing column first_name; "
        "the header has last_name and birthts and 1 other column: rename or add columns",
        1,
    ),
    (
        "Prénom\tNom\tNaissance\na\tb\t1\n",
        "missing columns first_name, last_name, birthts; "
        "the header has 3 other columns: rename or add columns",
        1,
    ),
    (
        "last_name,first_name\nb,a\n",
        "missing column birthts; the header has first_name and last_name: rename or add columns",
        1,
    ),
    (
        'birthts,first_name,"last\nname"\n1,a,b\n',
        "missing column last_name; similar names: rename column 3 to last_name",
        1,
    ),
    (
        "birthts,First Name,first-name,last_name\n1,a,b,c",
        "column first_name appears 2 times; keep one of them",
        1,
    ),
    (
        "Ivan;Ivanov;1\n",
        "the first line is a record; write a header above it: first_name,last_name,birthts",
        1,
    ),
    (
        " \n" * 50_000 + "hello\n",
        "the first line is one field; it must be a header: first_name,last_name,birthts",
        50_001,
    ),
    (
        "hello\nworld\n",
        "the first line is one field; it must be a header: first_name,last_name,birthts",
        1,
    ),
    # what is above the header, or takes its place
    (
        f"users,,\n\n{HEADER}a,b,1\n",
        "the first line is not a header; line 3 is one: remove what is above it",
        1,
    ),
    (
        make_csv_text(separator=";").replace("first", "# made by me\n\nfirst"),
        "the first line is not a header; line 3 is one: remove what is above it",
        1,
    ),
    (
        "last_name,a\nfirst_name,b\nbirthts,1\n",
        "the column names are in separate lines; write them side by side in the first line",
        1,
    ),
    (
        "birthts\nlast_name\nfirst_name\n",
        "the column names are in separate lines; write them side by side in the first line",
        1,
    ),
    ("- birthts: 1\n  first_name: a\n  last_name: b\n", "this is YAML; save it as CSV", None),
    (
        make_csv_text(line_end="\u2028"),
        "the lines end with a line separator (U+2028); end them with line feeds",
        1,
    ),
    (
        "first_name,last_name,birthts,x\x1ea,b,1,\n",
        "the lines end with a record separator (U+001E); end them with line feeds",
        1,
    ),
    (
        make_csv_text(line_end="\\r\\n", separator=";"),
        "the lines end with a backslash and a letter; end them with line feeds",
        1,
    ),
    ("ï»¿" + make_csv_text(), "encoded as UTF-8 twice; save the original as CSV UTF-8", 1),
    # delimiters
    (
        f"sep=\n{HEADER}a,b,1\n",
        "the line sep= names no usable delimiter; write sep=; or remove the line",
        1,
    ),
    (
        f"sep=a\n{HEADER}a,b,1\n",
        "the line sep= names no usable delimiter; write sep=; or remove the line",
        1,
    ),
    (
        f"sep=;\n{HEADER}a,b,1\n",
        "the line sep= names semicolons, the header has commas; correct or remove the line",
        1,
    ),
    (
        "sep=;\nFirstName;LastName;birthts\na;b;1\n",
        "missing columns first_name, last_name; "
        "similar names: rename column 1 to first_name, column 2 to last_name",
        2,
    ),
    (
        f"{HEADER}a\tb\t1\n",
        "the header is separated by commas, the record by tabs; use one delimiter in both",
        2,
    ),
    (
        make_csv_text(separator="|").replace("Ivan|Ivanov|", '"Ivan","Ivanov",'),
        "the header is separated by vertical bars, the record by commas; use one delimiter in both",
        2,
    ),
    (
        f'{HEADER}"a";"b";"1"\n',
        "the header is separated by commas, the record by semicolons; use one delimiter in both",
        2,
    ),
    (
        f"{HEADER}a:b:1\n",
        "the header is separated by commas, the record by colons; use one delimiter in both",
        2,
    ),
    (
        make_csv_text(separator="\uff1b"),
        "the fields are separated by fullwidth semicolons; separate them by commas",
        1,
    ),
    (
        make_csv_text(separator="   "),
        "the fields are separated by blanks; separate them by commas",
        1,
    ),
    (
        make_csv_text(separator="^"),
        "the fields are separated by circumflexes; separate them by commas",
        1,
    ),
    # quotes
    (
        '"first_name;last_name;birthts"\n"a;b;1"\n',
        "the whole line is in quotes; remove the quotes at both ends",
        1,
    ),
    (f'{HEADER}"a,b,1"\n', "the whole record is in quotes; remove the quotes at both ends", 2),
    (
        "‘first_name’;‘last_name’;‘birthts’\n‘a’;‘b’;‘1’\n",
        'the column names are in curly apostrophes; use straight quotes (") or none',
        1,
    ),
    (
        "`first_name`,`last_name`,`birthts`\na,b,1\n",
        'the column names are in backticks; use straight quotes (") or none',
        1,
    ),
    (f'{HEADER}\n"a,b,1\n', "a quote is not closed", 3),
    (f'{HEADER}"a"b,c,1\n', "a quoted field is followed by something else than a comma", 2),
    (
        make_csv_text({"last_name": '"a"b'}, separator="\t"),
        "a quoted field is followed by something else than a tab",
        2,
    ),
    (
        '"first_name"x,last_name,birthts\na,b,1\n',
        "a quoted field is followed by something else than a comma",
        1,
    ),
    (
        HEADER + '"a \\"b\\"",c,1\n',
        "a quote inside a quoted field is written as a backslash and a quote; double it",
        2,
    ),
    (
        make_csv_text({"first_name": "x" * 200_000}),
        "a field is longer than 131,072 characters, or a quote is not closed",
        2,
    ),
    # the number of fields
    (f"{HEADER}a,b,1,2\n", "4 fields, the header has 3; quote a field that contains a comma", 2),
    (f"{HEADER}a,b,c,1,,\n", "4 fields, the header has 3; quote a field that contains a comma", 2),
    (
        make_csv_text(separator=";").replace("Ivanov", "x;y;z"),
        "5 fields, the header has 3; quote a field that contains a semicolon",
        2,
    ),
    (
        f"{HEADER[:-1]},\na,b,1,2\n",
        "4 fields, the header has 3; quote a field that contains a comma",
        2,
    ),
    (f"{HEADER}a,b\n", "missing value for birthts, column 3 of 3", 2),
    ("birthts,note,last_name,first_name\n1,\n", "missing value for last_name, column 3 of 4", 2),
    (
        f"{HEADER[:-1]},Note\na,b,MD,320457600000\n",
        "birthts: not a number, but field 4 is one; quote a field that contains a comma",
        2,
    ),
    (f'{HEADER}"a\nb",c,1\n', "first_name: a line break inside the field; remove it", 2),
    (f'{HEADER}a,"b\rc",1\n', "last_name: a line break inside the field; remove it", 2),
    (f'{HEADER}a,b,"1\r\n2"\n', "birthts: a line break inside the field; remove it", 2),
]


@pytest.mark.parametrize(("text", "reason", "line"), TEXT_CASES)
def test_parse_person_reason_states_problem_and_line(
    text: str, reason: str, line: int | None
) -> None:
    refused = refusal(text)
    assert (refused.reason, refused.line) == (reason, line)
    refused = refusal(text.encode("utf-16"))
    assert (refused.reason, refused.line) == (reason, line)


# -- the number ------------------------------------------------------------------------------------
SHORTENED = (
    "a spreadsheet shortened the number; "
    "format the column as a number without decimals, and save it again"
)
NUMBER_CASES = [
    (" ", "empty"),
    *((written, SHORTENED) for written in ("3.20457E+11", "3e11", "3,20457E+11", "320457E+06")),
    ("320,457,600,000", "remove the group separators (commas)"),
    ("320.457.600.000", "remove the group separators (dots)"),
    ("320.457.600.000,00", "remove the group separators (dots)"),
    ("-320 457 600 000", "remove the group separators (blanks)"),
    ("320\u202f457\u202f600\u202f000", "remove the group separators (narrow no-break spaces)"),
    (
        "320\u00a0457 600'000",
        "remove the group separators (blanks and no-break spaces and apostrophes)",
    ),
    ("320\u2019457\u2019600\u2019000.00", "remove the group separators (curly apostrophes)"),
    ("3_20457", "remove the group separators (underscores)"),
    ("3204\u200b57600000", "remove the group separators (invisible characters)"),
    ("320457600000,00", "a decimal comma; write the number without decimals"),
    ("320457600000.5", "a fraction; milliseconds are whole numbers"),
    (".5", "a fraction; milliseconds are whole numbers"),
    (
        "320457600.25",
        "a fraction, probably of seconds; multiply by 1,000, and write a whole number",
    ),
    ("29278.5", f"a spreadsheet's date as a number; {EXPECTED}"),
    ("29278,5", f"a spreadsheet's date as a number; {EXPECTED}"),
    *(
        (written, f"a date; {EXPECTED}")
        for written in (
            "1980-02-27",
            "27.02.1980",
            "2/27/80",
            "1980-02-27T00:00:00+01:00",
            "27 Feb 1980",
            "February 27, 1980",
            "27. février 1980",
            "1980/2/27 12:00",
            "19800227T000000Z",
            "27-2-1980",
            "1980年2月27日",
            "12:30:00",
        )
    ),
    ("#####", "the column was too narrow; widen it, and save the file again"),
    ("=A1*1000", "a formula; write only the number"),
    *(
        (written, "the error value of a formula; write the number")
        for written in ("#REF!", "#DIV/0!", "#NAME?")
    ),
    ("'320457600000", "remove the apostrophe; write only the number"),
    ("“320457600000”", "remove the curly quotes; write only the number"),
    *(
        (written, "a number with text such as a unit; write only the number")
        for written in (
            "320457600000 ms",
            "€320457600000",
            "0x1f",
            "320457600000 %",
            "320457600000 marks",
            "T320457600000",
        )
    ),
    ("\u2212320457600000", "the minus is a minus sign (U+2212); write a hyphen-minus (-)"),
    ("\uff0d320457600000", "the minus is a fullwidth hyphen (U+FF0D); write a hyphen-minus (-)"),
    *(
        (written, "write '-' in front of a negative number")
        for written in ("320457600000-", "(320457600000)", "- 320457600000")
    ),
    *(
        (written, "digits of another script; write the digits 0 to 9")
        for written in ("٣٢٠", "３２０", "320²", "३२०")
    ),
    *(
        (written, "a word for a missing value; a value is required")
        for written in (
            "NULL",
            "nan",
            "N/A",
            "#N/A",
            "None",
            "\\N",
            "-",
            "?",
            "<NA>",
            "NaT",
            "null",
        )
    ),
    *(
        (written, "not in the years 1 to 9999; these look like microseconds, divide by 1,000")
        for written in (
            "-62135596800001",
            "253402300800000",
            "-2000000000000000",
            "320457600000000.0",
        )
    ),
    (
        "320457600000000000",
        "not in the years 1 to 9999; these look like nanoseconds, divide by 1,000,000",
    ),
    *(
        (written, "not in the years 1 to 9999")
        for written in ("9" * 19, "9" * 5000, "-" + "9" * 30, "9e19".replace("e", "0" * 19))
    ),
    *(
        (written, f"not a whole number; {EXPECTED}")
        for written in ("abc", "--1", "inf", "1" * 61 + "x", ",")
    ),
]


@pytest.mark.parametrize(("written", "reason"), NUMBER_CASES)
def test_parse_person_reason_explains_number(written: str, reason: str) -> None:
    refused = refusal(make_csv_text({"birthts": f'"{written}"'}))
    assert (refused.reason, refused.line) == (f"birthts: {reason}", 2)


# -- the bytes -------------------------------------------------------------------------------------
UTF16_WITHOUT_MARK = "looks like UTF-16 without a byte order mark; save it as CSV UTF-8"
UTF32 = "looks like UTF-32; save it as CSV UTF-8"
NUL = "a NUL character; remove it, or save the file as CSV UTF-8"
NUL_PADDING = "NUL characters at the end, as after an incomplete write; save the file again"
GZIP_DAMAGED = "the gzip data is damaged or cut off; compress the file again"
ENCODING_CASES: list[tuple[bytes, str, int | None]] = [
    (
        make_csv_body({"first_name": "Иван"}, encoding="cp1251"),
        f"not UTF-8 at byte {len(HEADER) + 1}; save it as CSV UTF-8",
        2,
    ),
    (
        make_csv_body(encoding="utf-16")[:-1],
        "UTF-16 that is damaged or cut off at byte 109; save it as CSV UTF-8",
        None,
    ),
    (
        b"\xff\xfe\x00\xd8",
        "UTF-16 that is damaged or cut off at byte 3; save it as CSV UTF-8",
        None,
    ),
    (make_csv_body(encoding="utf-16-le"), UTF16_WITHOUT_MARK, None),
    (make_csv_body({"first_name": "Иван"}, encoding="utf-16-be"), UTF16_WITHOUT_MARK, None),
    *(
        (make_csv_body({"first_name": "Я" * 9}, encoding=form), UTF32, None)
        for form in ("utf-32", "utf-32-le", "utf-32-be")
    ),
    (
        "ïfirst_name,lastname,birthts\nä,b,1".encode("utf-7"),
        "looks like UTF-7; save it as CSV UTF-8",
        None,
    ),
    (make_csv_body({"last_name": "a\0b"}), NUL, 2),
    (make_csv_body({"last_name": "a\0b"}, encoding="utf-16"), NUL, 2),
    (b"\0" + make_csv_body(), NUL, 1),
    (make_csv_body() + bytes(100), NUL_PADDING, 3),
    (make_csv_body() + bytes(7) + b"\r\n", NUL_PADDING, 3),
    (b" " * (MAX_CSV_BYTES + 1), "larger than 1,000,000 bytes", None),
    (b"\x1f\x8b" * MAX_CSV_BYTES, "larger than 1,000,000 bytes", None),
    (
        gzip.compress(bytes(MAX_CSV_BYTES + 1)),
        "the gzip data unpacks to more than 1,000,000 bytes",
        None,
    ),
    (gzip.compress(make_csv_body())[:-9], GZIP_DAMAGED, None),
    (gzip.compress(make_csv_body())[:-1] + b"\1", GZIP_DAMAGED, None),
    (b"\x1f\x8b", GZIP_DAMAGED, None),
    (
        gzip.compress(gzip.compress(make_csv_body())),
        "compressed with gzip twice; compress it once, or not at all",
        None,
    ),
    (
        gzip.compress(make_tar()),
        "this is a tar archive; drop it under a name that ends in .tar.gz",
        None,
    ),
    (
        gzip.compress(make_csv_body({"first_name": "Иван"}, encoding="cp1251")),
        "not UTF-8 at byte 30; save it as CSV UTF-8",
        2,
    ),
]


@pytest.mark.parametrize(
    ("body", "reason", "line"), ENCODING_CASES, ids=[case[1][:40] for case in ENCODING_CASES]
)
def test_parse_person_reason_names_encoding(body: bytes, reason: str, line: int | None) -> None:
    refused = refusal(body)
    assert (refused.reason, refused.line) == (reason, line)


OFFICE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
TYPE_CASES: list[tuple[bytes, str]] = [
    (make_zip("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook"),
    (make_zip("[Content_Types].xml", "word/document.xml"), "a Word or PowerPoint document"),
    (make_zip("_rels/.rels", "ppt/presentation.xml"), "a Word or PowerPoint document"),
    (
        b"PK\x03\x04" + b"mimetypeapplication/vnd.oasis.opendocument.text",
        "an OpenDocument spreadsheet",
    ),
    (OFFICE + bytes(600), "an old Excel workbook (.xls) or another file of Office"),
    (OFFICE + bytes(MAX_CSV_BYTES), "an old Excel workbook (.xls) or another file of Office"),
    (b"%PDF-2.0\n\xff", "a PDF document"),
    (b"%PDF-1.4\ntext only", "a PDF document"),
    (b"SQLite format 3\0" + bytes(50), "an SQLite database"),
    (b"PAR1\xff\0", "a Parquet file"),
    (b"{\\rtf1 a}", "an RTF document"),
    (b'\n {\n "a": [1]}', "JSON"),
    ('[{"Zoë": 1}]'.encode("latin-1"), "JSON"),
    (b'[["a", 1]]', "JSON"),
    (b'{"a":1}\n{"a":2}\n', "JSON Lines"),
    (b'\xef\xbb\xbf<?xml version="1.1"?>\n<a/>', "XML"),
    ("<users>\n<user/></users>".encode("utf-16"), "XML"),
    (b'<?xml version="1.0"?><?mso-application progid="Excel.Sheet"?>', "an Excel workbook"),
    (b'<html xmlns:x="urn:schemas-microsoft-com:office:excel">', "an Excel workbook"),
    (b"<table><tr>", "an HTML table"),
    (b"-- a dump\n\nCREATE TABLE users (a int);", "SQL"),
    (b"BEGIN:VCARD\r\nVERSION:4.0\r\n", "a vCard"),
]


@pytest.mark.parametrize(("body", "kind"), TYPE_CASES)
def test_parse_person_reason_names_other_format(body: bytes, kind: str) -> None:
    refused = refusal(body)
    assert (refused.reason, refused.line) == (f"this is {kind}; save it as CSV", None)
    assert refusal(gzip.compress(body)).reason == refused.reason or len(body) > MAX_CSV_BYTES


COMPRESSED = "this is a {} file; extract it, and drop the CSV"
IMAGE = "this is a {} image; drop images under names that end in .png, .jpg or .jpeg"
OTHER_TYPE_CASES = [
    (make_zip("1.csv"), "this is a zip archive; drop it under a name that ends in .zip"),
    (make_zip(), "this is a zip archive; drop it under a name that ends in .zip"),
    (make_tar(), "this is a tar archive; drop it under a name that ends in .tar"),
    (b"7z\xbc\xaf\x27\x1c\0\x04", COMPRESSED.format("7-Zip")),
    (b"Rar!\x1a\x07\x01\0", COMPRESSED.format("RAR")),
    (bz2.compress(make_csv_body()), COMPRESSED.format("bzip2")),
    (lzma.compress(make_csv_body()), COMPRESSED.format("xz")),
    (b"\x28\xb5\x2f\xfd\x04", COMPRESSED.format("zstd")),
    (b"\x04\x22\x4d\x18\x64", COMPRESSED.format("lz4")),
    (b"\x89PNG\r\n\x1a\n\0", IMAGE.format("PNG")),
    (b"\xff\xd8\xff\xe0\0", IMAGE.format("JPEG")),
    (b"GIF89a\0", IMAGE.format("GIF")),
    (b"II*\0\x08\0", IMAGE.format("TIFF")),
    (b"RIFF\xff\xff\0\0WEBPVP8 ", IMAGE.format("WebP")),
    (b"\0\0\0\x18ftypheic\0\0", IMAGE.format("HEIF")),
    (b"\0\0\0\x18ftypavif\0\0", IMAGE.format("AVIF")),
    (b"<!doctype HTML><title>x", Reason.WEB_PAGE),
    (b"\n<html lang='en'>", Reason.WEB_PAGE),
    (b"<Error><Code>NoSuchKey</Code></Error>", Reason.S3_ERROR),
    (
        f"--x7\r\nContent-Disposition: form-data; name=f\r\n\r\n{HEADER}a,b,1\n--x7--".encode(),
        Reason.FORM,
    ),
    (f"23;chunk-signature={'0' * 64}\r\n{HEADER}a,b,1\n\r\n".encode(), Reason.UPLOAD_CHUNKS),
    (
        f"23\r\n{HEADER}a,b,1\n\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n".encode(),
        Reason.UPLOAD_CHUNKS,
    ),
    (b"version https://git-lfs.github.com/spec/v1\n", Reason.LFS_POINTER),
    (f"<<<<<<< ours\n{HEADER}a,b,1\n".encode(), Reason.CONFLICT),
]


@pytest.mark.parametrize(("body", "reason"), OTHER_TYPE_CASES)
def test_parse_person_reason_names_other_file(body: bytes, reason: str) -> None:
    refused = refusal(body)
    assert (refused.reason, refused.line) == (str(reason), None)


def test_parse_person_accepts_header_that_begins_like_another_file() -> None:
    """Only a file that breaks a rule is asked for its type."""
    for beginning in ("%PDF-", "BZh", "GIF89a", '"{""', "<html>", "select "):
        quote = '"' if beginning[0] == '"' else ""
        body = f"{beginning}{quote},first_name,last_name,birthts\nx,Ivan,Ivanov,1\n"
        assert parse_person(body.encode()).birthts == 1


@pytest.mark.parametrize(
    "body",
    [
        b"," * MAX_CSV_BYTES,
        b'"' * MAX_CSV_BYTES,
        b'"' * (MAX_CSV_BYTES - 1),
        b'" ' * (MAX_CSV_BYTES // 2),
        b'" ,' * (MAX_CSV_BYTES // 3),
        b'" ;' * (MAX_CSV_BYTES // 3),
        b'"\n' * (MAX_CSV_BYTES // 2),
        b" " * MAX_CSV_BYTES,
        "\u00a0".encode() * (MAX_CSV_BYTES // 2),
        b"a," * (MAX_CSV_BYTES // 2),
        b"a\n" * (MAX_CSV_BYTES // 2),
        b"-- " * (MAX_CSV_BYTES // 3),
        b"sep=" + b";" * (MAX_CSV_BYTES - 4),
        b"sep=" + b" " * (MAX_CSV_BYTES - 5) + b"x",
        b"sep=" + b"\t" * (MAX_CSV_BYTES - 5) + b"x",
        b"<!--" * (MAX_CSV_BYTES // 4),
        HEADER.encode() + b"a,b,1\n" * 100_000,
        HEADER.encode() + b"a,b," + b"9" * 900_000,
        HEADER.encode() + b"a,b," + b"1 " * 60_000,
        HEADER.encode() + b"\n" * 900_000 + b"a;b;1",
        b"9" * 60 + b"x,b,c\n",
        b"1," + b"9-" * 60 + b"x\n",
        make_csv_body({"first_name": "x" * 900_000}),
        gzip.compress(b"") * 50_000,
        b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 900_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_parse_person_refuses_hostile_files(body: bytes) -> None:
    assert len(refusal(body).reason) < 200


# -- completeness ----------------------------------------------------------------------------------
def list_tested_reasons() -> set[Reason]:
    bodies: list[bytes | str] = [case[0] for case in TEXT_CASES]
    bodies += [make_csv_text({"birthts": f'"{written}"'}) for written, _ in NUMBER_CASES]
    bodies += [case[0] for case in ENCODING_CASES]
    bodies += [body for body, _ in (*TYPE_CASES, *OTHER_TYPE_CASES)]
    return {refusal(body).kind for body in bodies}


def test_each_reason_has_a_test() -> None:
    assert set(Reason) - list_tested_reasons() == set()


def test_docs_explain_each_reason() -> None:
    """The table has the published wording, with the name of a placeholder in angle brackets."""
    documented = [reason.strip("`") for reason, _, _ in rows(FORMATS, "reason | meaning | remedy")]
    assert documented == [re.sub(r"\{(\w+)\}", r"<\1>", reason) for reason in Reason]


def test_docs_name_each_kind_of_other_file() -> None:
    table = " ".join(FORMATS.split())
    assert [kind for kind in KINDS if kind not in table] == []


# -- nothing of the file ---------------------------------------------------------------------------
OWN_WORDS = "\n".join(
    [
        *(part for reason in Reason for part in re.split(r"\{\w+\}", reason)),
        *KINDS,
        *characters.DELIMITERS.values(),
        *characters.OTHER_SEPARATORS.values(),
        *characters.OTHER_LINE_ENDS.values(),
        *characters.QUOTE_MARKS.values(),
        *characters.MINUS_SIGNS.values(),
        *characters.GROUP_SEPARATORS.values(),
        "more than 100 records; missing column ; missing columns ; rename column 1 to ",
        "has  and 1 other column; and 2 other columns:; UTF-8 at byte 1",
        "UTF-16 without a byte order mark",
        "semicolons, the header; a semicolon",
    ]
)
"""The fixed wording of all reasons, without names of columns."""
foreign_texts = st.text(
    st.sampled_from("abCDeéЖ漢 0123456789-+@.,:/\"';|\t\r\n\0\u00a0\u200b{<=#"), max_size=20
)
foreign_files = st.tuples(
    st.sampled_from([",", ",", ";", "\t", "|", ":"]),
    st.lists(
        st.lists(st.one_of(foreign_texts, st.sampled_from(CSV_COLUMNS)), max_size=6), max_size=6
    ),
).map(lambda table: "\n".join(table[0].join(line) for line in table[1]))


def list_pieces(text: str, length: int = 4) -> set[str]:
    return {text[start : start + length] for start in range(len(text) - length + 1)}


def list_foreign_pieces(text: str, reason: str) -> set[str]:
    """Return the pieces of a reason that a file has as well, and that are not of our wording."""
    fragments = re.split("|".join(CSV_COLUMNS), reason)
    pieces = set().union(*map(list_pieces, fragments))
    return (pieces & list_pieces(text)) - list_pieces(OWN_WORDS)


@settings(max_examples=2000, deadline=None)
@given(
    st.one_of(
        foreign_files,
        foreign_texts.map(lambda birthts: make_csv_text({"birthts": birthts})),
        foreign_texts.map(lambda birthts: make_csv_text({"birthts": birthts}, separator=";")),
        st.lists(foreign_texts, max_size=5).map(lambda fields: HEADER + ",".join(fields)),
        foreign_texts.map(lambda title: f"{title}\n{make_csv_text()}"),
        foreign_texts.map(lambda text: f"sep={text}\n{make_csv_text()}"),
    ),
    st.sampled_from(["utf-8", "utf-16", "utf-16-le", "cp1251", "utf-7"]),
)
@example("IBAN DE89370400440532013000,secret: hunter2\n1,2\n", "utf-8")
@example(f"{HEADER[:-1]},Salary in EUR\na,b,1\n", "utf-8")
@example(HEADER + "a,b,7.3.1985\n", "utf-8")
@example("Firstname Ivan,Lastname Secret,birthday 1985\na,b,1\n", "utf-8")
def test_parse_person_reason_has_no_piece_of_file(text: str, encoding: str) -> None:
    """Any piece of four characters that both have is of our wording."""
    with contextlib.suppress(InvalidUserCsv):
        parse_person(text.encode(encoding, errors="replace"))
        return
    reason = refusal(text.encode(encoding, errors="replace")).reason
    assert list_foreign_pieces(text, reason) == set()


@pytest.mark.parametrize("reason", Reason)
def test_reason_has_only_known_placeholders(reason: Reason) -> None:
    """What stands for a placeholder is a number, a required column, or a name of a fixed list."""
    names = {name for _, name, _, _ in string.Formatter().parse(reason) if name}
    assert names <= {
        "byte",
        "character",
        "characters",
        "column",
        "columns",
        "count",
        "delimiter",
        "encoding",
        "extension",
        "found",
        "header",
        "header_line",
        "kind",
        "length",
        "missing",
        "named",
        "position",
        "quotes",
        "record",
        "renames",
        "separators",
        "used",
    }
    assert len(reason) < 200
    assert reason.isprintable()
