"""Tests which CSVs of a user are read, and as what. `test_csv_reasons` tests the others."""

import contextlib
import gzip
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.csv_reader.decoding import quote_line
from shared.csv_reader.milliseconds import MAX_DATE, MIN_DATE
from shared.csv_reader.reasons import MAX_CSV_BYTES, InvalidUserCsv
from shared.csv_reader.user_csv import parse_person
from shared.formats.records import Person
from tests.factories import CSV_COLUMNS, make_csv_body, make_csv_text, make_person

HEADER = "first_name,last_name,birthts\n"


# -- encodings and line ends -----------------------------------------------------------------------
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_parse_person_accepts_all_marked_encodings_and_line_ends(encoding: str, end: str) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""
    text = make_csv_text({"first_name": "Иван", "last_name": "Ünal 😀"}, line_end=end)
    assert parse_person((mark + text).encode(encoding)) == make_person("Иван", "Ünal 😀")


@pytest.mark.parametrize("quote", ["", '"'])
def test_parse_person_ignores_second_byte_order_mark(quote: str) -> None:
    text = f"\ufeff\ufeff{quote}first_name{quote},last_name,birthts\n\ufeffIvan,Ivanov,946674000000"
    assert parse_person(text.encode()) == make_person()


@pytest.mark.parametrize("end", ["\x1a", "\n\x1a", "\r\n\r\n\x1a\r\n", "\x1a\x1a\x1a"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_parse_person_ignores_end_mark(end: str, encoding: str) -> None:
    text = f"{HEADER}Ivan,Ivanov,946674000000{end}"
    assert parse_person(text.encode(encoding)) == make_person()


def test_parse_person_ignores_single_end_mark_byte_in_utf16() -> None:
    assert parse_person(make_csv_body(encoding="utf-16") + b"\x1a") == make_person()


def test_parse_person_keeps_end_mark_inside_name() -> None:
    assert parse_person(make_csv_body({"first_name": "a\x1ab"})).first_name == "a\x1ab"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_parse_person_unpacks_gzip(encoding: str) -> None:
    body = make_csv_body({"first_name": "Zoë"}, encoding=encoding)
    assert parse_person(gzip.compress(body)) == make_person("Zoë")
    # Tools may write several members.
    assert parse_person(gzip.compress(body[:10]) + gzip.compress(body[10:])) == make_person("Zoë")


# -- delimiters ------------------------------------------------------------------------------------
@pytest.mark.parametrize("delimiter", [";", "\t", "|", " ; "])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_parse_person_accepts_other_delimiters(delimiter: str, encoding: str) -> None:
    text = make_csv_text({"last_name": "Ivanov, Jr"}, separator=delimiter)
    assert parse_person(text.encode(encoding)) == make_person("Ivan", "Ivanov, Jr")


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_parse_person_accepts_quotes_beside_other_delimiters(delimiter: str) -> None:
    fields = {"first_name": f'"I{delimiter}v"', "last_name": '\u00a0"a ""b"""', "birthts": '"1" '}
    columns = [f'"{name}"' for name in CSV_COLUMNS]
    body = f"{delimiter.join(columns)}\n{delimiter.join(fields.values())}\n".encode()
    assert parse_person(body) == Person(f"I{delimiter}v", 'a "b"', 1)


def test_parse_person_prefers_comma_to_other_delimiters() -> None:
    body = b"first_name,last_name,birthts,first_name;last_name;birthts\nIvan,Ivanov,7,a;b;8\n"
    assert parse_person(body) == make_person(birthts=7)


def test_parse_person_skips_lines_with_only_other_delimiters() -> None:
    body = b";;\nfirst_name;last_name;birthts\n;;;\nIvan;Ivanov;946674000000\n;;\n"
    assert parse_person(body) == make_person()


@pytest.mark.parametrize(
    ("line", "delimiter"),
    [
        ("sep=;", ";"),
        ("SEP=,", ","),
        ('"sep=|"', "|"),
        ("sep=\t", "\t"),
        ("sep=\\t", "\t"),
        ("sep=^", "^"),
        ("sep=:", ":"),
        ("sep=;;;", ";"),
        ("\ufeffsep=; ", ";"),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_parse_person_obeys_sep_line(line: str, delimiter: str, end: str) -> None:
    body = f"{line}{end}{make_csv_text(separator=delimiter, line_end=end)}".encode()
    assert parse_person(body) == make_person()


def test_parse_person_counts_sep_line() -> None:
    with pytest.raises(InvalidUserCsv) as raised:
        parse_person(f"sep=,\n{HEADER}a,b,\n".encode())
    assert raised.value.line == 3


# -- the header ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "header",
    [
        "first_name,last_name,birthts",
        "First_Name,LAST_NAME,BirthTS",
        "first name,Last-Name, birthts ",
        '"first_name", "last_name" ,\t"birthts"',
        "\tFirst Name\t,last name,BIRTHTS",
        "first\u00a0name,last\u202fname,birthts",
        "\u200bfirst_name\u200b,\u200elast_name,birth\u00adts\u2060",
        "first\u2011name,la\u200dst_name,\ufeffbirthts",
    ],
)
def test_parse_person_header_ignores_case_blanks_and_hyphens(header: str) -> None:
    assert parse_person(f"{header}\nIvan,Ivanov,946674000000".encode()) == make_person()


def test_parse_person_accepts_any_column_order() -> None:
    body = b"id,birthts,,last_name,note,first_name\n7,946674000000,x,Ivanov,,Ivan\n"
    assert parse_person(body) == make_person()


# -- the record ------------------------------------------------------------------------------------
@pytest.mark.parametrize("header_end", ["", ",", ",,,", ", ,\u200b"])
@pytest.mark.parametrize("record_end", ["", ",", ',"",', ", , ,,,"])
def test_parse_person_accepts_surplus_empty_fields(header_end: str, record_end: str) -> None:
    body = f"{HEADER[:-1]}{header_end}\nIvan,Ivanov,946674000000{record_end}\n"
    assert parse_person(body.encode()) == make_person()


@pytest.mark.parametrize("record", ["Ivan,Ivanov,946674000000", "Ivan,Ivanov,946674000000,x"])
def test_parse_person_accepts_missing_unused_fields(record: str) -> None:
    body = f"{HEADER[:-1]},Note,Phone\n{record}\n"
    assert parse_person(body.encode()) == make_person()


def test_parse_person_accepts_line_break_in_other_column() -> None:
    body = b'first_name,note,last_name,birthts\nIvan,"a\nb",Ivanov,946674000000\n'
    assert parse_person(body) == make_person()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("  Ivan\t,\u00a0Ivanov ,946674000000 ", make_person()),
        ('"Ivan", "Ivanov", "946674000000"', make_person()),
        ('"Ivan" ,"Ivanov"\t,"946674000000" ', make_person()),
        ('" Ivan ","Ivanov\n",946674000000', make_person()),
        ('\u200e"Ivan"\u200e,\ufeff"Ivanov",\u00a0"946674000000"\u202c', make_person()),
        ("\u202dIvan\u202c,\u200bIvanov\u00ad,\u2060946674000000\u200f", make_person()),
        (",,946674000000", make_person("", "")),
        ('"","",946674000000', make_person("", "")),
        ("\u200b,\ufeff,946674000000", make_person("", "")),
        ('"a ""b"" , c","a,b",1', Person('a "b" , c', "a,b", 1)),
        ('5" disk,O"Brien,1', Person('5" disk', 'O"Brien', 1)),
        ('5" disk, "O""Brien" ,1', Person('5" disk', 'O"Brien', 1)),
        ("NA,null,1", Person("NA", "null", 1)),
        ("Anna Maria,van  den Berg,1", Person("Anna Maria", "van  den Berg", 1)),
        ("a\u200bb,van\u00a0der\u00adBerg,1", Person("a\u200bb", "van\u00a0der\u00adBerg", 1)),
        ("\u0d28\u0d4d\u200d,x\u200c,1", Person("\u0d28\u0d4d\u200d", "x\u200c", 1)),
        ("a\u2028b,c\x85d,1", Person("a\u2028b", "c\x85d", 1)),
    ],
)
def test_parse_person_trims_fields_only(line: str, expected: Person) -> None:
    assert parse_person(f"{HEADER}{line}\n".encode()) == expected


@pytest.mark.parametrize("blank", ["", "  ", "\t", ",,", ' , "" ,', ",,,,", "\u200b,\u00a0,"])
def test_parse_person_ignores_blank_lines(blank: str) -> None:
    body = f"{blank}\n{HEADER}{blank}\nIvan,Ivanov,946674000000\n{blank}\n\n".encode()
    assert parse_person(body) == make_person()


# -- the number ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("written", "birthts"),
    [
        ("0", 0),
        ("-0", 0),
        ("007", 7),
        ("-007", -7),
        (str(MIN_DATE), MIN_DATE),
        (str(MAX_DATE), MAX_DATE),
        ("000000000000001", 1),
        ("0000000000000000000000000001", 1),
        ("+7", 7),
        ("7.", 7),
        ("7.0", 7),
        ("-320457600000.000", -320457600000),
        ("+320457600000.0", 320457600000),
        ("320457600000E0", 320457600000),
        ("3.20457600000E+11", 320457600000),
        ("3.2045760000000e11", 320457600000),
        ("320457600000000e-3", 320457600000),
        ("0.0", 0),
        ("0.00E+00", 0),
        ("0E-5", 0),
    ],
)
def test_parse_person_accepts_exact_numbers_until_year_9999(written: str, birthts: int) -> None:
    assert parse_person(make_csv_body({"birthts": written})) == make_person(birthts=birthts)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Z"])),
    st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Z"])),
    st.sampled_from(["", " ", "\u00a0", "\u200b \ufeff"]),
    st.integers(MIN_DATE, MAX_DATE),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_parse_person_returns_any_names_unchanged(
    first: str, last: str, around: str, birthts: int, encoding: str
) -> None:
    quoted = {
        "first_name": f'{around}"{around}' + first.replace('"', '""') + f'"{around}',
        "last_name": '"' + last.replace('"', '""') + f'{around}"',
        "birthts": f"{around}{birthts}",
    }
    body = make_csv_body(quoted, encoding=encoding)
    assert parse_person(body) == Person(first, last, birthts)


def test_parse_person_limits_size_to_million_bytes() -> None:
    body = make_csv_body()
    assert parse_person(body + b"\n" * (MAX_CSV_BYTES - len(body))) == make_person()
    assert parse_person(gzip.compress(body + b"\n" * (MAX_CSV_BYTES - len(body)))) == make_person()


# -- quotes ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("line", "expected"), [(1, "Ivan\tЖ,7"), (2, ""), (3, "ü" * 199 + "…"), (4, "last"), (5, "")]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_quote_line_returns_beginning_of_line(line: int, expected: str, encoding: str) -> None:
    body = f"Ivan\tЖ,7\r\n\r{'ü' * 500}\nlast".encode(encoding)
    assert quote_line(body, line) == expected.replace("\t", "?")
    assert quote_line(gzip.compress(body), line) == expected.replace("\t", "?")


def test_quote_line_unpacks_beginning_of_gzip() -> None:
    """The caller may read only the beginning of a file; what it unpacks to is bounded."""
    text = "".join(f"line {number}\n" for number in range(1, 20_000)).encode()
    assert quote_line(gzip.compress(text)[:5000], 7) == "line 7"
    assert quote_line(gzip.compress(b"x\n" + bytes(50_000_000))[:65536], 1) == "x"
    assert quote_line(b"\x1f\x8bdamaged", 1) == ""


@given(st.binary(max_size=300), st.integers(1, 10))
def test_quote_line_is_printable_for_any_bytes(body: bytes, line: int) -> None:
    assert quote_line(body, line).isprintable()
    assert quote_line(b"\x1f\x8b" + body, line).isprintable()


# -- arbitrary bytes -------------------------------------------------------------------------------
def check_parsing(body: bytes) -> None:
    try:
        person = parse_person(body)
    except InvalidUserCsv as refused:
        assert refused.reason.isprintable()
        assert refused.line is None or refused.line >= 1
    else:
        names = person.first_name + person.last_name
        assert not re.search(r"[\0\r\n]", names)
        assert MIN_DATE <= person.birthts <= MAX_DATE
        with contextlib.suppress(UnicodeEncodeError):
            names.encode()
            return
        raise AssertionError("a name cannot be encoded as UTF-8")


@settings(max_examples=500, deadline=None)
@given(st.binary())
@example(b"\xff\xfe\x00\xd8")
@example(b"\xef\xbb\xbf\xef\xbb\xbf")
@example(b"\x1f\x8b")
@example(gzip.compress(b"")[:-3])
def test_parse_person_raises_only_documented_error_for_any_bytes(body: bytes) -> None:
    check_parsing(body)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [
                *CSV_COLUMNS,
                *"\",;\t|\n\r \0:\ufeff\u200b\u00a0\x1a\u20281-+.'éa\ud7ff",
                "\r\n",
                HEADER,
                HEADER.replace(",", ";"),
                "a,b,1",
                "a;b;1",
                "sep=",
                "E+11",
                '{"',
            ]
        ),
        max_size=30,
    ),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]),
)
def test_parse_person_handles_csv_pieces_in_any_order(pieces: list[str], encoding: str) -> None:
    check_parsing("".join(pieces).encode(encoding))


@settings(max_examples=1000, deadline=None)
@given(st.data())
def test_parse_person_handles_changed_bytes(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    body = bytearray(make_csv_body({"first_name": '"Zoë, ""x"""'}, encoding=form, line_end="\r\n"))
    if data.draw(st.booleans()):
        body = bytearray(gzip.compress(body, mtime=0))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check_parsing(bytes(body))
