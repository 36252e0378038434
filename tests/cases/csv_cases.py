"""CSVs as spreadsheets, databases and people write them."""

import gzip
import io
import zipfile

from tests.cases.case import csv_reject, csv_row

BORN = 631_152_000_000
"""1990-01-01, in milliseconds since 1970 UTC."""
HEADER = "first_name,last_name,birthts\n"
ROW = f"Ida,Lindqvist,{BORN}"


def make_csv(
    first_name: str = "Ida", birthts: str | int = BORN, last_name: str = "Lindqvist"
) -> str:
    """Return a CSV with these texts as they are, not quoted."""
    return f"{HEADER}{first_name},{last_name},{birthts}\n"


def _make_workbook(first_member: str) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr(first_member, b"<x/>")
        archive.writestr("xl/workbook.xml", b"<workbook/>")
    return target.getvalue()


DELIMITERS = [
    csv_row("semicolon", f"first_name;last_name;birthts\r\nIda;Lindqvist;{BORN}\r\n", ROW),
    csv_row(
        "semicolon-quoted",
        f'"first_name";"last_name";"birthts"\r\n"Ida";"a, b";"{BORN}"\r\n',
        f"Ida,a, b,{BORN}",
    ),
    csv_row(
        "semicolon-last-quoted", f'first_name;last_name;"birthts"\nIda;Lindqvist;{BORN}\n', ROW
    ),
    csv_row(
        "semicolon-more-columns",
        f"nr;first_name;last_name;birthts;tel\n7;Ida;Lindqvist;{BORN};x\n",
        ROW,
    ),
    csv_row("tab", f"first_name\tlast_name\tbirthts\nIda\tLindqvist\t{BORN}\n", ROW),
    csv_row(
        "tab-quoted", f'"first_name"\t"last_name"\t"birthts"\n"Ida"\t"Lindqvist"\t"{BORN}"\n', ROW
    ),
    csv_row(
        "tab-utf-16",
        f"first_name\tlast_name\tbirthts\r\nIda\tLindqvist\t{BORN}\r\n".encode("utf-16"),
        ROW,
    ),
    csv_row("pipe", f"first_name|last_name|birthts\nIda|Lindqvist|{BORN}\n", ROW),
    csv_row("semicolon-in-a-name", make_csv("Ida;Maria"), f"Ida;Maria,Lindqvist,{BORN}"),
    csv_reject(
        "semicolon-cp1252",
        f"first_name;last_name;birthts\nIda;Lindstr\u00f6m;{BORN}\n".encode("cp1252"),
        "not UTF-8",
    ),
    csv_row("sep-line", f"sep=;\r\nfirst_name;last_name;birthts\r\nIda;Lindqvist;{BORN}\r\n", ROW),
    csv_row("sep-line-quoted", f'"sep=,"\n{make_csv()}', ROW),
    csv_row(
        "sep-line-tab", f"sep=\t\nfirst_name\tlast_name\tbirthts\nIda\tLindqvist\t{BORN}\n", ROW
    ),
    csv_reject(
        "header-comma-record-semicolon", f"{HEADER}Ida;Lindqvist;{BORN}\n", "commas … semicolons"
    ),
    csv_reject(
        "header-semicolon-record-comma",
        f"first_name;last_name;birthts\nIda,Lindqvist,{BORN}\n",
        "semicolons … commas",
    ),
]
FIELDS = [
    csv_row("surplus-in-record", f"{HEADER}Ida,Lindqvist,{BORN},,\n", ROW),
    csv_row("surplus-in-header", f"first_name,last_name,birthts,,\nIda,Lindqvist,{BORN}\n", ROW),
    csv_row("surplus-in-both", f"first_name,last_name,birthts,\nIda,Lindqvist,{BORN},\n", ROW),
    csv_row("surplus-semicolon", f"first_name;last_name;birthts;\nIda;Lindqvist;{BORN};\n", ROW),
    csv_row(
        "missing-unused-fields",
        f"first_name,last_name,birthts,tel,note\nIda,Lindqvist,{BORN}\n",
        ROW,
    ),
    csv_reject("missing-birthts", f"{HEADER}Ida,Lindqvist\n", "birthts"),
    csv_reject("comma-in-a-name", make_csv(last_name="Lindqvist, MD"), "4 fields … 3 … quote"),
]
NUMBERS = [
    csv_row("fraction-of-zeros", make_csv(birthts=f"{BORN}.000"), ROW),
    csv_row("plus-sign", make_csv(birthts=f"+{BORN}"), ROW),
    csv_row("negative-with-zeros", make_csv(birthts="-86400000.0"), "Ida,Lindqvist,-86400000"),
    csv_row("lossless-exponent", make_csv(birthts="631152000000E0"), ROW),
    csv_reject("shortened", make_csv(birthts="6.31152E+11"), "shortened … without decimals"),
    csv_reject("shortened-lower-case", make_csv(birthts="6.31e11"), "shortened"),
    csv_reject(
        "shortened-decimal-comma",
        "first_name;last_name;birthts\nIda;Lindqvist;6,31152E+11\n",
        "shortened",
    ),
    csv_reject(
        "grouped-by-commas", make_csv(birthts='"631,152,000,000"'), "remove the group separators"
    ),
    csv_reject(
        "grouped-by-dots", make_csv(birthts="631.152.000.000"), "remove the group separators"
    ),
    csv_reject(
        "grouped-by-blanks", make_csv(birthts="631 152 000 000"), "remove the group separators"
    ),
    csv_reject(
        "grouped-by-no-break-spaces",
        make_csv(birthts="631\u00a0152\u00a0000\u00a0000"),
        "no-break space … remove the group separators",
    ),
    csv_reject("real-fraction", make_csv(birthts="631152000.25"), "birthts"),
]
DATES = [
    csv_reject(
        "iso-date",
        make_csv(birthts="1990-01-01"),
        "milliseconds since 1970 … 946598400000 for 1999-12-31",
    ),
    csv_reject(
        "iso-date-and-time",
        make_csv(birthts="1990-01-01T10:20:30+02:00"),
        "milliseconds since 1970",
    ),
    csv_reject("date-with-dots", make_csv(birthts="24.12.1990"), "milliseconds since 1970"),
    csv_reject("date-with-slashes", make_csv(birthts="12/24/1990"), "milliseconds since 1970"),
    csv_row(
        "seconds", make_csv(birthts="631152000"), "Ida,Lindqvist,631152000", "1970-01-08 … seconds"
    ),
    csv_row("spreadsheet-days", make_csv(birthts="32874"), "Ida,Lindqvist,32874", "1970-01-01"),
    csv_row(
        "digits-of-a-date", make_csv(birthts="19901224"), "Ida,Lindqvist,19901224", "1970-01-01"
    ),
    csv_row("year", make_csv(birthts="1990"), "Ida,Lindqvist,1990", "1970-01-01"),
    csv_row(
        "microseconds-in-range",
        make_csv(birthts="172800000000000"),
        "Ida,Lindqvist,172800000000000",
        "7445-",
    ),
    csv_reject("microseconds", make_csv(birthts="631152000000000"), "years 1 to 9999 … 1,000"),
    csv_reject("nanoseconds", make_csv(birthts="631152000000000000"), "1,000"),
]
SOMETHING_ELSE = [
    csv_reject("workbook", _make_workbook("[Content_Types].xml"), "Excel … CSV"),
    csv_reject("old-workbook", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504), "Excel … CSV"),
    csv_reject(
        "open-document",
        b"PK\x03\x04"
        + bytes(22)
        + b"\x08\0\0\0mimetypeapplication/vnd.oasis.opendocument.spreadsheet",
        "save it as CSV",
    ),
    csv_reject("pdf", b"%PDF-1.4\n%\xbf\xf7\xa2\xfe\n1 0 obj\n", "PDF"),
    csv_reject("image", b"\x89PNG\r\n\x1a\n" + bytes(20), "image"),
    csv_reject("7z", b"7z\xbc\xaf\x27\x1c\x00\x04" + bytes(24), "7-Zip"),
    csv_reject("rtf", "{\\rtf1\\ansi\\deff0 first_name,last_name,birthts\\par}", "RTF"),
    csv_reject("json", '{"first_name": "Ida", "last_name": "Lindqvist"}', "JSON"),
    csv_reject("json-list", '[{"first_name": "Ida"}]', "JSON"),
    csv_reject("json-lines", '{"first_name": "Ida"}\n{"first_name": "Ada"}\n', "JSON"),
    csv_reject("xml", '<?xml version="1.0" encoding="UTF-8"?>\n<people/>\n', "XML"),
    csv_reject("html", "<!doctype html><title>Log in</title>", "web page"),
    csv_row("gzip", gzip.compress(make_csv().encode()), ROW),
    csv_row(
        "gzip-in-two-members",
        gzip.compress(HEADER.encode()) + gzip.compress(f"{ROW}\n".encode()),
        ROW,
    ),
    csv_reject("gzip-truncated", gzip.compress(make_csv().encode())[:-9], "gzip"),
    csv_reject("gzip-of-too-much", gzip.compress(b"\n" * 1_000_001), "1,000,000"),
]
SEEN = [
    csv_reject("whole-line-quoted", f'"first_name,last_name,birthts"\n"{ROW}"\n', "quote"),
    csv_reject("fullwidth-comma", make_csv().replace(",", "\uff0c"), "comma"),
    csv_reject("colon", make_csv().replace(",", ":"), "colons … commas"),
    csv_reject("blanks", make_csv().replace(",", " "), "blank"),
    csv_reject(
        "curly-quotes",
        f"\u201cfirst_name\u201d,\u201clast_name\u201d,\u201cbirthts\u201d\n\u201cIda\u201d,\u201cLindqvist\u201d,\u201c{BORN}\u201d\n",
        "quotes",
    ),
    csv_reject(
        "single-quotes",
        f"'first_name','last_name','birthts'\n'Ida','Lindqvist','{BORN}'\n",
        "quotes",
    ),
    csv_reject(
        "comment-above-header",
        f"# nightly export\n{make_csv()}",
        "first line is not … header … line 2",
    ),
    csv_reject(
        "title-above-header",
        f"People of today,,\n{make_csv()}",
        "first line is not … header … line 2",
    ),
    csv_reject("two-records", f"{make_csv()}Ada,Berg,0\n", "2 records"),
    csv_reject("no-header", f"{ROW}\n", "header"),
]
INVISIBLE = [
    csv_row("mark-before-record", f"{HEADER}\ufeffIda,Lindqvist,{BORN}\n", ROW),
    csv_row("two-marks", f"\ufeff\ufeff{make_csv()}", ROW),
    csv_row("zero-width-in-header", make_csv().replace("birthts", "birthts\u200b"), ROW),
    csv_row("zero-width-around-number", make_csv(birthts=f"\u200b{BORN}\u200b"), ROW),
    csv_row("zero-width-around-name", make_csv("\u200bIda\u200b"), ROW),
    csv_row("zero-width-inside-name", make_csv("I\u200cda"), f"I\u200cda,Lindqvist,{BORN}"),
    csv_row("no-break-space-in-header", make_csv().replace("first_name", "first\u00a0name"), ROW),
    csv_row("no-break-spaces-around-number", make_csv(birthts=f"\u00a0{BORN}\u00a0"), ROW),
    csv_row("direction-marks", make_csv(birthts=f"\u202a{BORN}\u202c"), ROW),
    csv_row("end-mark", f"{make_csv()}\x1a", ROW),
    csv_row("end-mark-on-its-line", f"{make_csv()}\r\n\x1a\r\n", ROW),
]
CSV_CASES = [*DELIMITERS, *FIELDS, *NUMBERS, *DATES, *SOMETHING_ELSE, *SEEN, *INVISIBLE]
"""One or more inputs for each rule of docs/formats.md."""
