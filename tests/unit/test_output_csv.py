"""Tests of `shared.formats.output_csv`: lines, the table as bytes, its repair, and DataFrames."""

import csv
import io
from dataclasses import astuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.formats.output_csv import (
    OUTPUT_HEADER,
    InvalidOutputCsv,
    OutputCsv,
    decode_row,
    encode_row,
    is_canonical,
    read_frame,
)
from shared.formats.records import Row
from shared.formats.source_keys import IgnoredFile, classify_key, make_csv_key
from tests.factories import make_row, make_rows

NAMES = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")
) | st.sampled_from(
    [
        "",
        " ",
        '"',
        '""',
        ",",
        '",',
        ' "a" ',
        "NA",
        "null",
        "0001",
        "\ufeff",
        "#",
        "'",
        "a\u2028b",
        "=1+1",
    ]
)
USER_IDS = (
    st.sampled_from(
        [
            "1",
            "2",
            "10",
            "0001",
            'a"',
            "a,b",
            '"',
            "é",
            "\ufffd",
            "\U0001f600",
            " ",
            ".",
            "A",
            "a",
            "a.b",
        ]
    )
    | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
).filter(lambda user_id: not isinstance(classify_key(make_csv_key(user_id)), IgnoredFile))
ROWS = st.builds(Row, USER_IDS, NAMES, NAMES, st.integers(-(10**14), 10**15 - 1), NAMES)
TABLES = st.lists(ROWS, max_size=30).map(lambda row: {row.user_id: row for row in row})


def output_of(table: dict[str, Row]) -> OutputCsv:
    return OutputCsv().with_changes(table)


def sorted_rows(table: dict[str, Row]) -> list[Row]:
    return [table[user_id] for user_id in sorted(table)]


# -- a row and its line --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (
            Row("1", "Ivan", "Ivanov", 946674000000, "src-data/1.png"),
            "1,Ivan,Ivanov,946674000000,src-data/1.png",
        ),
        (Row("0001", "", "", -1, ""), "0001,,,-1,"),
        (Row("a,b", 'x "y"', '"', 0, 'src-data/a,b"'), '"a,b","x ""y""","""",0,"src-data/a,b"""'),
        (Row(" 1", " a ", "é\u2028", 0, ""), " 1, a ,é\u2028,0,"),
    ],
)
def test_encode_row_quotes_only_where_needed(fields: Row, line: str) -> None:
    assert encode_row(fields) == f"{line}\n".encode()
    assert decode_row(f"{line}\n".encode()) == decode_row(line.encode()) == fields


@given(ROWS)
def test_encode_row_is_readable_by_csv_module(fields: Row) -> None:
    line = encode_row(fields)
    assert line.count(b"\n") == 1
    assert decode_row(line) == fields
    read = next(csv.reader(io.StringIO(line.decode(), newline=""), strict=True))
    assert read == [str(field) for field in astuple(fields)]


@pytest.mark.parametrize("field", ["a\nb", "a\rb", "\ud800"])
def test_encode_row_refuses_line_breaks_and_surrogates(field: str) -> None:
    with pytest.raises(ValueError, match=r"line break|surrogates"):
        encode_row(make_row(first_name=field))


@pytest.mark.parametrize(
    "line",
    [
        b"", b"1", b"1,a,b,2", b"1,a,b,2,c,d", b"1,a,b,x,c", b"1,a,b,,c", b"1,a,b, 2,c",
        b"1,a,b,1_0,c", b"1,a,b," + b"9" * 5000 + b",c", b"\xff,a,b,2,c", b'1,"a,b,2,c',
        b'1,"a"x,b,2,c', b'1,x"a,b,2,c', b'1,"a",b,2,c,', b'1,"a",b,2,c,d', b'1,"a",b,2',
        b"1,a,b,2,c\r", b"1,a\rb,b,2,c", b'1,"a",b,2,c"',
    ],
)  # fmt: skip
def test_decode_row_refuses_invalid_line(line: bytes) -> None:
    with pytest.raises(InvalidOutputCsv):
        decode_row(line)


# -- the table -----------------------------------------------------------------------------------
def test_output_csv_without_rows_is_header_only() -> None:
    assert OutputCsv().body == OUTPUT_HEADER == b"user_id,first_name,last_name,birthts,img_path\n"
    assert OutputCsv().row_count == 0
    assert OutputCsv().get("1") is None
    assert list(OutputCsv().iterate_rows()) == []


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "line 1"),
        (OUTPUT_HEADER[:-1], "line 1"),
        (b"a,b\n", "line 1"),
        (OUTPUT_HEADER + b"1,a,b,2,c", "last line"),
    ],
)
def test_output_csv_refuses_other_bytes_with_reason(body: bytes, what: str) -> None:
    with pytest.raises(InvalidOutputCsv, match=what):
        OutputCsv(body)


def test_output_csv_rows_are_sorted_by_code_point() -> None:
    ids = ["\U0001f600", "b", "10", "9", "a,b", "a", "ab", "\ufffd", "é", 'a"', " ", "B"]
    assert [row.user_id for row in output_of(make_rows(*ids)).iterate_rows()] == sorted(ids)


@settings(max_examples=300)
@given(TABLES)
def test_output_csv_get_finds_only_existing_users(table: dict[str, Row]) -> None:
    output = output_of(table)
    assert output.row_count == len(table)
    assert list(output.iterate_rows()) == sorted_rows(table)
    for user_id in ["1", "a", "a,b", "é", '"', "\U0001f600", "", "~", *table]:
        assert output.get(user_id) == table.get(user_id)


@settings(max_examples=300)
@given(TABLES, st.dictionaries(USER_IDS, st.none() | st.just(True)), TABLES)
def test_output_csv_with_changes_equals_new_table(
    table: dict[str, Row], touched: dict[str, bool | None], more: dict[str, Row]
) -> None:
    changes: dict[str, Row | None] = {
        user_id: make_row(user_id) if keep else None for user_id, keep in touched.items()
    }
    changes |= more
    replaced = output_of(table).with_changes(changes)
    expected = {user_id: row for user_id, row in (table | changes).items() if row}
    assert replaced.body == output_of(expected).body
    assert replaced.body == OUTPUT_HEADER + b"".join(map(encode_row, sorted_rows(expected)))
    assert replaced.row_count == len(expected) == replaced.body.count(b"\n") - 1


def test_output_csv_with_changes_leaves_original_unchanged() -> None:
    old = output_of(make_rows("1", "2"))
    body = old.body
    old.with_changes({"1": None, "2": make_row("2", first_name="Anna"), "3": make_row("3")})
    assert old.body == body
    assert old.row_count == 2


@given(TABLES)
def test_output_csv_with_no_changes_returns_itself(table: dict[str, Row]) -> None:
    output = output_of(table)
    changes: dict[str, Row | None] = {**table, "nobody": None, "nobody,": None}
    assert output.with_changes({}) is output
    assert output.with_changes(changes) is output


def test_output_csv_with_changes_refuses_row_of_another_user() -> None:
    with pytest.raises(ValueError, match="another user"):
        OutputCsv().with_changes({"1": make_row("2")})


# -- files that may have been edited by hand -----------------------------------------------------
@given(TABLES)
def test_output_csv_of_publisher_is_canonical(table: dict[str, Row]) -> None:
    body = output_of(table).body
    assert is_canonical(body)
    assert OutputCsv.repair(body).body is body


@pytest.mark.parametrize(
    ("lines", "remaining"),
    [
        ("2,a,b,1,\n1,a,b,1,\n", "1,a,b,1,\n2,a,b,1,\n"),
        ("1,a,b,1,\n1,c,d,2,\n", "1,c,d,2,\n"),
        ("1,a,b,1,", "1,a,b,1,\n"),
        ("1,a,b,1,\r\n2,a,b,1,\r\n", "1,a,b,1,\n2,a,b,1,\n"),
        ("\n1,a,b,1,\n\n", "1,a,b,1,\n"),
        ("\n", ""),
        ('"1","a",b,"1",\n', "1,a,b,1,\n"),
        ("1,a,b,007,\n2,a,b,-0,\n", "1,a,b,7,\n2,a,b,0,\n"),
        ("1,a,b,1\n2,a,b,1,\n", "2,a,b,1,\n"),
        ("1,a,b,x,\n2,a,b,1,\n", "2,a,b,1,\n"),
        ("1,a,b,,\n2,a,b,1,\n", "2,a,b,1,\n"),
        ('1,"a,b,1,\n2,a,b,1,\n', "2,a,b,1,\n"),
        ('1,"a\nb",b,1,\n2,a,b,1,\n', "2,a,b,1,\n"),
        ("1,a\rb,b,1,\n2,a,b,1,\n", "2,a,b,1,\n"),
        (",a,b,1,\n2,a,b,1,\n", "2,a,b,1,\n"),
        ("folder/1,a,b,1,\n2,a,b,1,\n", "2,a,b,1,\n"),
        ("1\t,a,b,1,\n2,a,b,1,\n", "2,a,b,1,\n"),
        ("10,a,b,1,\n9,a,b,1,\nZ,a,b,1,\n", "10,a,b,1,\n9,a,b,1,\nZ,a,b,1,\n"),
    ],
)
def test_output_csv_repair_keeps_readable_rows(lines: str, remaining: str) -> None:
    body = OUTPUT_HEADER + lines.encode()
    expected = OUTPUT_HEADER + remaining.encode()
    assert OutputCsv.repair(body).body == expected
    assert is_canonical(body) == (body == expected)


def test_output_csv_repair_removes_bom_and_carriage_returns() -> None:
    body = b"\xef\xbb\xbf" + OUTPUT_HEADER.replace(b"\n", b"\r\n") + b"1,a,b,1,\r\n"
    assert OutputCsv.repair(body).body == OUTPUT_HEADER + b"1,a,b,1,\n"


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", OUTPUT_HEADER.replace(b",", b";"), b"1,a,b,2,c\n"]
)
def test_output_csv_repair_without_header_is_empty(body: bytes) -> None:
    assert OutputCsv.repair(body).body == OUTPUT_HEADER


def test_output_csv_repair_drops_lines_not_utf8() -> None:
    repaired = OutputCsv.repair(OUTPUT_HEADER + b"1,\xff,b,1,\n2,a,b,1,\n")
    assert repaired.body == OUTPUT_HEADER + b"2,a,b,1,\n"


@settings(max_examples=500)
@given(
    st.lists(
        st.sampled_from(
            [b"1", b"2", b",", b'"', b"\n", b"\r", b"-", b"a,b,1,\n", b"2,a,b,1,\n", b"\xff"]
        )
    )
)
@example([b"\n", b"\n"])
def test_output_csv_repair_is_canonical_for_any_lines(pieces: list[bytes]) -> None:
    body = OUTPUT_HEADER + b"".join(pieces)
    repaired = OutputCsv.repair(body)
    assert is_canonical(repaired.body)
    assert is_canonical(body) == (repaired.body == body)
    assert [row.user_id for row in read_frame(repaired.body).itertuples()] == [
        row.user_id for row in repaired.iterate_rows()
    ]


def test_is_canonical_checks_across_read_blocks() -> None:
    body = OUTPUT_HEADER + b"".join(
        encode_row(make_row(f"{number:06d}", last_name="x" * 60)) for number in range(60_000)
    )
    assert is_canonical(body)
    cut = body.index(b"\n", len(body) // 2) + 1
    swapped = OUTPUT_HEADER + body[cut:] + body[len(OUTPUT_HEADER) : cut]
    assert not is_canonical(swapped)
    assert OutputCsv.repair(swapped).body == body


# -- in columns ----------------------------------------------------------------------------------
@given(TABLES)
def test_read_frame_equals_rows(table: dict[str, Row]) -> None:
    frame = read_frame(output_of(table).body)
    assert list(frame.columns) == ["user_id", "first_name", "last_name", "birthts", "img_path"]
    assert frame["birthts"].dtype == "int64"
    assert [Row(*row) for row in frame.itertuples(index=False)] == sorted_rows(table)


@pytest.mark.parametrize(
    "text", ["0001", "1e5", "NA", "null", "NaN", "", "true", "2026-11-25", " a "]
)
def test_read_frame_keeps_text_and_has_no_missing_values(text: str) -> None:
    frame = read_frame(output_of({"0001": make_row("0001", first_name=text)}).body)
    assert frame["first_name"].tolist() == [text]
    assert frame["user_id"].tolist() == ["0001"]
    assert not frame.isna().any().any()


@pytest.mark.parametrize(
    "lines", [b"1,a,b\n", b"1,a,b,x,c\n", b"1,a,b,,c\n", b"1,\xff,b,1,c\n", b"1,a,b,1,c"]
)
def test_read_frame_refuses_invalid_table(lines: bytes) -> None:
    with pytest.raises(
        InvalidOutputCsv, match=r"^(a line is not a row|the last line has no line ending)$"
    ):
        read_frame(OUTPUT_HEADER + lines)


def test_read_frame_accepts_longest_possible_row() -> None:
    table = {"1": make_row("1", first_name='"' * 131_072, last_name="€" * 131_072)}
    body = output_of(table).body
    assert is_canonical(body)
    assert read_frame(body)["last_name"].tolist() == ["€" * 131_072]
