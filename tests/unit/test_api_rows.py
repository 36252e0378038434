"""GET /data with pages, orders, searches, fields and formats; and GET /data/{user_id}."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import pyarrow.parquet as pq
import pytest
from falcon.testing import Result
from hypothesis import given, settings
from hypothesis import strategies as st

from api.answers import formats
from api.answers.compression import compress_in_blocks, find_cut_points
from api.answers.selection import select_rows
from api.query.row_query import MAX_HTML_ROWS, RowQuery
from api.snapshot.table import EMPTY_TABLE, SnapshotTable
from api.snapshot.view import View
from shared.formats.output_csv import OUTPUT_COLUMNS, OUTPUT_HEADER, encode_row
from shared.formats.records import Row
from tests.unit.test_api_routes import REJECTS, Service

TODAY = date(2026, 6, 15)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


def body(rows: Sequence[Row]) -> bytes:
    return OUTPUT_HEADER + b"".join(map(encode_row, rows))


ROWS = [
    Row("0001", "Ivan", "Ivanov", 946674000000, ""),
    Row("0002", "Zoë", "", 1150329600000, "src-data/0002.png"),
    Row("0003", "Ann", "Lee", -1, "src-data/0003.jpg"),
    Row("0004", "ann marie", 'O"Neil, Jr', 5, ""),
    Row('a"b,c', "<b>Bob</b>", "Lee", 5, 'src-data/a"b,c.png'),
]


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    service.view = View(EMPTY_TABLE.build_next_version(body(ROWS), "etag-1"), REJECTS)
    yield service
    service.redis.close()


def ids(result: Result) -> list[str]:
    assert result.status_code == 200, result.text
    return [row["user_id"] for row in result.json]


# -- order, search, fields -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("user_id", ["0001", "0002", "0003", "0004", 'a"b,c']),
        ("-user_id", ['a"b,c', "0004", "0003", "0002", "0001"]),
        ("birthts", ["0003", "0004", 'a"b,c', "0001", "0002"]),
        ("-birthts", ["0002", "0001", "0004", 'a"b,c', "0003"]),
        ("last_name,first_name", ["0002", "0001", 'a"b,c', "0003", "0004"]),
        ("last_name,-first_name", ["0002", "0001", "0003", 'a"b,c', "0004"]),
        ("img_path", ["0001", "0004", "0002", "0003", 'a"b,c']),
    ],
)
def test_data_route_sorts_rows(service: Service, sort: str, expected: list[str]) -> None:
    result = service.get(f"/data?sort={sort}")
    assert ids(result) == expected
    assert result.content.count(b"\n") == len(ROWS)


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("ann", ["0003", "0004"]),
        ("LEE", ["0003", 'a"b,c']),
        ("lee ann", ["0003"]),
        ("ZOË", ["0002"]),
        ("ivan", ["0001"]),
        ("b>", ['a"b,c']),
        ("0001", ["0001"]),
        ("0003 ann", ["0003"]),
        ("src-data", []),
        ("nobody", []),
    ],
)
def test_data_route_search_matches_all_words(service: Service, q: str, expected: list[str]) -> None:
    result = service.get("/data?" + urlencode({"q": q}))
    assert ids(result) == expected
    assert result.headers["x-total-count"] == str(len(expected))


def test_user_route_says_where_the_row_is_in_the_table(service: Service) -> None:
    for row in ROWS:
        result = service.get(f"/data/{quote(row.user_id)}")
        page = service.get(f"/data?limit=1&offset={result.headers['x-row-offset']}")
        assert page.json == [result.json]


def test_data_route_returns_selected_fields_in_order(service: Service) -> None:
    result = service.get("/data?fields=last_name,user_id&limit=2")
    assert result.content == (
        b'[{"last_name":"Ivanov","user_id":"0001"},\n{"last_name":"","user_id":"0002"}]\n'
    )
    assert (
        service.get("/data?fields=birthts&format=csv&limit=1").content == b"birthts\n946674000000\n"
    )


def test_data_route_ignores_repeated_field(service: Service) -> None:
    sorted_once = service.get("/data?sort=user_id").content
    assert service.get("/data?sort=user_id,-user_id,user_id").content == sorted_once
    selected_once = service.get("/data?fields=user_id").content
    assert service.get("/data?fields=user_id,user_id").content == selected_once


def test_data_route_combines_all_parameters(service: Service) -> None:
    result = service.get("/data?q=e&min_age=20&sort=-birthts&fields=user_id&limit=2&offset=1")
    assert result.json == [{"user_id": 'a"b,c'}, {"user_id": "0003"}]
    assert result.headers["x-total-count"] == "3"


# -- pages -----------------------------------------------------------------------------------------
def links(result: Result) -> dict[str, str]:
    targets = {}
    for part in result.headers.get("link", "").split(", "):
        if part:
            target, _, relation = part.partition("; ")
            targets[relation.removeprefix('rel="').rstrip('"')] = target.strip("<>")
    return targets


@pytest.mark.parametrize(
    "query", ["limit=2", "limit=1&q=e", "limit=3&sort=-user_id", "limit=2&min_age=1", "limit=9"]
)
def test_data_route_next_links_visit_every_row_once(service: Service, query: str) -> None:
    expected_ids = ids(service.get("/data?" + query.partition("&")[2]))
    received_ids = []
    path = f"/data?{query}"
    while path:
        result = service.get(path)
        received_ids += ids(result)
        assert result.headers["x-total-count"] == str(len(expected_ids))
        path = links(result).get("next", "")
    assert received_ids == expected_ids


def test_data_route_links_keep_the_query(service: Service) -> None:
    targets = links(service.get("/data?limit=2&offset=2&q=%C3%AB&format=json"))
    assert targets["first"] == targets["prev"] == "/data?limit=2&offset=0&q=%C3%AB&format=json"
    targets = links(service.get("/data?limit=2&offset=2"))
    assert targets == {
        "first": "/data?limit=2&offset=0",
        "prev": "/data?limit=2&offset=0",
        "next": "/data?limit=2&offset=4",
        "last": "/data?limit=2&offset=4",
    }
    assert set(links(service.get("/data?limit=2&offset=4"))) == {"first", "prev", "last"}
    assert links(service.get("/data")) == {}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("limit=0", 0),
        ("offset=99", 0),
        ("offset=3", 2),
        ("limit=99", 5),
        ("limit=2&offset=4", 1),
        ("offset=5", 0),
    ],
)
def test_data_route_page_contains_available_rows(
    service: Service, query: str, expected: int
) -> None:
    result = service.get(f"/data?{query}")
    assert (len(result.json), result.headers["x-total-count"]) == (expected, "5")


# -- formats ---------------------------------------------------------------------------------------
def test_data_route_defaults_to_json(service: Service) -> None:
    for accept in ("*/*", "application/json", "application/*", "*/*;q=0.1", "text/html;q=0.1,*/*"):
        assert service.get("/data", Accept=accept).headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("accept", "name", "media_type"),
    [
        ("application/x-ndjson", "ndjson", "application/x-ndjson"),
        ("application/ndjson", "ndjson", "application/x-ndjson"),
        ("text/csv", "csv", "text/csv; charset=utf-8; header=present"),
        ("application/vnd.apache.parquet", "parquet", "application/vnd.apache.parquet"),
        (
            "text/csv;q=0.5, application/json;q=0.4",
            "csv",
            "text/csv; charset=utf-8; header=present",
        ),
        (BROWSER, "html", "text/html; charset=utf-8"),
    ],
)
def test_data_route_selects_format_by_accept_or_parameter(
    service: Service, accept: str, name: str, media_type: str
) -> None:
    by_accept = service.get("/data", Accept=accept)
    by_name = service.get(f"/data?format={name}", Accept="*/*")
    assert by_accept.headers["content-type"] == by_name.headers["content-type"] == media_type
    if name != "html":  # the links of the HTML page contain the query
        assert by_accept.content == by_name.content
    assert "Accept" in by_accept.headers["vary"]
    assert by_accept.headers["etag"] != service.get("/data").headers["etag"]


@pytest.mark.parametrize("accept", ["image/png", "text/plain", "nonsense", "application/json;q=0"])
def test_data_route_refuses_unknown_format(service: Service, accept: str) -> None:
    result = service.get("/data", Accept=accept)
    assert (result.status_code, result.json["type"]) == (406, "about:blank")
    assert "text/csv" in result.json["detail"]
    assert service.get("/data?format=json", Accept=accept).status_code == 200


def test_data_route_csv_equals_output_csv(service: Service) -> None:
    assert service.get("/data?format=csv").content == body(ROWS)
    assert service.get("/data?format=csv&q=lee").content == body([ROWS[2], ROWS[4]])


def test_data_route_formats_without_rows_are_valid(service: Service) -> None:
    empty_bodies = {
        name: service.get(f"/data?q=nobody&format={name}").content
        for name in ("json", "ndjson", "csv")
    }
    assert empty_bodies == {"json": b"[]\n", "ndjson": b"", "csv": OUTPUT_HEADER}
    parquet = service.get("/data?q=nobody&format=parquet").content
    assert pq.read_table(io.BytesIO(parquet)).num_rows == 0
    service.view = View(EMPTY_TABLE.build_next_version(OUTPUT_HEADER, "e"))
    for name, expected in empty_bodies.items():
        assert service.get(f"/data?format={name}").content == expected


def test_data_route_parquet_has_types_and_nulls(service: Service) -> None:
    table = pq.read_table(io.BytesIO(service.get("/data?format=parquet").content))
    assert {field.name: str(field.type) for field in table.schema} == {
        name: "int64" if name == "birthts" else "string" for name in OUTPUT_COLUMNS
    }
    assert table["img_path"].to_pylist()[:2] == [None, "src-data/0002.png"]


# -- all queries against a slow reference implementation -------------------------------------------
texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"), max_size=6)
names = (
    st.sampled_from(["Ann", "ann", "Éva", 'O"N', ",", '","first_name":', "a}", "\\", ""]) | texts
)
tables = st.dictionaries(
    st.text('01",é\U0001f600', min_size=1, max_size=3),
    st.tuples(
        names,
        names,
        st.sampled_from([0, 1, -1, 946674000000]),
        st.sampled_from(["", "src-data/x.png"]),
    ),
    max_size=12,
).map(lambda users: [Row(user_id, *rest) for user_id, rest in sorted(users.items())])
some_fields = st.lists(st.sampled_from(OUTPUT_COLUMNS), unique=True, max_size=5)
orders = st.lists(st.sampled_from(OUTPUT_COLUMNS), unique=True, max_size=3).flatmap(
    lambda columns: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in columns))
)
query_parameters = st.fixed_dictionaries(
    {},
    optional={
        "is_image_exists": st.sampled_from(["true", "false"]),
        "max_age": st.sampled_from(["30", "50"]),
        "q": st.sampled_from(["ann", "n", 'o"', "é"]),
        "sort": orders.filter(bool).map(",".join),
        "fields": some_fields.filter(bool).map(",".join),
        "limit": st.integers(0, 15).map(str),
        "offset": st.integers(0, 15).map(str),
    },
)


def evaluate_query(rows: list[Row], parameters: dict[str, str]) -> list[dict[str, Any]]:
    """Evaluate a query in plain Python, as the reference for the fast implementation."""
    query = RowQuery.parse(parameters)
    matching_rows = [
        row
        for row in rows
        if query.search is None
        or query.search in f"{row.user_id} {row.first_name} {row.last_name}".lower()
    ]
    filters = query.filters
    if filters.is_image_exists is not None:
        matching_rows = [
            row for row in matching_rows if bool(row.img_path) == filters.is_image_exists
        ]
    if filters.max_age is not None:
        matching_rows = [
            row for row in matching_rows if filters.max_age >= (26 if row.birthts > 1 else 56)
        ]
    for name, is_reverse in reversed(query.sort):
        matching_rows.sort(key=lambda row: getattr(row, name), reverse=is_reverse)
    return [
        {name: getattr(row, name) for name in query.fields or OUTPUT_COLUMNS}
        for row in matching_rows[query.paging.as_slice]
    ]


def in_each_format(table: SnapshotTable, query: RowQuery) -> Iterator[list[dict[str, Any]]]:
    rows = select_rows(table, query, TODAY).rows
    json_rows = table.select_json(rows)
    fields = query.fields
    yield [without_null(row) for row in json.loads(formats.encode_json_array(json_rows, fields))]
    lines = formats.encode_ndjson(json_rows, fields).splitlines()
    yield [without_null(json.loads(line)) for line in lines]
    csv_text = formats.encode_csv(table, rows, fields).decode()
    yield [with_integer_birthts(row) for row in csv.DictReader(io.StringIO(csv_text, newline=""))]
    parquet = io.BytesIO(formats.encode_parquet(table, rows, fields))
    yield [without_null(row) for row in pq.read_table(parquet).to_pylist()]


def without_null(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value or "" if name == "img_path" else value for name, value in row.items()}


def with_integer_birthts(row: dict[str, str]) -> dict[str, Any]:
    return {name: int(value) if name == "birthts" else value for name, value in row.items()}


@settings(deadline=None)
@given(tables, query_parameters)
def test_row_query_result_is_same_in_every_format(
    rows: list[Row], parameters: dict[str, str]
) -> None:
    table = EMPTY_TABLE.build_next_version(body(rows), "e")
    expected = evaluate_query(rows, parameters)
    for actual in in_each_format(table, RowQuery.parse(parameters)):
        assert actual == expected


# -- gzip ------------------------------------------------------------------------------------------
def make_many_rows(count: int) -> list[Row]:
    return [
        Row(f"{n:06}", f"Zoë{n}", "O'Neil", n * 7919, f"src-data/{n:06}.png" if n % 3 else "")
        for n in range(count)
    ]


@pytest.mark.parametrize(
    "query", ["", "format=ndjson", "format=csv", "q=zo", "format=html", "limit=0"]
)
def test_data_route_gzip_has_same_content_and_own_etag(service: Service, query: str) -> None:
    service.view = View(EMPTY_TABLE.build_next_version(body(make_many_rows(3000)), "e"))
    plain = service.get(f"/data?{query}")
    packed = service.get(f"/data?{query}", Accept_Encoding="br, gzip")
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.content) == plain.content
    assert packed.headers["etag"] != plain.headers["etag"]
    assert "Accept-Encoding" in packed.headers["vary"]
    assert service.get(f"/data?{query}", Accept_Encoding="gzip").content == packed.content
    etag = packed.headers["etag"]
    assert (
        service.get(f"/data?{query}", Accept_Encoding="gzip", If_None_Match=etag).status_code == 304
    )


@pytest.mark.parametrize("coding", ["identity", "br", "gzip;q=0", "gzip; q=0.0", "*;q=0", ""])
def test_data_route_sends_no_gzip_unless_accepted(service: Service, coding: str) -> None:
    assert "content-encoding" not in service.get("/data", Accept_Encoding=coding).headers


def test_gzip_blocks_recompress_only_changed_rows() -> None:
    rows = make_many_rows(30_000)
    before = EMPTY_TABLE.build_next_version(body(rows), "e")
    _, known = compress_in_blocks(
        before.json, find_cut_points(before.get_row_starts("json"), before.birthts), {}
    )
    rows[20_000] = Row("020000", "changed", "", 0, "")
    rows[10:10] = [Row("0000095", "new", "", 0, "")]
    after = before.build_next_version(body(rows), "f")
    packed, blocks = compress_in_blocks(
        after.json, find_cut_points(after.get_row_starts("json"), after.birthts), known
    )
    assert gzip.decompress(packed) == after.json
    assert len(blocks) > 15
    assert len(blocks.keys() - known.keys()) <= 4


@pytest.mark.parametrize("kind", ["json", "ndjson", "csv"])
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_table_row_starts_are_correct(kind: str, count: int) -> None:
    table = EMPTY_TABLE.build_next_version(body(make_many_rows(count)), "e")
    text = {
        "json": table.json,
        "ndjson": formats.encode_ndjson(table.select_json(None)),
        "csv": table.csv,
    }[kind]
    starts = table.get_row_starts(kind)
    assert len(starts) == count + 1
    if count:
        assert starts[-1] == len(text)
        for number in (0, count // 2, count - 1):
            assert f"{number:06}" in text[starts[number] : starts[number + 1]].decode()


def test_gzip_blocks_split_identical_rows() -> None:
    rows = [Row(f"{n:06}", "Ann", "Lee", 0, "") for n in range(40_000)]
    table = EMPTY_TABLE.build_next_version(body(rows), "e")
    packed, blocks = compress_in_blocks(
        table.json, find_cut_points(table.get_row_starts("json"), table.birthts), {}
    )
    assert gzip.decompress(packed) == table.json
    assert 4 < len(blocks) < 100


@given(st.binary(max_size=500), st.lists(st.integers(0, 500)))
def test_gzip_blocks_form_valid_stream_for_any_cut(text: bytes, places: list[int]) -> None:
    chosen = np.array(sorted({place for place in places if place <= len(text)}), np.int64)
    packed, _ = compress_in_blocks(text, chosen, {})
    assert gzip.decompress(packed) == text


# -- HTML page -------------------------------------------------------------------------------------
def test_html_page_shows_rows(service: Service) -> None:
    result = service.get("/data", Accept=BROWSER)
    assert result.text.startswith("<!doctype html>")
    assert "31 Dec 1999" in result.text
    assert '<a href="/data/0002/image">' in result.text
    assert '<a href="/">' in result.text  # the page with scripts
    assert "5 users" in result.text


def test_html_page_escapes_user_data(service: Service) -> None:
    result = service.get("/data?q=%3Cb%3Ebob&format=html")
    assert "&lt;b&gt;Bob&lt;/b&gt;" in result.text
    assert "<b>" not in result.text
    assert 'value="&lt;b&gt;bob"' in result.text
    assert 'href="/data/a%22b%2Cc/image"' in result.text


def test_html_page_has_no_scripts_or_external_resources(service: Service) -> None:
    result = service.get("/data?format=html")
    policy = result.headers["content-security-policy"]
    assert "script-src" not in policy
    assert "default-src 'none'" in policy
    assert "<script" not in result.text
    assert "http://" not in result.text.replace('charset="utf-8"', "")
    assert "https://" not in result.text


def test_html_page_shows_part_with_page_links(service: Service) -> None:
    service.view = View(EMPTY_TABLE.build_next_version(body(make_many_rows(2500)), "e"))
    result = service.get("/data?format=html")
    assert "1 to 100 of 2,500" in result.text
    assert 'href="/data?format=html&amp;offset=100"' in result.text
    assert f"1 to {MAX_HTML_ROWS:,} of 2,500" in service.get("/data?format=html&limit=2000").text


def test_html_page_etag_differs_with_links(service: Service) -> None:
    one = service.get("/data?format=html")
    other = service.get("/data", Accept=BROWSER)
    assert (one.content == other.content) == (one.headers["etag"] == other.headers["etag"])


def test_html_page_blank_form_selects_all_rows(service: Service) -> None:
    assert "5 users" in service.get("/data?q=&min_age=&max_age=&is_image_exists=&format=html").text


def test_html_page_shows_invalid_birth_date_as_number(service: Service) -> None:
    service.view = View(
        EMPTY_TABLE.build_next_version(
            OUTPUT_HEADER + b"1,,,999999999999999,\n2,,,-62135596800000,\n", "e"
        )
    )
    text = service.get("/data?format=html").text
    assert ">999999999999999<" in text
    assert "1 Jan " in text


def test_html_page_supports_sort_and_fields(service: Service) -> None:
    result = service.get("/data?format=html&sort=-birthts&fields=birthts,first_name")
    assert result.text.index("Zo") < result.text.index("Ivan")
    assert "Ivanov" not in result.text


# -- one user --------------------------------------------------------------------------------------
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.user_id)
def test_user_route_equals_entry_of_data(service: Service, row: Row) -> None:
    result = service.client.simulate_get("/data/" + row.user_id)
    assert (result.status_code, result.headers["content-type"]) == (200, "application/json")
    assert result.json in service.get("/data").json
    assert result.json["user_id"] == row.user_id
    head = service.client.simulate_head("/data/" + row.user_id)
    assert (head.status_code, head.content, head.headers) == (200, b"", result.headers)


def test_user_route_404_explains_what_is_known(service: Service) -> None:
    result = service.get("/data/nobody")
    assert (result.status_code, result.json["type"]) == (404, "/docs#not-found")
    result = service.get("/data/0009")
    assert result.status_code == 404
    assert "0009.csv, line 2: birthts: not a number" in result.json["detail"]


def test_user_route_etag_changes_only_with_its_row(service: Service) -> None:
    etag = service.get("/data/0001").headers["etag"]
    assert service.get("/data/0001", If_None_Match=etag).status_code == 304
    service.view = View(EMPTY_TABLE.build_next_version(body(ROWS[:3]), "etag-2"))
    assert service.get("/data/0001", If_None_Match=etag).status_code == 304
    service.view = View(
        EMPTY_TABLE.build_next_version(body([Row("0001", "Iwan", "", 0, "")]), "etag-3")
    )
    assert service.get("/data/0001", If_None_Match=etag).status_code == 200


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("limit=-1", "limit"), ("limit=", "limit"), ("limit=1e3", "limit"),
        ("limit=9999999999", "limit"), ("offset=x", "offset"), ("limit=1&limit=2", "limit"),
        ("sort=", "sort"), ("sort=age", "sort"), ("sort=--user_id", "sort"), ("fields=", "fields"),
        ("fields=user_id,", "fields"), ("fields=password", "fields"), ("q=", "q"), ("q=%20", "q"),
        ("q=" + "x" * 201, "q"), ("q=" + "+a" * 11, "q"), ("format=xml", "format"),
        ("format=", "format"), ("page=2", "page"),
    ],
)  # fmt: skip
def test_data_route_names_invalid_parameter_in_400(service: Service, query: str, name: str) -> None:
    result = service.get(f"/data?{query}")
    assert (result.status_code, result.json["parameter"]) == (400, name)
    assert result.headers["content-type"] == "application/problem+json"
