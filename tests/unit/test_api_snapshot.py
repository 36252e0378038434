"""The snapshot: an updated table equals one that is parsed as a whole, and its JSON the rows."""

import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.answers import Answers
from api.formats import json_array
from api.snapshot import EMPTY, Table
from shared.output_csv import HEADER, InvalidOutputCsv, encode_row
from shared.records import Row

texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=8)
tables = st.dictionaries(
    st.text('0123456789",é\U0001f600', min_size=1, max_size=4),
    st.tuples(texts, texts, st.integers(-62135596800000, 253402300799999), texts),
    max_size=30,
).map(lambda users: [Row(user_id, *rest) for user_id, rest in sorted(users.items())])


def body(rows: list[Row]) -> bytes:
    return HEADER + b"".join(map(encode_row, rows))


def many(count: int) -> list[Row]:
    return [
        Row(f"{n:06}", f"Zoë{n}", "O'Neil", n * 1000, f"src-data/{n:06}.png" if n % 3 else "") for n in range(count)
    ]


def answer(row: Row) -> dict[str, Any]:
    return {
        "user_id": row.user_id,
        "first_name": row.first_name,
        "last_name": row.last_name,
        "birthts": row.birthts,
        "img_path": row.img_path or None,
    }


def same(one: Table, other: Table) -> bool:
    return (
        one.json == other.json
        and np.array_equal(one.birthts, other.birthts)
        and np.array_equal(one.birthday, other.birthday)
        and np.array_equal(one.has_image, other.has_image)
    )


@given(tables)
def test_the_json_says_what_the_rows_say(rows: list[Row]) -> None:
    assert json.loads(EMPTY.updated(body(rows), "e").json) == [answer(row) for row in rows]


@given(st.lists(tables, min_size=2, max_size=4))
def test_a_followed_table_equals_one_read_at_once(versions: list[list[Row]]) -> None:
    table = EMPTY
    for rows in versions:
        table = table.updated(body(rows), "e")
        assert same(table, EMPTY.updated(body(rows), "e"))


def test_a_large_table_is_followed_through_changes_in_many_places() -> None:
    rows = many(6000)
    table = EMPTY.updated(body(rows), "0")
    for step in range(1, 6):
        rows = [
            Row(row.user_id, f"step {step}", row.last_name, row.birthts, "") if n % (900 * step) == 7 else row
            for n, row in enumerate(rows)
            if n % 2500 != step
        ] + [Row(f"9{step}", "new", "", 0, "")]
        table = table.updated(body(rows), str(step))
        assert same(table, EMPTY.updated(body(rows), "x"))
        assert len(table) == len(rows)


def test_text_outside_ascii_is_not_escaped() -> None:
    assert "Zoë0".encode() in EMPTY.updated(body(many(1)), "e").json


def test_an_empty_table_is_an_empty_array() -> None:
    assert json.loads(EMPTY.updated(HEADER, "e").json) == []
    assert json.loads(EMPTY.updated(body(many(3)), "e").updated(HEADER, "f").json) == []


@given(tables, st.data())
def test_picked_rows_are_those_of_the_mask_in_order(rows: list[Row], data: st.DataObject) -> None:
    mask = data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows)))
    table = EMPTY.updated(body(rows), "e")
    picked = json.loads(json_array(table.pick(np.flatnonzero(np.array(mask, np.bool_)))))
    assert picked == [answer(row) for row, wanted in zip(rows, mask, strict=True) if wanted]


@pytest.mark.parametrize("count", [3, 3000])
@pytest.mark.parametrize(
    "wrong", [b"", b"x,y\n", b"\n", b"a,b,c,d,e\n", b"\xff,b,c,1,e\n", b"a,b,c,1,e", b"1,a\rb,c,1,e\n"]
)
def test_what_is_no_output_csv_is_refused_and_changes_nothing(count: int, wrong: bytes) -> None:
    table = EMPTY.updated(body(many(count)), "e")
    before = table.json
    with pytest.raises(InvalidOutputCsv):
        table.updated(body(many(count)) + wrong if wrong else wrong, "f")
    with pytest.raises(InvalidOutputCsv):
        EMPTY.updated(body(many(count)) + wrong if wrong else wrong, "f")
    assert table.json is before


def test_it_knows_who_has_a_row() -> None:
    rows = [Row(user_id, "", "", 0, "") for user_id in sorted(['a"b', "a,b", "01", "é"])]
    table = EMPTY.updated(body(rows), "e")
    assert all(table.has_row(row.user_id) for row in rows)
    assert not table.has_row("1")


def test_answers_are_kept_within_their_room_the_least_used_forgotten_first() -> None:
    answers = Answers(most_bytes=10)
    answers.keep("a", b"aaaa")
    answers.keep("b", b"bbbb")
    assert answers.get("a") == b"aaaa"
    answers.keep("c", b"cccc")
    assert (answers.get("a"), answers.get("b"), answers.get("c")) == (b"aaaa", None, b"cccc")


def test_an_answer_larger_than_all_room_is_not_kept_and_drives_nothing_out() -> None:
    answers = Answers(most_bytes=10)
    answers.keep("a", b"aaaa")
    answers.keep("b", b"b" * 11)
    assert (answers.get("a"), answers.get("b")) == (b"aaaa", None)


def test_every_row_is_a_line_of_the_answer() -> None:
    lines = EMPTY.updated(body(many(50)), "e").json.splitlines()
    assert len(lines) == 50
    assert all(first < second for first, second in pairwise(line.lstrip(b"[") for line in lines))
