"""Tests of `shared.formats.rejects_csv`: encoding and decoding of rejects.csv."""

import csv
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.formats.output_csv import OUTPUT_HEADER, OutputCsv
from shared.formats.records import RULES_VERSION, Buckets, ReadResult, Reject
from shared.formats.rejects_csv import (
    REJECTS_HEADER,
    InvalidRejectsCsv,
    decode_rejects,
    encode_rejects,
)
from shared.formats.source_keys import (
    MAX_SHOWN_PATH_LENGTH,
    IgnoredFile,
    classify_key,
    format_member_source,
    make_csv_key,
)
from tests.factories import ETAG, make_reject
from worker.publishing.merge import PublishedTable, merge

USER_IDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
    lambda user_id: not isinstance(classify_key(make_csv_key(user_id)), IgnoredFile)
)
REASONS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]))
REJECTS = st.builds(
    Reject,
    key=USER_IDS.map(make_csv_key),
    user_id=USER_IDS,
    reason=REASONS,
    line=st.none() | st.integers(1, 10**6),
    since=st.integers(0, 4 * 10**9),
    etag=st.just(ETAG),
    rules=st.sampled_from(["1", "2"]),
)


def test_rejects_csv_without_rejects_is_header_only() -> None:
    assert encode_rejects([]) == b"key,user_id,reason,line,since,etag,rules\n"
    assert decode_rejects(encode_rejects([])) == {}


def test_rejects_csv_line_is_readable() -> None:
    line = (
        encode_rejects([make_reject("0001", reason="birthts: empty", line=2)])
        .decode()
        .splitlines()[1]
    )
    assert line == f"0001.csv,0001,birthts: empty,2,2026-11-25T20:31:28Z,{ETAG},{RULES_VERSION}"


def test_rejects_csv_omits_line_for_whole_file() -> None:
    assert b",the file is empty,,2026" in encode_rejects(
        [make_reject(reason="the file is empty", line=None)]
    )


def test_rejects_csv_is_sorted_by_code_point() -> None:
    body = encode_rejects(
        [make_reject(user_id) for user_id in ("b", "é", "B", "10", "9", "\U0001f600", "\ufffd")]
    )
    assert [record[1] for record in csv.reader(io.StringIO(body.decode()))][1:] == [
        "10", "9", "B", "b", "é", "\ufffd", "\U0001f600",
    ]  # fmt: skip


def test_rejects_csv_joins_reason_lines() -> None:
    body = encode_rejects([make_reject(reason="one\ntwo\r\nthree\u2028four")])
    assert body.count(b"\n") == 2
    assert decode_rejects(body)["1"].reason == "one two three four"


@given(st.lists(REJECTS, unique_by=lambda reject: reject.user_id))
def test_rejects_csv_decodes_encoded_rejects(rejects: list[Reject]) -> None:
    assert decode_rejects(encode_rejects(rejects)) == {reject.user_id: reject for reject in rejects}


@pytest.mark.parametrize(
    "folder",
    [
        "a\nvictim.csv,victim,the file is empty,1,2026-11-25T20:31:28Z,etag,3\nb",
        "a\rb",
        "a\0b",
        "\x1b[2J",
        '","',
        "\udcff",
        "long" * 100_000,
    ],
    ids=lambda folder: ascii(folder[:12]),
)
def test_rejects_csv_has_one_line_for_any_path(folder: str) -> None:
    """No folder in a bundle hides a reject, or adds one of another user."""
    reject = replace(make_reject("7"), key=format_member_source("b.zip", f"{folder}/7.csv"))
    body = encode_rejects([reject])
    assert decode_rejects(body) == {"7": reject}
    assert len(body.splitlines()) == 2
    assert reject.key.endswith("/7.csv")
    assert len(reject.key) <= len("b.zip#") + MAX_SHOWN_PATH_LENGTH


@given(st.lists(REJECTS, unique_by=lambda reject: reject.user_id))
def test_rejects_csv_bytes_do_not_depend_on_order(rejects: list[Reject]) -> None:
    assert encode_rejects(rejects) == encode_rejects(reversed(rejects))


@pytest.mark.parametrize(
    "body", [b"", b"a,b\n", b"\xff\xfe", REJECTS_HEADER.encode().replace(b",", b";") + b"\n"]
)
def test_rejects_csv_refuses_other_file(body: bytes) -> None:
    with pytest.raises(InvalidRejectsCsv):
        decode_rejects(body)


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
def test_rejects_csv_skips_invalid_lines(line: str) -> None:
    body = encode_rejects([make_reject("0"), make_reject("2")]).decode().splitlines()
    edited = "\n".join([*body[:2], line, *body[2:], ""])
    assert list(decode_rejects(edited.encode())) == ["0", "2"]


@given(st.binary())
def test_rejects_csv_accepts_or_refuses_any_bytes(body: bytes) -> None:
    decode_rejects(REJECTS_HEADER.encode() + b"\n" + body.decode(errors="replace").encode())
    with pytest.raises(InvalidRejectsCsv):
        decode_rejects(body)


def test_merge_keeps_rules_version_of_pending_reject() -> None:
    """A result by the rules of another release is published, and read again by a sweep."""
    result = ReadResult.from_json("1", '[["1.csv","e",7,["birthts: empty",2,"0"]],null]')
    table = PublishedTable(OutputCsv(OUTPUT_HEADER), None, {}, None)
    reject = merge(table, {"1": result}, lambda _: None, Buckets("in", "out")).rejects["1"]
    assert reject is not None
    assert (reject.rules, reject.line) == ("0", 2)
