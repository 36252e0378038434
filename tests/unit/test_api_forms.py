"""POST /files: the upload form of the page without scripts."""

from collections.abc import Iterator, Sequence

import pytest
from falcon.testing import Result

from tests.api_parts import MAX_UPLOAD_BYTES
from tests.unit.test_api_routes import Service

BOUNDARY = "a-boundary-of-the-tests"
ADA = b"first_name,last_name,birthts\nAda,Lovelace,0\n"


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.redis.close()


def encode_form(files: Sequence[tuple[str, bytes]]) -> bytes:
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        f"Content-Type: application/octet-stream\r\n\r\n".encode()
        + content
        + b"\r\n"
        for name, content in files
    ]
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def post(service: Service, body: bytes, **headers: str) -> Result:
    sent = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}", "Host": "localhost"}
    sent |= {name.replace("_", "-"): text for name, text in headers.items()}
    return service.client.simulate_post("/files", body=body, headers=sent)


def test_form_stores_all_of_its_files(service: Service) -> None:
    result = post(service, encode_form([("ada.csv", ADA), ("Zoë.png", b"image")]))
    assert result.status_code == 200
    assert result.headers["content-type"] == "text/html; charset=utf-8"
    assert "<li>ada.csv</li><li>Zoë.png</li>" in result.text
    assert service.files.get("ada.csv").body == ADA
    assert service.files.get("Zoë.png").body == b"image"


def test_form_shows_file_names_as_text(service: Service) -> None:
    result = post(service, encode_form([("<b>.csv", ADA)]))
    assert "<li>&lt;b&gt;.csv</li>" in result.text


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        pytest.param("notes.txt", ADA, 400, id="ignored name"),
        pytest.param("../ada.csv", ADA, 400, id="folder"),
        pytest.param("ada.csv", b"", 400, id="empty"),
        pytest.param("ada.csv", b"x" * 1_000_001, 413, id="large CSV"),
        pytest.param("ada.png", b"x" * (MAX_UPLOAD_BYTES + 1), 413, id="large image"),
        pytest.param("ada.png", b"x" * (MAX_UPLOAD_BYTES + 30_000), 413, id="large form"),
        pytest.param("", b"", 400, id="no file chosen"),
    ],
)
def test_form_refuses_what_put_refuses(
    service: Service, name: str, content: bytes, status: int
) -> None:
    assert post(service, encode_form([(name, content)])).status_code == status
    assert list(service.files.list_page("", "", 10)) == []


def test_form_that_is_none_is_refused(service: Service) -> None:
    assert (
        post(service, b"a=b", Content_Type="application/x-www-form-urlencoded").status_code == 400
    )
    assert post(service, b"nothing").status_code == 400
    assert post(service, encode_form([("ada.csv", ADA)])[:-9]).status_code == 400


def test_form_of_another_site_is_refused(service: Service) -> None:
    form = encode_form([("ada.csv", ADA)])
    for headers in (
        {"Sec_Fetch_Site": "cross-site", "Origin": "https://example.org"},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
    ):
        assert post(service, form, **headers).status_code == 403
    assert list(service.files.list_page("", "", 10)) == []
    own = {"Sec_Fetch_Site": "same-origin", "Origin": "http://localhost"}
    assert post(service, form, **own).status_code == 200
