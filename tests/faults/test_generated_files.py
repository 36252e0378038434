"""Generated bodies of user CSVs: each gives either a row or a reject with its reason."""

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

LONGEST_REASON = 300
MAX_COMMON_LENGTH = 20
"""Characters that a reason and a file may have in common: names of columns."""

UNUSUAL_NAMES = [
    "", " ", "Ivan", "=1+1", "+7", "-1", "@x", "O'Neil", 'say "hi"', "a,b", "a;b", "a\tb",
    "\u202eabc", "שלום",
    "مرحبا",
    "👩‍👩‍👧", "\ufeff", "é", "e\u0301", "NA", "nan", "NULL", "\x00",
    "\x1a", "\x85", "\u2028", "a\nb", "a\r\nb", "x" * 5000,
]  # fmt: skip
UNUSUAL_NUMBERS = [
    "946674000000", "0", "-0", "007", "-62135596800000", "-62135596800001", "253402300799999",
    "253402300800000", "9" * 15, "9" * 16, "9" * 5000, "1e3", "1.0", "+1", "--1", "0x1f", "１２",
    "١٢", "1_000", "NaN", "inf", "", " ", "1 2",
]  # fmt: skip
NAMES = st.sampled_from(UNUSUAL_NAMES) | st.text(max_size=20)
NUMBERS = (
    st.sampled_from(UNUSUAL_NUMBERS)
    | st.integers().map(str)
    | st.integers(-(10**14), 10**14).map(str)
)
ENDS = st.sampled_from(["\n", "\n", "\n", "\r\n", "\r", "\n\r", "\n\n", "\r\r\n", ""])
SEPARATORS = st.sampled_from([","] * 8 + [";", "\t", "|", " , "])
ENCODINGS = st.sampled_from(
    ["utf-8"] * 6
    + [
        "utf-8-sig",
        "utf-16",
        "utf-16-le",
        "utf-16-be",
        "utf-32",
        "latin-1",
        "cp1251",
        "utf-7",
        "cp037",
    ]
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
    ]
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """Generate something that resembles a user's CSV."""
    columns = list(draw(st.permutations(REQUIRED_COLUMNS)))
    if draw(st.integers(0, 3)) == 0:
        columns = draw(st.lists(COLUMN_NAMES, max_size=6))
    records = draw(st.sampled_from([1] * 6 + [0, 2, 3]))
    values = [
        [draw(NUMBERS if "birth" in name else NAMES) for name in columns] for _ in range(records)
    ]
    quote = draw(st.sampled_from(["as needed", "as needed", "always", "never", "torn"]))
    separator = draw(SEPARATORS)
    lines = [columns, *([""] for _ in range(draw(st.integers(0, 1)))), *values]
    text = "".join(
        separator.join(_quote(field, quote) for field in line) + draw(ENDS) for line in lines
    )
    return text.encode(draw(ENCODINGS), errors="replace")


def _quote(field: str, how: str) -> str:
    if how == "never" or (how == "as needed" and not set('",\r\n') & set(field)):
        return field
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


BODIES = tables() | tables() | corrupted_tables() | st.binary(max_size=200)
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
            check_reject_round_trip(body, refusal.reason, refusal.line)
        else:
            assert len(body) <= MAX_CSV_BYTES
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
    texts = [body.decode(encoding, errors="replace") for encoding in ("utf-8", "utf-16")]
    pieces = (reason[start : start + length] for start in range(len(reason) - length + 1))
    return length if any(piece in text for piece in pieces for text in texts) else 0
