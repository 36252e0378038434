"""The endpoints for files and images with an in-memory bucket: names, sizes, types and ranges."""

import shlex
from collections.abc import Iterator

import pytest
from falcon.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from api.access.access_rules import AccessRules
from api.access.auth import AuthMiddleware
from api.access.cross_site import CrossSiteMiddleware
from api.resources.image import detect_raster_type
from api.snapshot.table import EMPTY_TABLE
from api.snapshot.view import View
from api.web.transfers import SEGMENT_BYTES
from shared.csv_reader.reasons import MAX_CSV_BYTES
from shared.formats.output_csv import OUTPUT_HEADER
from shared.formats.source_keys import MAX_FILE_NAME_BYTES, explain_unusable_name
from shared.tokens import Token, TokenKind
from tests.api_parts import MAX_UPLOAD_BYTES
from tests.unit.test_api_routes import Service

PNG = b"\x89PNG\r\n\x1a\n" + b"0123456789"
LARGE = PNG + bytes(2 * SEGMENT_BYTES)


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.redis.close()


def put(service: Service, name: str, body: bytes | None = b"x", **headers: str) -> Result:
    return service.client.simulate_put(f"/files/{name}", body=body, headers=headers)


def kind(result: Result) -> str:
    assert result.headers["content-type"] == "application/problem+json"
    kind_url: str = result.json["type"]
    return kind_url.removeprefix("/docs#")


# -- upload and deletion ---------------------------------------------------------------------------
def test_files_route_put_returns_location(service: Service) -> None:
    result = put(service, "0001.csv", b"a,b")
    assert service.files.get("0001.csv").body == b"a,b"
    assert (result.status_code, result.headers["location"]) == (202, "/data/0001")
    assert result.json == {
        "name": "0001.csv",
        "user_id": "0001",
        "status": "stored",
        "size": 3,
        "etag": service.files.get_etag("0001.csv"),
        "look_at": "/data/0001",
    }


def test_files_route_reports_unreadable_file_as_409(service: Service) -> None:
    service.files.make_unreadable("1.csv")
    for method in (service.client.simulate_get, service.client.simulate_head):
        assert method("/files/1.csv").status_code == 409
    result = service.client.simulate_get("/files/1.csv")
    assert kind(result) == "unreadable"
    assert "encrypted with a key that Rowdrop does not have" in result.json["detail"]
    assert service.client.simulate_delete("/files/1.csv").status_code == 202
    assert service.client.simulate_get("/files/1.csv").status_code == 404


def test_image_route_reports_unreadable_image_as_409(service: Service) -> None:
    service.view = View(
        EMPTY_TABLE.build_next_version(OUTPUT_HEADER + b"1,A,B,1,src-data/1.png\n", "e")
    )
    service.files.make_unreadable("1.png")
    result = service.client.simulate_get("/data/1/image")
    assert (result.status_code, kind(result)) == (409, "unreadable")


def test_files_route_delete_returns_location(service: Service) -> None:
    service.files.put("ü/1.png", b"x")
    service.files.put("ü.png", b"x")
    result = service.client.simulate_delete("/files/ü.png")
    assert (result.status_code, result.headers["location"]) == (202, "/data/%C3%BC")
    # An ignored file can be deleted.
    assert service.client.simulate_delete("/files/ü/1.png").status_code == 202
    assert service.files.objects == {}
    assert kind(service.client.simulate_delete("/files/ü.png")) == "not-found"


def test_files_route_put_of_bundle_points_to_tasks(service: Service) -> None:
    result = put(service, "users.zip", b"PK")
    assert (result.status_code, result.headers["location"]) == (202, "/tasks")
    assert result.json["user_id"] is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("1.CSV", "rename it to 1.csv"),
        ("1.txt", "neither a .csv nor an image"),
        ("dir/1.csv", "in a folder"),
        (".csv", "no user id"),
        ("a%09b.csv", "control character"),
        ("x" * 252 + ".csv", "255 bytes"),
        ("%FF.csv", "UTF-8"),
    ],
)
def test_files_route_refuses_ignored_name_with_reason(
    service: Service, name: str, reason: str
) -> None:
    result = put(service, name)
    assert (result.status_code, kind(result)) == (400, "wrong-parameter")
    assert reason in result.json["detail"]
    assert service.files.objects == {}


@given(st.text(min_size=1, max_size=20).map(lambda text: f"{text}.csv"))
def test_explain_unusable_name_accepts_only_names_that_fit(name: str) -> None:
    if explain_unusable_name(name) is None:
        assert len(name.encode()) <= MAX_FILE_NAME_BYTES


@pytest.mark.parametrize(
    ("name", "limit"),
    [("1.csv", MAX_CSV_BYTES), ("1.png", MAX_UPLOAD_BYTES), ("1.jpeg", MAX_UPLOAD_BYTES)],
)
def test_files_route_limits_size_by_kind(service: Service, name: str, limit: int) -> None:
    assert put(service, name, b"x" * limit).status_code == 202
    result = put(service, name, b"x" * (limit + 1))
    assert (result.status_code, kind(result), result.json["most_bytes"]) == (
        413,
        "too-large",
        limit,
    )
    assert len(service.files.get(name).body) == limit


def test_files_route_requires_content_length(service: Service) -> None:
    result = service.client.simulate_put("/files/1.csv")
    assert (result.status_code, kind(result)) == (411, "about:blank")


def test_files_route_refuses_empty_file(service: Service) -> None:
    result = put(service, "1.csv", b"", **{"Content-Length": "0"})
    assert (result.status_code, kind(result)) == (400, "about:blank")
    assert "The body is empty (0 bytes)." in result.json["detail"]
    assert service.files.objects == {}


@pytest.mark.parametrize("size", [10, SEGMENT_BYTES + 10])
def test_files_route_discards_incomplete_upload(service: Service, size: int) -> None:
    result = put(service, "1.png", b"x" * (size - 5), **{"Content-Length": str(size)})
    assert (result.status_code, kind(result)) == (400, "about:blank")
    assert service.files.objects == {}


@pytest.mark.parametrize(
    ("header", "value", "words"),
    [
        ("Content-Type", "multipart/form-data; boundary=x", "a form (multipart/form-data, which"),
        ("Content-Type", "Multipart/Mixed", "a form (multipart/mixed, which"),
        ("Content-Type", "application/x-www-form-urlencoded", "curl -d and --data-binary send"),
        ("Content-Type", "APPLICATION/X-WWW-Form-Urlencoded ; charset=utf-8", "a form (applica"),
        ("Content-Encoding", "gzip", "encoded (Content-Encoding: gzip)"),
        ("Content-Encoding", "identity, br", "encoded (Content-Encoding: identity, br)"),
    ],
)
@pytest.mark.parametrize("name", ["1.csv", "1.png", "1.zip"])
def test_files_route_refuses_wrapped_body(
    service: Service, header: str, value: str, words: str, name: str
) -> None:
    result = put(service, name, b"x", **{header: value})
    assert (result.status_code, kind(result)) == (415, "about:blank")
    assert words in result.json["detail"]
    command = f" nothing was stored. Send the file with: curl --upload-file {name} "
    assert result.json["detail"].endswith(f"{command}http://localhost/files/{name}")
    assert result.headers["accept-encoding"] == "identity"
    assert service.files.objects == {}


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("Content-Type", "text/csv; charset=utf-8"),
        ("Content-Type", "application/octet-stream"),
        ("Content-Type", "nonsense"),
        ("Content-Encoding", "Identity"),
        ("Content-Encoding", ""),
    ],
)
def test_files_route_accepts_every_other_type(service: Service, header: str, value: str) -> None:
    assert put(service, "1.csv", b"x", **{header: value}).status_code == 202


def test_upload_command_is_quoted_for_the_shell(service: Service) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    detail = put(service, "it's%20$HOME%20[1].csv", b"x", **form).json["detail"]
    words = shlex.split(detail.partition("Send the file with: ")[2])
    assert words == [
        "curl",
        "--globoff",
        "--upload-file",
        "it's $HOME [1].csv",
        "http://localhost/files/it%27s%20%24HOME%20%5B1%5D.csv",
    ]


def test_upload_command_has_token_and_public_address() -> None:
    """The token is not in the detail, only the variable that may have it."""
    token = Token("someone", "a-token-of-more-than-20-characters", TokenKind.WRITE)
    rules = AccessRules(allowed_hosts=("drop.example",), tokens=(token,))
    service = Service(AuthMiddleware(rules), CrossSiteMiddleware(["drop.example"]))
    headers = {
        "Host": "drop.example",
        "X-Forwarded-Proto": "https",
        "Authorization": f"Bearer {token.value}",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    detail = service.client.simulate_put("/files/1.csv", body=b"x", headers=headers).json["detail"]
    service.redis.close()
    assert detail.endswith(
        'Send the file with: curl -H "Authorization: Bearer $API_TOKEN" --upload-file 1.csv '
        "https://drop.example/files/1.csv"
    )


@pytest.mark.parametrize(
    ("path", "name"), [("/data", "0001.csv"), ("/data/z%C3%AB", "z%C3%AB.csv")]
)
def test_post_data_refuses_form(service: Service, path: str, name: str) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    result = service.client.simulate_post(path, body=b"wait=60", headers=form)
    assert (result.status_code, kind(result)) == (415, "about:blank")
    assert "Parameters such as wait belong in the query string." in result.json["detail"]
    assert result.json["detail"].endswith(f"http://localhost/files/{name}")
    # Without Redis a request that is accepted gets a 503.
    empty = form | {"Content-Length": "0"}
    assert service.client.simulate_post(path, headers=empty).status_code == 503
    json_body = {"Content-Type": "application/json"}
    assert service.client.simulate_post(path, body=b"{}", headers=json_body).status_code == 503


# -- download --------------------------------------------------------------------------------------
@pytest.mark.parametrize("body", [b"", b"short", LARGE])
def test_files_route_returns_file_unchanged(service: Service, body: bytes) -> None:
    etag = service.files.put("1.png", body)
    result = service.get("/files/1.png")
    assert (result.status_code, result.content, result.headers["etag"]) == (200, body, f'"{etag}"')
    assert result.headers["content-length"] == str(len(body))
    head = service.client.simulate_head("/files/1.png")
    assert (head.status_code, head.content, head.headers) == (200, b"", result.headers)
    for form in (f'"{etag}"', f'W/"{etag}"', f'"other", "{etag}"', "*"):
        assert service.get("/files/1.png", If_None_Match=form).status_code == 304
    assert service.get("/files/1.png", If_None_Match='"other"').status_code == 200


def test_files_route_returns_file_as_attachment(service: Service) -> None:
    service.files.put("é.png", b"<script>")
    headers = service.get("/files/é.png").headers
    assert headers["content-disposition"] == "attachment; filename*=UTF-8''%C3%A9.png"
    assert headers["content-type"] == "application/octet-stream"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    ["/files/nobody.csv", "/files/a/../b", "/files/%09", "/files/" + "x" * 300, "/files/a//b"],
)
def test_files_route_missing_file_is_404(service: Service, path: str) -> None:
    for method in ("GET", "HEAD", "DELETE"):
        assert service.client.simulate_request(method, path).status_code == 404


@pytest.mark.parametrize("body", [PNG, LARGE], ids=["small", "large"])
@pytest.mark.parametrize(
    ("range_header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=5-", 5, None),
        ("bytes=-4", -4, None),
        ("bytes=3-99999999", 3, None),
        ("bytes=-99999999", 0, None),
    ],
)
def test_files_route_returns_requested_range(
    service: Service, body: bytes, range_header: str, start: int, stop: int | None
) -> None:
    service.files.put("1.png", body)
    result = service.get("/files/1.png", Range=range_header)
    expected = body[start:stop]
    assert (result.status_code, result.content) == (206, expected)
    first = body.index(expected) if len(expected) > 1 else 0
    if len(body) < 100:
        last = first + len(expected) - 1
        assert result.headers["content-range"] == f"bytes {first}-{last}/{len(body)}"


def test_files_route_returns_range_across_pieces(service: Service) -> None:
    body = bytes(range(256)) * (3 * SEGMENT_BYTES // 256)
    service.files.put("1.png", body)
    start = SEGMENT_BYTES - 10
    last = 2 * SEGMENT_BYTES + 10
    result = service.get("/files/1.png", Range=f"bytes={start}-{last}")
    assert result.content == body[start : last + 1]


@pytest.mark.parametrize("range_header", ["bytes=99-", "bytes=18-20", f"bytes={'9' * 20}-"])
def test_files_route_unsatisfiable_range_is_416(service: Service, range_header: str) -> None:
    service.files.put("1.png", PNG)
    result = service.get("/files/1.png", Range=range_header)
    assert (result.status_code, result.headers["content-range"]) == (416, "bytes */18")


@pytest.mark.parametrize(
    "range_header",
    [
        "bytes=",
        "bytes=-",
        "bytes=5-4",
        "bytes=-0",
        "bytes=0-1,3-4",
        "lines=1-2",
        "bytes=x-y",
        f"bytes=0-{'9' * 5000}",
        "1-2",
    ],
)
def test_files_route_ignores_unsupported_range(service: Service, range_header: str) -> None:
    service.files.put("1.png", PNG)
    assert service.get("/files/1.png", Range=range_header).status_code == 200


def test_files_route_ignores_range_of_another_version(service: Service) -> None:
    etag = service.files.put("1.png", PNG)
    assert service.get("/files/1.png", Range="bytes=0-1", If_Range=f'"{etag}"').status_code == 206
    assert service.get("/files/1.png", Range="bytes=0-1", If_Range='"other"').status_code == 200


# -- the list --------------------------------------------------------------------------------------
def names(result: Result) -> list[str]:
    assert result.status_code == 200
    return [file["name"] for file in result.json]


def test_files_route_lists_files_with_details(service: Service) -> None:
    etag = service.files.put("0001.csv", b"abc")
    service.files.put("1.CSV", b"")
    listed, ignored = service.get("/files").json
    assert listed == {
        "name": "0001.csv",
        "user_id": "0001",
        "size": 3,
        "etag": etag,
        "last_modified": "2026-06-15T12:00:00Z",
        "ignored": None,
    }
    assert (ignored["name"], ignored["user_id"]) == ("1.CSV", None)
    assert "rename it" in ignored["ignored"]


def test_files_route_lists_pages_by_prefix(service: Service) -> None:
    for name in ("a.csv", "b1.csv", "b2 &.csv", "b3.csv", "c.csv"):
        service.files.put(name, b"")
    result = service.get("/files?prefix=b&limit=2")
    assert names(result) == ["b1.csv", "b2 &.csv"]
    assert result.headers["link"] == '</files?prefix=b&limit=2&after=b2+%26.csv>; rel="next"'
    result = service.get("/files?prefix=b&limit=2&after=b2+%26.csv")
    assert names(result) == ["b3.csv"]
    assert "link" not in result.headers


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=" + "x" * 1025,
        "offset=1",
        "prefix=a&prefix=b",
        "prefix=..",
        "after=a//b",
    ],
)
def test_files_route_refuses_invalid_list_parameter(service: Service, query: str) -> None:
    assert kind(service.get(f"/files?{query}")) == "wrong-parameter"


# -- images ----------------------------------------------------------------------------------------
IMAGES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF",
    "image/gif": b"GIF89a\x01\x00",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
}
NO_IMAGES = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "html": b"<html><script>alert(1)</script>",
    "empty": b"",
    "wave": b"RIFF\x00\x00\x00\x00WAVEfmt ",
    "bmp": b"BM\x00\x00",
    "pdf": b"%PDF-1.7",
    "cut off": b"\x89PNG\r\n",
}


def get_image_with_body(service: Service, body: bytes) -> Result:
    service.files.put("0002.png", body)
    return service.get("/data/0002/image")


@pytest.mark.parametrize(("media_type", "body"), list(IMAGES.items()))
def test_image_route_shows_raster_image_by_content(
    service: Service, media_type: str, body: bytes
) -> None:
    result = get_image_with_body(service, body)
    assert (result.status_code, result.content) == (200, body)
    assert result.headers["content-type"] == media_type
    assert result.headers["x-content-type-options"] == "nosniff"
    assert result.headers["content-disposition"].startswith("inline")
    etag = result.headers["etag"]
    assert service.get("/data/0002/image", If_None_Match=etag).status_code == 304
    head = service.client.simulate_head("/data/0002/image")
    assert (head.status_code, head.content, head.headers) == (200, b"", result.headers)


@pytest.mark.parametrize("body", NO_IMAGES.values(), ids=NO_IMAGES.keys())
def test_image_route_refuses_other_content(service: Service, body: bytes) -> None:
    result = get_image_with_body(service, body)
    assert (result.status_code, kind(result)) == (403, "no-raster-image")


def test_image_route_reads_copy_named_by_row(service: Service) -> None:
    row = b"0001,Ivan,Ivanov,946674000000,processed-data/images/0001.png\n"
    service.view = View(table=EMPTY_TABLE.build_next_version(OUTPUT_HEADER + row, "another"))
    service.files.put("images/0001.png", b"\xff\xd8\xff from a client that guesses the name")
    assert kind(service.get("/data/0001/image")) == "not-found"
    service.copies.put("images/0001.png", PNG)
    result = service.get("/data/0001/image")
    assert (result.headers["content-type"], result.content) == ("image/png", PNG)


def test_image_route_returns_large_image_completely(service: Service) -> None:
    assert get_image_with_body(service, LARGE).content == LARGE


def test_image_route_without_row_or_image_is_404(service: Service) -> None:
    for user_id, detail in (
        ("nobody", "has no row"),
        ("0001", "has no image"),
        ("0002", "no longer exists"),  # deleted after the publish
    ):
        result = service.get(f"/data/{user_id}/image")
        assert (result.status_code, kind(result)) == (404, "not-found")
        assert detail in result.json["detail"]
    service.view = View()
    assert kind(service.get("/data/0002/image")) == "unavailable"


def test_image_route_finds_image_in_folder(service: Service) -> None:
    service.view = View(
        EMPTY_TABLE.build_next_version(OUTPUT_HEADER + b"1,,,0,src-data/a b/1.png\n", "e")
    )
    service.files.put("a b/1.png", PNG)
    assert service.get("/data/1/image").content == PNG


@given(st.binary(max_size=20))
def test_image_route_treats_no_text_as_image(body: bytes) -> None:
    if detect_raster_type(body):
        assert any(body.startswith(image[:3]) for image in IMAGES.values())


# -- outages ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/files"),
        ("GET", "/files/1.csv"),
        ("PUT", "/files/1.csv"),
        ("DELETE", "/files/1.csv"),
        ("GET", "/data/0002/image"),
    ],
)
def test_files_route_is_503_without_store_and_rows_remain(
    service: Service, method: str, path: str
) -> None:
    service.files.is_reachable = False
    result = service.client.simulate_request(method, path, body=b"x" if method == "PUT" else None)
    assert (result.status_code, kind(result)) == (503, "unavailable")
    assert "object store" in result.json["detail"]
    assert int(result.headers["retry-after"]) > 0
    assert service.get("/data").status_code == 200


def test_delete_removes_ignored_key_with_name_of_receipt(service: Service) -> None:
    service.files.put("folder/receipt", b"x")
    deleted = service.client.simulate_delete("/files/folder/receipt", headers={"Host": "localhost"})
    assert (deleted.status_code, deleted.json["look_at"]) == (202, "/errors")
    again = service.client.simulate_delete("/files/folder/receipt", headers={"Host": "localhost"})
    assert again.status_code == 405


def test_receipt_route_only_reads(service: Service) -> None:
    path = "/files/1.csv/receipt"
    for method, query in (("PUT", ""), ("DELETE", ""), ("PUT", "etag=0"), ("DELETE", "etag=0")):
        result = service.client.simulate_request(method, path, body="x", query_string=query)
        assert (result.status_code, result.headers["allow"]) == (405, "GET, HEAD")
    assert service.client.simulate_options(path).headers["allow"] == "GET, HEAD"
    allowed = service.client.simulate_options("/files/1.csv").headers["allow"]
    assert allowed == "DELETE, GET, HEAD, PUT"
