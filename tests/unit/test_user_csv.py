"""Tests the parser of one user's CSV: a person, or a reason for the author of the file."""

import contextlib
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.formats.records import Person
from shared.formats.user_csv import (
    MAX_BIRTHTS,
    MAX_CSV_BYTES,
    MIN_BIRTHTS,
    InvalidUserCsv,
    parse_person,
    quote_line,
)
from tests.factories import CSV_COLUMNS, make_csv_body, make_csv_text, make_person

HEADER = "first_name,last_name,birthts\n"


def refusal(body: bytes | str) -> InvalidUserCsv:
    with pytest.raises(InvalidUserCsv) as raised:
        parse_person(body.encode() if isinstance(body, str) else body)
    assert str(raised.value) == raised.value.reason
    return raised.value


# -- valid files -----------------------------------------------------------------------------------
def test_parse_person_accepts_blanks_after_commas() -> None:
    body = b"first_name, last_name, birthts\nIvan, Ivanov, 946674000000\n"
    assert parse_person(body) == make_person()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_parse_person_accepts_all_marked_encodings_and_line_ends(encoding: str, end: str) -> None:
    mark = "\ufeff" if encoding.endswith("e") else ""
    text = make_csv_text({"first_name": "Иван", "last_name": "Ünal 😀"}, line_end=end)
    assert parse_person((mark + text).encode(encoding)) == make_person("Иван", "Ünal 😀")


@pytest.mark.parametrize(
    "header",
    [
        "first_name,last_name,birthts",
        "First_Name,LAST_NAME,BirthTS",
        "first name,Last-Name, birthts ",
        '"first_name", "last_name" ,\t"birthts"',
        "\tFirst Name\t,last name,BIRTHTS",
    ],
)
def test_parse_person_header_ignores_case_blanks_and_hyphens(header: str) -> None:
    assert parse_person(f"{header}\nIvan,Ivanov,946674000000".encode()) == make_person()


def test_parse_person_accepts_any_column_order() -> None:
    body = b"id,birthts,,last_name,note,first_name\n7,946674000000,x,Ivanov,,Ivan\n"
    assert parse_person(body) == make_person()


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
        (",,946674000000", make_person("", "")),
        ('"","",946674000000', make_person("", "")),
        ('"a ""b"" , c","a,b",1', Person('a "b" , c', "a,b", 1)),
        ('5" disk,O"Brien,1', Person('5" disk', 'O"Brien', 1)),
        ("NA,null,1", Person("NA", "null", 1)),
        ("Anna Maria,van  den Berg,1", Person("Anna Maria", "van  den Berg", 1)),
        ("a\u2028b,c\x85d,1", Person("a\u2028b", "c\x85d", 1)),
    ],
)
def test_parse_person_trims_fields_only(line: str, expected: Person) -> None:
    assert parse_person(f"{HEADER}{line}\n".encode()) == expected


@pytest.mark.parametrize("blank", ["", "  ", "\t", ",,", ' , "" ,', ",,,,"])
def test_parse_person_ignores_blank_lines(blank: str) -> None:
    body = f"{blank}\n{HEADER}{blank}\nIvan,Ivanov,946674000000\n{blank}\n\n".encode()
    assert parse_person(body) == make_person()


@pytest.mark.parametrize(
    ("written", "birthts"),
    [
        ("0", 0),
        ("-0", 0),
        ("007", 7),
        ("-007", -7),
        (str(MIN_BIRTHTS), MIN_BIRTHTS),
        (str(MAX_BIRTHTS), MAX_BIRTHTS),
        ("000000000000001", 1),
    ],
)
def test_parse_person_accepts_birth_dates_until_year_9999(written: str, birthts: int) -> None:
    assert parse_person(make_csv_body({"birthts": written})) == make_person(birthts=birthts)


@given(
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    st.integers(MIN_BIRTHTS, MAX_BIRTHTS),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_parse_person_returns_any_names_unchanged(
    first: str, last: str, birthts: int, encoding: str
) -> None:
    quoted = {
        "first_name": '"' + first.replace('"', '""') + '"',
        "last_name": '"' + last.replace('"', '""') + '"',
        "birthts": str(birthts),
    }
    body = make_csv_body(quoted, encoding=encoding)
    assert parse_person(body) == Person(first.strip(), last.strip(), birthts)


# -- invalid files ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "reason", "line"),
    [
        ("", "the file is empty", None),
        ("\ufeff\r\n \n,,\n", "the file is empty", None),
        (HEADER, "only a header, no record", 1),
        (f"\n{HEADER},,\n", "only a header, no record", 2),
        (f"{HEADER}a,b,1\n\nc,d,2\n", "2 records instead of one", 4),
        (f"{HEADER}a,b,1\n" + "c,d,2\n" * 99, "100 records instead of one", 3),
        (f"{HEADER}a,b,1\n" + "c,d,2\n" * 100, "more than 100 records instead of one", 3),
        (
            "FirstName,last_name,birthts\na,b,1\n",
            "missing column first_name; the header has last_name and birthts and 1 other column",
            1,
        ),
        (
            "Ivan,Ivanov,1\n",
            "missing columns first_name, last_name, birthts; the header has 3 other columns",
            1,
        ),
        (make_csv_text(separator=";"), "looks ';'-separated; separate the fields by commas", 1),
        (make_csv_text(separator=" ; "), "looks ';'-separated; separate the fields by commas", 1),
        (make_csv_text(separator="\t"), "looks tab-separated; separate the fields by commas", 1),
        (make_csv_text(separator="|"), "looks '|'-separated; separate the fields by commas", 1),
        (
            "birthts,First Name,first-name,last_name\n1,a,b,c",
            "column first_name appears 2 times",
            1,
        ),
        (f"{HEADER}a,b,1,2\n", "4 fields, but the header has 3 columns", 2),
        (f"{HEADER}a,b,1,\n", "4 fields, but the header has 3 columns", 2),
        (f"{HEADER}a,b\n", "missing value for birthts, column 3 of 3", 2),
        (f"{HEADER[:-1]},My Note\na,b,1\n", "missing value for column 4 of 4", 2),
        (f"{HEADER[:-1]},\na,b,1\n", "missing value for column 4 of 4", 2),
        (f"{HEADER}a,b, \n", "birthts: empty", 2),
        (
            f"{HEADER}a,b,abc\n",
            "birthts: not a whole number of milliseconds (at most 15 digits)",
            2,
        ),
        (f'{HEADER}"a\nb",c,1\n', "first_name: a line break inside the field", 2),
        (f'{HEADER}a,"b\rc",1\n', "last_name: a line break inside the field", 2),
        (f'{HEADER}a,b,"1\r\n2"\n', "birthts: a line break inside the field", 2),
        (f'{HEADER}\n"a,b,1\n', "a quote is not closed", 3),
        (f'{HEADER}"a"b,c,1\n', "a quoted field is followed by something else than a comma", 2),
    ],
)
def test_parse_person_reason_states_problem_and_line(
    body: str, reason: str, line: int | None
) -> None:
    refused = refusal(body)
    assert (refused.reason, refused.line) == (reason, line)


@pytest.mark.parametrize(
    "written",
    [
        "1.0",
        "9.46674E+11",
        "+1",
        "1_000",
        "0x1",
        "٣",
        "１",
        "--1",
        "- 1",
        "1 000",
        "9" * 16,
        "9" * 5000,
        "²",
    ],
)
def test_parse_person_refuses_other_birth_date_forms(written: str) -> None:
    assert refusal(make_csv_text({"birthts": written})).reason.startswith(
        "birthts: not a whole number"
    )


@pytest.mark.parametrize(
    "written", [str(MIN_BIRTHTS - 1), str(MAX_BIRTHTS + 1), "9" * 15, "-" + "9" * 15]
)
def test_parse_person_refuses_birth_date_outside_years(written: str) -> None:
    refused = refusal(make_csv_text({"birthts": written}))
    assert refused.reason == "birthts: not in the years 1 to 9999"


def test_parse_person_refuses_other_encoding_with_position() -> None:
    refused = refusal(make_csv_body({"first_name": "Иван"}, encoding="cp1251"))
    assert refused.reason == f"not UTF-8 at byte {len(HEADER) + 1}; save it as UTF-8"
    assert refused.line == 2


def test_parse_person_refuses_truncated_utf16() -> None:
    assert refusal(make_csv_body(encoding="utf-16")[:-1]).reason.startswith("not UTF-16 at byte ")


@pytest.mark.parametrize(
    "body", [make_csv_text({"last_name": "a\0b"}), HEADER + "a,b,1\n\0\n", "\0" + make_csv_text()]
)
def test_parse_person_refuses_nul_characters(body: str) -> None:
    refused = refusal(body)
    assert refused.reason.startswith("a NUL character")
    assert refused.line == body[: body.index("\0")].count("\n") + 1


def test_parse_person_refuses_utf16_without_bom() -> None:
    assert "save it as UTF-8" in refusal(make_csv_text().encode("utf-16-le")).reason


def test_parse_person_limits_size_to_million_bytes() -> None:
    body = make_csv_body()
    assert parse_person(body + b"\n" * (MAX_CSV_BYTES - len(body))) == make_person()
    too_large = body + b"\n" * (MAX_CSV_BYTES + 1 - len(body))
    assert refusal(too_large).reason == "larger than 1,000,000 bytes"


@pytest.mark.parametrize(
    "body",
    [
        b"," * MAX_CSV_BYTES,
        b'"' * MAX_CSV_BYTES,
        b'"' * (MAX_CSV_BYTES - 1),
        b'" ' * (MAX_CSV_BYTES // 2),
        b'" ,' * (MAX_CSV_BYTES // 3),
        b'"\n' * (MAX_CSV_BYTES // 2),
        b"a," * (MAX_CSV_BYTES // 2),
        b"a\n" * (MAX_CSV_BYTES // 2),
        HEADER.encode() + b"a,b,1\n" * 100_000,
        HEADER.encode() + b"a,b," + b"9" * 900_000,
        make_csv_body({"first_name": "x" * 900_000}),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_parse_person_refuses_hostile_files(body: bytes) -> None:
    assert len(refusal(body).reason) < 200


# -- quotes ----------------------------------------------------------------------------------------
OWN_WORDS = """
the file is empty; only a header, no record; more than 100 records instead of one
larger than 1,000,000 bytes; not UTF-8 at byte; not UTF-16 at byte; save it as UTF-8
a NUL character; if it is UTF-16 without a byte order mark, save it as UTF-8
a field is longer than 131,072 characters, or a quote is not closed
a quoted field is followed by something else than a comma
looks ';'-separated; looks tab-separated; looks '|'-separated; separate the fields by commas
missing column ; missing columns ; the header has ; and 1 other column; and 2 other columns
missing value for , column 2 of 2; fields, but the header has 2 columns; column  appears 2 times
: a line break inside the field; : empty
: not a whole number of milliseconds (at most 15 digits); : not in the years 1 to 9999
"""
"""The fixed wording of all reasons, without names of columns."""
foreign_texts = st.text(st.sampled_from("abCDeéЖ漢 0123456789-@.:/\"';|\t\r\n\0"), max_size=20)
foreign_files = st.lists(
    st.lists(st.one_of(foreign_texts, st.sampled_from(CSV_COLUMNS)), max_size=6).map(",".join),
    max_size=6,
).map("\n".join)


def list_pieces(text: str, length: int = 4) -> set[str]:
    return {text[start : start + length] for start in range(len(text) - length + 1)}


def list_foreign_pieces(text: str, reason: str) -> set[str]:
    """Return the pieces of a reason that a file has as well, and that are not of our wording."""
    fragments = re.split("|".join(CSV_COLUMNS), reason)
    pieces = set().union(*map(list_pieces, fragments))
    return (pieces & list_pieces(text)) - list_pieces(OWN_WORDS)


@settings(max_examples=1000, deadline=None)
@given(
    st.one_of(
        foreign_files,
        foreign_texts.map(lambda birthts: make_csv_text({"birthts": birthts})),
        st.lists(foreign_texts, max_size=5).map(lambda fields: HEADER + ",".join(fields)),
    ),
    st.sampled_from(["utf-8", "utf-16", "utf-16-le", "cp1251"]),
)
@example("IBAN DE89370400440532013000,secret: hunter2\n1,2\n", "utf-8")
@example(f"{HEADER[:-1]},Salary in EUR\na,b,1\n", "utf-8")
@example(HEADER + "a,b,7.3.1985\n", "utf-8")
def test_parse_person_reason_has_no_piece_of_file(text: str, encoding: str) -> None:
    """Any piece of four characters that both have is of our wording."""
    with contextlib.suppress(InvalidUserCsv):
        parse_person(text.encode(encoding, errors="replace"))
        return
    reason = refusal(text.encode(encoding, errors="replace")).reason
    assert list_foreign_pieces(text, reason) == set()


@pytest.mark.parametrize(
    ("line", "expected"), [(1, "Ivan\tЖ,7"), (2, ""), (3, "ü" * 199 + "…"), (4, "last"), (5, "")]
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_quote_line_returns_beginning_of_line(line: int, expected: str, encoding: str) -> None:
    body = f"Ivan\tЖ,7\r\n\r{'ü' * 500}\nlast".encode(encoding)
    assert quote_line(body, line) == expected.replace("\t", "?")


@given(st.binary(max_size=300), st.integers(1, 10))
def test_quote_line_is_printable_for_any_bytes(body: bytes, line: int) -> None:
    assert quote_line(body, line).isprintable()


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
        assert MIN_BIRTHTS <= person.birthts <= MAX_BIRTHTS
        with contextlib.suppress(UnicodeEncodeError):
            names.encode()
            return
        raise AssertionError("a name cannot be encoded as UTF-8")


@settings(max_examples=500)
@given(st.binary())
@example(b"\xff\xfe\x00\xd8")
@example(b"\xef\xbb\xbf\xef\xbb\xbf")
def test_parse_person_raises_only_documented_error_for_any_bytes(body: bytes) -> None:
    check_parsing(body)


@settings(max_examples=1000)
@given(
    st.lists(
        st.sampled_from(
            [
                *CSV_COLUMNS,
                *'",;\t\n\r \0',
                "\ufeff",
                "é",
                "\ud7ff",
                "1",
                "-",
                "\r\n",
                "a",
                HEADER,
                "a,b,1",
            ]
        ),
        max_size=30,
    ),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be"]),
)
def test_parse_person_handles_csv_pieces_in_any_order(pieces: list[str], encoding: str) -> None:
    check_parsing("".join(pieces).encode(encoding))


@settings(max_examples=1000)
@given(st.data())
def test_parse_person_handles_changed_bytes(data: st.DataObject) -> None:
    form = data.draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    body = bytearray(make_csv_body({"first_name": '"Zoë, ""x"""'}, encoding=form, line_end="\r\n"))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    check_parsing(bytes(body))
