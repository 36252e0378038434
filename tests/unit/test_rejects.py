"""Tests of `shared.rejects`: encoding and decoding of rejects.csv."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.keys import Ignored, classify, csv_key
from shared.records import Reject
from shared.rejects import HEADER, InvalidRejectsCsv, decode, encode
from tests.factories import ETAG, reject

USER_IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda user_id: not isinstance(classify(csv_key(user_id)), Ignored)
)
REASONS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]))
REJECTS = st.builds(
    Reject,
    key=USER_IDS.map(csv_key),
    user_id=USER_IDS,
    reason=REASONS,
    line=st.none() | st.integers(1, 10**6),
    since=st.integers(0, 4 * 10**9),
    etag=st.just(ETAG),
    rules=st.sampled_from(["1", "2"]),
)


def test_without_rejects_there_is_the_header_alone() -> None:
    assert encode([]) == b"key,user_id,reason,line,since,etag,rules\n"
    assert decode(encode([])) == {}


def test_a_reject_is_a_line_that_people_can_read() -> None:
    line = encode([reject("0001", reason="birthts: empty", line=2)]).decode().splitlines()[1]
    assert line == f"0001.csv,0001,birthts: empty,2,2026-11-25T20:31:28Z,{ETAG},1"


def test_a_reject_of_the_whole_file_has_no_line_number() -> None:
    assert b",the file is empty,,2026" in encode([reject(reason="the file is empty", line=None)])


def test_rejects_are_sorted_by_user_id_by_code_point() -> None:
    body = encode([reject(user_id) for user_id in ("b", "é", "B", "10", "9", "\U0001f600", "\uffff")])
    assert [record[1] for record in csv.reader(io.StringIO(body.decode()))][1:] == [
        "10", "9", "B", "b", "é", "\uffff", "\U0001f600",
    ]  # fmt: skip


def test_a_reason_with_line_breaks_becomes_one_line() -> None:
    body = encode([reject(reason="one\ntwo\r\nthree\u2028four")])
    assert body.count(b"\n") == 2
    assert decode(body)["1"].reason == "one two three four"


@given(st.lists(REJECTS, unique_by=lambda found: found.user_id))
def test_what_is_written_is_read_again(rejects: list[Reject]) -> None:
    assert decode(encode(rejects)) == {found.user_id: found for found in rejects}


@given(st.lists(REJECTS, unique_by=lambda found: found.user_id))
def test_the_same_rejects_always_give_the_same_bytes(rejects: list[Reject]) -> None:
    assert encode(rejects) == encode(reversed(rejects))


@pytest.mark.parametrize("body", [b"", b"a,b\n", b"\xff\xfe", HEADER.encode().replace(b",", b";") + b"\n"])
def test_another_file_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRejectsCsv):
        decode(body)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "1.csv,1",
        '"1.csv,1,reason,2,2026-11-25T20:31:28Z,e,1',
        '"1".csv,1,reason,2,2026-11-25T20:31:28Z,e,1',
        "1.csv,1,reason,two,2026-11-25T20:31:28Z,e,1",
        "1.csv,1,reason,2,yesterday,e,1",
        "1.csv,1,reason,2,2026-11-25T20:31:28Z,e,1,more",
    ],
)
def test_a_line_that_is_no_reject_is_left_out_and_the_others_stay(line: str) -> None:
    body = encode([reject("0"), reject("2")]).decode().splitlines()
    edited = "\n".join([*body[:2], line, *body[2:], ""])
    assert list(decode(edited.encode())) == ["0", "2"]


@given(st.binary())
def test_whatever_the_bytes_there_are_rejects_or_the_refusal(noise: bytes) -> None:
    decode(HEADER.encode() + b"\n" + noise.decode(errors="replace").encode())
    with pytest.raises(InvalidRejectsCsv):
        decode(noise)
