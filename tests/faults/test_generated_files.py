"""Generated bodies of user CSVs: each gives either a row or a reject with its reason.

An independent reader must agree with the product which of both it is, and on the row.
"""

import gzip
from typing import Any

import hypothesis
from hypothesis import example, given
from hypothesis import strategies as st

from shared.csv_reader.reasons import MAX_CSV_BYTES, InvalidUserCsv
from shared.csv_reader.user_csv import REQUIRED_COLUMNS, parse_person
from shared.formats import rejects_csv
from shared.formats.manifest import Fact, Manifest
from shared.formats.output_csv import OutputCsv, is_canonical, read_frame
from shared.formats.records import CsvVersion, InvalidCsv, Person, ReadResult, Reject, Row, ValidCsv
from tests.factories import ETAG, LAST_MODIFIED
from tests.faults.case_form import CaseForm
from tests.faults.independent_reader import read_person

LONGEST_REASON = 300
MAX_COMMON_LENGTH = 20
"""Characters that a reason and a file may have in common: names of columns."""

UNUSUAL_NAMES = [
    "", " ", "Ivan", "=1+1", "+7", "-1", "@x", "O'Neil", 'say "hi"', "a,b", "a;b", "a\tb",
    "\u202eabc", "שלום",
    "مرحبا",
    "👩‍👩‍👧", "\ufeff", "é", "e\u0301", "NA", "nan", "NULL", "\x00",
    "\x1a", "\x85", "\u2028", "\u200bIvan\ufeff", "\u00a0Ivan", "Iv\u200ban", "\u202aIvan\u202c",
    "Ivan\u200d", "'Ivan'", "“Ivan”", "Ivan, PhD", '"Ivan"', "first_name",
    "a\nb", "a\r\nb", "x" * 5000,
]  # fmt: skip
UNUSUAL_NUMBERS = [
    "946674000000", "0", "-0", "007", "-62135596800000", "-62135596800001", "253402300799999",
    "253402300800000", "9" * 15, "9" * 16, "9" * 5000, "1e3", "1.0", "+1", "--1", "0x1f", "１２",
    "١٢", "1_000", "NaN", "inf", "", " ", "1 2", "946674000000.0", "+946674000000", "7.",
    "-946674000000.00",
    ".5", "946674000000e0", "9.46674E+11", "9,46674E+11", "9.46674000000E+11", "9466740000000E-1",
    "9466740000005E-1", "0E5", "0.0E+01", "946674000000,0", "946,674,000,000", "946 674 000 000",
    "36525.875", "1999-12-31", "31.12.1999", "####", "=1", "\u2212946674000000",
    "\u200b946674000000",
    "946674000000\u00a0", "946\u00a0674", "946674000000000", "946674000000000000", "'946674000000",
    "946674000000 ms", "1e999999999", "1e-999999999", "1e9999999999", "9" * 39 + "e-30", "0" * 50,
]  # fmt: skip
NAMES = st.sampled_from(UNUSUAL_NAMES) | st.text(max_size=20)
NUMBERS = (
    st.sampled_from(UNUSUAL_NUMBERS)
    | st.integers().map(str)
    | st.integers(-(10**14), 10**14).map(str)
    | st.text("0123456789+-.eE, \u00a0", max_size=8)
    | st.from_regex(r"[+-]?[0-9]{1,13}\.(0{0,3}|[0-9]{1,2})([eE][+-]?[0-9]{1,2})?", fullmatch=True)
)
COLUMN_NAMES = st.sampled_from(
    [
        *REQUIRED_COLUMNS,
        "First Name",
        " LAST-NAME ",
        '"birthts"',
        "FirstName",
        "id",
        "",
        "birth ts",
        "ﬁrst_name",
        "first_name\u200b",
        "first\u00a0name",
        "last\u2011name",
        "\ufefflast_name",
        "birth\u00adts",
        "first\tname",
        "note",
        "'birthts'",
    ]
)


SURPLUS = st.sampled_from([[""], ["", "", ""], [" "], ["\u200b"], ['""'], ["x"], ["", "x"]])
SEPARATORS = [";", ";", "\t", "|", " , ", "; ", ":", "^", " ", "\uff0c"]
LINE_ENDS = ["\r\n", "\r", "\n\r", "\n\n", "\r\r\n", "", "\u2028", "\x1e"]
SEP_LINES = [
    "sep={}\n", "SEP={}\r\n", '"sep={}"\r', "sep={} \n", "sep={}{}\n", "sep=\n", "sep=;\n",
    '"sep=,"\n', "sep=\\t\n", 'sep="\n', "sep=", "\ufeffsep={}\n", "sep=x\n",
]  # fmt: skip
TITLES = ["# a title\n", "Users,,\n", ";;\n", '"a', "\ufeff\n", "\n"]
FILE_ENDS = ["\x1a", "\r\n\x1a", "\x1a\n", "\x1ax", "\0\0", "Total,,\n", "\n\n"]
ENCODINGS = [
    "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1", "cp1251", "utf-7",
    "cp037",
]  # fmt: skip
FORMS: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "columns": ([], st.lists(COLUMN_NAMES, max_size=6)),
    "surplus columns": ([], SURPLUS),
    "surplus values": ([], SURPLUS),
    "value count": (9, st.integers(0, 4)),
    "record count": (1, st.integers(0, 3)),
    "blank lines": (0, st.integers(0, 2)),
    "number": ("946674000000", NUMBERS),
    "name": ("Ivan", NAMES),
    "quotes": ("as needed", st.sampled_from(["always", "padded", "never", "torn"])),
    "separator": (",", st.sampled_from(SEPARATORS)),
    "record separator": ("", st.sampled_from([",", ";", "\t"])),
    "line end": ("\n", st.sampled_from(LINE_ENDS)),
    "sep line": ("", st.sampled_from(SEP_LINES)),
    "title": ("", st.sampled_from(TITLES)),
    "file end": ("", st.sampled_from(FILE_ENDS)),
    "marks": ("", st.sampled_from(["\ufeff", "\ufeff\ufeff", "\u200b"])),
    "encoding": ("utf-8", st.sampled_from(ENCODINGS)),
}
"""Each aspect of a file: its plain form, and other forms."""


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Generate something that resembles a user's CSV: a plain one with a few other forms."""
    varied = draw(st.sets(st.sampled_from(sorted(FORMS)), max_size=3))
    varied |= draw(st.sampled_from([set(), {"number"}, {"number"}, {"name"}]))

    def choose(aspect: str) -> Any:  # noqa: ANN401
        plain, others = FORMS[aspect]
        return draw(others) if aspect in varied else plain

    def choose_value(column: str) -> str:
        return str(choose("number" if "birth" in column else "name"))

    columns = choose("columns") or list(draw(st.permutations(REQUIRED_COLUMNS)))
    values = [
        [
            *[choose_value(name) for name in columns][: choose("value count")],
            *choose("surplus values"),
        ]
        for _ in range(choose("record count"))
    ]
    header = [*columns, *choose("surplus columns")]
    lines = [header, *([""] for _ in range(choose("blank lines"))), *values]
    separator = choose("separator")
    record_separator = choose("record separator") or separator
    quotes = choose("quotes")
    text = choose("sep line").replace("{}", separator) + choose("title")
    for number, line in enumerate(lines):
        used = record_separator if number else separator
        text += used.join(_quote(field, quotes, used) for field in line) + choose("line end")
    text = f"{choose('marks')}{text}{choose('file end')}"
    return text.encode(choose("encoding"), errors="replace")


def _quote(field: str, how: str, separator: str) -> str:
    if how == "never" or (how == "as needed" and not set('"\r\n' + separator) & set(field)):
        return field
    if how == "padded":
        return f" {_quote(field, 'always', separator)}\u00a0"
    return (
        '"'
        + (field if how == "torn" else field.replace('"', '""'))
        + ('"' if how != "torn" else "")
    )


@st.composite
def corrupted_tables(draw: st.DrawFn) -> bytes:
    """Generate the same with some bytes replaced or cut off."""
    body = bytearray(draw(tables()))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(body)))
        body[place : place + draw(st.integers(0, 3))] = draw(
            st.sampled_from(
                [b"", b"\x00", b"\xff", b'"', b"\xef\xbb\xbf", b"\r", b"\n", b",", b"\xed\xa0\x80"]
            )
        )
    return bytes(body[: draw(st.integers(0, len(body)))]) if draw(st.booleans()) else bytes(body)


PLAIN_BODIES = tables() | tables() | corrupted_tables() | st.binary(max_size=200)
BODIES = (
    PLAIN_BODIES
    | PLAIN_BODIES
    | PLAIN_BODIES
    | PLAIN_BODIES.map(gzip.compress)
    | st.tuples(PLAIN_BODIES, PLAIN_BODIES).map(lambda parts: b"".join(map(gzip.compress, parts)))
)
HEADER = b"first_name,last_name,birthts\n"


def test_parse_person_result_survives_publishing_for_any_bytes(form: CaseForm) -> None:
    @hypothesis.seed(form.seed)
    @form.build_settings(short=600, long=6000)
    @example(b"," * 999_999)
    @example(b"," * 1_000_001)
    @example(HEADER + b"," * 999_000)
    @example(b"first_name,last_name,birthts" + b",x" * 450_000 + b"\nA,B,1" + b"," * 90_000)
    @example(HEADER + b'"' * 999_000)
    @example(HEADER + b"A,B," + b"9" * 900_000)
    @example(HEADER + b"A" * 140_000 + b",B,1")
    @example(HEADER + b"A,B,1\n" * 100_000)
    @example(b"\n" * 999_999)
    @example(b"\r" * 999_999)
    @example((HEADER + b"A,B,1").decode().encode("utf-16")[:-1])
    @example(b"\xff\xfe\x00\xd8")
    @given(BODIES)
    def check_file(body: bytes) -> None:
        try:
            person = parse_person(body)
        except InvalidUserCsv as refusal:
            assert read_person(body) is None, refusal.reason
            check_reject_round_trip(body, refusal.reason, refusal.line)
        else:
            assert len(body) <= MAX_CSV_BYTES
            assert read_person(body) == (person.first_name, person.last_name, person.birthts)
            check_row_round_trip(person)

    check_file()


def check_row_round_trip(person: Person) -> None:
    row = Row("u", person.first_name, person.last_name, person.birthts, "src-data/u.png")
    version = CsvVersion("u.csv", ETAG, LAST_MODIFIED)
    outcome = ReadResult("u", ValidCsv(version, person), "u.png")
    assert ReadResult.from_json("u", outcome.to_json()) == outcome
    others = {user: Row(user, "", "", 0, "") for user in "av"}
    output = OutputCsv().with_changes({**others, "u": row})
    assert is_canonical(output.body)
    assert OutputCsv.repair(output.body).body is output.body
    assert list(output.iterate_rows()) == [others["a"], row, others["v"]]
    assert list(read_frame(output.body).loc[1]) == [row.user_id, *_fields(row)]
    fact = Fact("u", version, person, "u.png", is_held=False)
    assert Manifest.decode(Manifest.empty().with_changes({"u": fact}).encode()).get("u") == fact


def _fields(row: Row) -> tuple[str, str, int, str]:
    return row.first_name, row.last_name, row.birthts, row.img_path


def check_reject_round_trip(body: bytes, reason: str, line: int | None) -> None:
    assert 0 < len(reason.strip()) <= len(reason) <= LONGEST_REASON
    assert reason.isprintable()
    assert line is None or line >= 1
    assert measure_longest_quote(reason, body) <= MAX_COMMON_LENGTH
    version = CsvVersion("u.csv", ETAG, LAST_MODIFIED)
    outcome = ReadResult("u", InvalidCsv(version, reason, line), None)
    assert ReadResult.from_json("u", outcome.to_json()) == outcome
    reject = Reject("u.csv", "u", reason, line, LAST_MODIFIED, ETAG)
    assert rejects_csv.decode_rejects(rejects_csv.encode_rejects([reject])) == {"u": reject}


def measure_longest_quote(reason: str, body: bytes) -> int:
    """Return `MAX_COMMON_LENGTH` + 1 if the reason quotes more of the file than that, else 0."""
    length = MAX_COMMON_LENGTH + 1
    for columns in (",".join(REQUIRED_COLUMNS), ", ".join(REQUIRED_COLUMNS)):
        reason = reason.replace(columns, "")
    texts = [body.decode(encoding, errors="replace") for encoding in ("utf-8", "utf-16")]
    pieces = (reason[start : start + length] for start in range(len(reason) - length + 1))
    return length if any(piece in text for piece in pieces for text in texts) else 0
