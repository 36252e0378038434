"""Tests of `shared.output_csv`: lines, the table held as bytes, its repair, and DataFrames."""

import csv
import io
from dataclasses import astuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.keys import Ignored, classify, csv_key
from shared.output_csv import HEADER, InvalidOutputCsv, OutputCsv, decode_row, encode_row, is_proper, read_frame
from shared.records import Row
from tests.factories import row, rows

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0")) | st.sampled_from(
    ["", " ", '"', '""', ",", '",', ' "a" ', "NA", "null", "0001", "\ufeff", "#", "'", "a\u2028b", "=1+1"]
)
USER_IDS = (
    st.sampled_from(["1", "2", "10", "0001", 'a"', "a,b", '"', "é", "\uffff", "\U0001f600", " ", ".", "A", "a", "a.b"])
    | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
).filter(lambda user_id: not isinstance(classify(csv_key(user_id)), Ignored))
ROWS = st.builds(Row, USER_IDS, NAMES, NAMES, st.integers(-(10**14), 10**15 - 1), NAMES)
TABLES = st.lists(ROWS, max_size=30).map(lambda found: {row.user_id: row for row in found})


def output_of(table: dict[str, Row]) -> OutputCsv:
    return OutputCsv().replace(table)


def sorted_rows(table: dict[str, Row]) -> list[Row]:
    return [table[user_id] for user_id in sorted(table)]


# -- a row and its line --------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("fields", "line"),
    [
        (Row("1", "Ivan", "Ivanov", 946674000000, "src-data/1.png"), "1,Ivan,Ivanov,946674000000,src-data/1.png"),
        (Row("0001", "", "", -1, ""), "0001,,,-1,"),
        (Row("a,b", 'x "y"', '"', 0, 'src-data/a,b"'), '"a,b","x ""y""","""",0,"src-data/a,b"""'),
        (Row(" 1", " a ", "é\u2028", 0, ""), " 1, a ,é\u2028,0,"),
    ],
)
def test_a_row_is_one_line_quoted_only_where_it_must_be(fields: Row, line: str) -> None:
    assert encode_row(fields) == f"{line}\n".encode()
    assert decode_row(f"{line}\n".encode()) == decode_row(line.encode()) == fields


@given(ROWS)
def test_every_row_comes_back_and_is_what_a_csv_reader_reads(fields: Row) -> None:
    line = encode_row(fields)
    assert line.count(b"\n") == 1
    assert decode_row(line) == fields
    read = next(csv.reader(io.StringIO(line.decode(), newline=""), strict=True))
    assert read == [str(field) for field in astuple(fields)]


@pytest.mark.parametrize("field", ["a\nb", "a\rb", "\ud800"])
def test_what_cannot_stand_in_a_line_makes_none(field: str) -> None:
    with pytest.raises(ValueError, match=r"line break|surrogates"):
        encode_row(row(first_name=field))


@pytest.mark.parametrize(
    "line",
    [
        b"", b"1", b"1,a,b,2", b"1,a,b,2,c,d", b"1,a,b,x,c", b"1,a,b,,c", b"1,a,b, 2,c", b"1,a,b,1_0,c",
        b"1,a,b," + b"9" * 5000 + b",c", b"\xff,a,b,2,c", b'1,"a,b,2,c', b'1,"a"x,b,2,c', b'1,x"a,b,2,c',
        b'1,"a",b,2,c,', b'1,"a",b,2,c,d', b'1,"a",b,2', b"1,a,b,2,c\r", b"1,a\rb,b,2,c", b'1,"a",b,2,c"',
    ],
)  # fmt: skip
def test_another_line_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidOutputCsv):
        decode_row(line)


# -- the table -----------------------------------------------------------------------------------
def test_a_table_without_rows_is_the_header_alone() -> None:
    assert OutputCsv().body == HEADER == b"user_id,first_name,last_name,birthts,img_path\n"
    assert len(OutputCsv()) == 0
    assert OutputCsv().get("1") is None
    assert list(OutputCsv().rows()) == []


@pytest.mark.parametrize(
    ("body", "what"),
    [(b"", "line 1"), (HEADER[:-1], "line 1"), (b"a,b\n", "line 1"), (HEADER + b"1,a,b,2,c", "last line")],
)
def test_other_bytes_are_refused_with_what_is_wrong(body: bytes, what: str) -> None:
    with pytest.raises(InvalidOutputCsv, match=what):
        OutputCsv(body)


def test_rows_are_sorted_by_user_id_by_code_point_and_not_by_its_quoted_form() -> None:
    ids = ["\U0001f600", "b", "10", "9", "a,b", "a", "ab", "\uffff", "é", 'a"', " ", "B"]
    assert [found.user_id for found in output_of(rows(*ids)).rows()] == sorted(ids)


@settings(max_examples=300)
@given(TABLES)
def test_every_user_is_found_and_nobody_else(table: dict[str, Row]) -> None:
    output = output_of(table)
    assert len(output) == len(table)
    assert list(output.rows()) == sorted_rows(table)
    for user_id in ["1", "a", "a,b", "é", '"', "\U0001f600", "", "~", *table]:
        assert output.get(user_id) == table.get(user_id)


@settings(max_examples=300)
@given(TABLES, st.dictionaries(USER_IDS, st.none() | st.just(True)), TABLES)
def test_a_replacement_gives_the_bytes_that_a_new_table_would_have(
    table: dict[str, Row], touched: dict[str, bool | None], more: dict[str, Row]
) -> None:
    changes: dict[str, Row | None] = {user_id: row(user_id) if keep else None for user_id, keep in touched.items()}
    changes |= more
    replaced = output_of(table).replace(changes)
    expected = {user_id: found for user_id, found in (table | changes).items() if found}
    assert replaced.body == output_of(expected).body
    assert replaced.body == HEADER + b"".join(map(encode_row, sorted_rows(expected)))
    assert len(replaced) == len(expected) == replaced.body.count(b"\n") - 1


def test_a_replacement_leaves_the_old_table_as_it_was() -> None:
    old = output_of(rows("1", "2"))
    body = old.body
    old.replace({"1": None, "2": row("2", first_name="Anna"), "3": row("3")})
    assert old.body == body
    assert len(old) == 2


@given(TABLES)
def test_a_replacement_that_changes_nothing_is_the_table_itself(table: dict[str, Row]) -> None:
    output = output_of(table)
    changes: dict[str, Row | None] = {**table, "nobody": None, "nobody,": None}
    assert output.replace({}) is output
    assert output.replace(changes) is output


def test_a_row_under_another_users_id_is_refused() -> None:
    with pytest.raises(ValueError, match="another user"):
        OutputCsv().replace({"1": row("2")})


# -- files that may have been edited by hand -----------------------------------------------------
@given(TABLES)
def test_what_a_publisher_wrote_is_proper_and_its_repair_the_same_bytes(table: dict[str, Row]) -> None:
    body = output_of(table).body
    assert is_proper(body)
    assert OutputCsv.repair(body).body is body


@pytest.mark.parametrize(
    ("lines", "left"),
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
def test_a_repair_keeps_the_rows_that_can_be_read_as_a_publisher_writes_them(lines: str, left: str) -> None:
    body, expected = HEADER + lines.encode(), HEADER + left.encode()
    assert OutputCsv.repair(body).body == expected
    assert is_proper(body) == (body == expected)


def test_a_repair_takes_the_marks_of_a_spreadsheet_off() -> None:
    body = b"\xef\xbb\xbf" + HEADER.replace(b"\n", b"\r\n") + b"1,a,b,1,\r\n"
    assert OutputCsv.repair(body).body == HEADER + b"1,a,b,1,\n"


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", HEADER.replace(b",", b";"), b"1,a,b,2,c\n"])
def test_without_our_header_nothing_is_left(body: bytes) -> None:
    assert OutputCsv.repair(body).body == HEADER


def test_lines_that_are_not_utf_8_go_and_the_others_stay() -> None:
    assert OutputCsv.repair(HEADER + b"1,\xff,b,1,\n2,a,b,1,\n").body == HEADER + b"2,a,b,1,\n"


@settings(max_examples=500)
@given(st.lists(st.sampled_from([b"1", b"2", b",", b'"', b"\n", b"\r", b"-", b"a,b,1,\n", b"2,a,b,1,\n", b"\xff"])))
@example([b"\n", b"\n"])
def test_whatever_the_lines_a_repair_gives_a_proper_table(pieces: list[bytes]) -> None:
    body = HEADER + b"".join(pieces)
    repaired = OutputCsv.repair(body)
    assert is_proper(repaired.body)
    assert is_proper(body) == (repaired.body == body)
    assert [found.user_id for found in read_frame(repaired.body).itertuples()] == [
        found.user_id for found in repaired.rows()
    ]


def test_a_long_table_is_proper_across_the_blocks_in_which_it_is_read() -> None:
    body = HEADER + b"".join(encode_row(row(f"{number:06d}", last_name="x" * 60)) for number in range(60_000))
    assert is_proper(body)
    cut = body.index(b"\n", len(body) // 2) + 1
    swapped = HEADER + body[cut:] + body[len(HEADER) : cut]
    assert not is_proper(swapped)
    assert OutputCsv.repair(swapped).body == body


# -- in columns ----------------------------------------------------------------------------------
@given(TABLES)
def test_a_frame_holds_what_the_rows_hold(table: dict[str, Row]) -> None:
    frame = read_frame(output_of(table).body)
    assert list(frame.columns) == ["user_id", "first_name", "last_name", "birthts", "img_path"]
    assert frame["birthts"].dtype == "int64"
    assert [Row(*found) for found in frame.itertuples(index=False)] == sorted_rows(table)


@pytest.mark.parametrize("text", ["0001", "1e5", "NA", "null", "NaN", "", "true", "2026-11-25", " a "])
def test_text_stays_text_and_nothing_is_missing(text: str) -> None:
    frame = read_frame(output_of({"0001": row("0001", first_name=text)}).body)
    assert frame["first_name"].tolist() == [text]
    assert frame["user_id"].tolist() == ["0001"]
    assert not frame.isna().any().any()


@pytest.mark.parametrize("lines", [b"1,a,b\n", b"1,a,b,x,c\n", b"1,a,b,,c\n", b"1,\xff,b,1,c\n", b"1,a,b,1,c"])
def test_a_file_that_is_no_table_is_refused(lines: bytes) -> None:
    with pytest.raises(InvalidOutputCsv, match=r"^(a line is not a row|the last line has no line ending)$"):
        read_frame(HEADER + lines)


def test_the_longest_row_that_a_users_file_can_make_is_read() -> None:
    table = {"1": row("1", first_name='"' * 131_072, last_name="€" * 131_072)}
    body = output_of(table).body
    assert is_proper(body)
    assert read_frame(body)["last_name"].tolist() == ["€" * 131_072]
