"""POST /files: the upload form of the page without scripts."""

from collections.abc import Iterator, Sequence

import pytest
from falcon.testing import Result

from api.resources.files import MAX_FORM_FILES
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


def list_names(service: Service) -> list[str]:
    return [info.key for info in service.files.list_page("", "", 2 * MAX_FORM_FILES)]


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
    ("sent", "stored"),
    [("a%22b.csv", 'a"b.csv'), ("100%.csv", "100%.csv"), ("%2F%22%0d.csv", '%2F"%0d.csv')],
)
def test_form_decodes_names_as_browsers_encode_them(
    service: Service, sent: str, stored: str
) -> None:
    """The HTML standard escapes the quotation mark, CR and LF, and nothing else."""
    assert post(service, encode_form([(sent, ADA)])).status_code == 200
    assert list_names(service) == [stored]


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [
        pytest.param("notes.txt", ADA, 400, id="ignored name"),
        pytest.param("../ada.csv", ADA, 400, id="folder"),
        pytest.param("a%0Dda.csv", ADA, 400, id="CR"),
        pytest.param("a%0Ada.csv", ADA, 400, id="LF"),
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
    assert list_names(service) == []


def test_form_that_is_none_is_refused(service: Service) -> None:
    assert (
        post(service, b"a=b", Content_Type="application/x-www-form-urlencoded").status_code == 400
    )
    assert post(service, b"nothing").status_code == 400


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(ADA[-8:-1], id="in a file"),
        pytest.param(b"--", id="before the end"),
        pytest.param(f"--{BOUNDARY}".encode(), id="in the last boundary"),
    ],
)
def test_form_without_end_stores_nothing(service: Service, end: bytes) -> None:
    """The beginning of a CSV may be a valid CSV with another value."""
    form = encode_form([("first.png", b"image"), ("ada.csv", ADA)])
    assert post(service, form[: form.rindex(end)]).status_code == 400
    assert list_names(service) == []


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(("notes.txt", ADA), id="ignored name"),
        pytest.param(("empty.csv", b""), id="empty"),
        pytest.param(("ada.csv", b"another"), id="equal names"),
        pytest.param(("large.csv", b"x" * 1_000_001), id="large"),
    ],
)
def test_form_with_refused_file_stores_nothing(service: Service, last: tuple[str, bytes]) -> None:
    assert post(service, encode_form([("ada.csv", ADA), last])).status_code in {400, 413}
    assert list_names(service) == []


@pytest.mark.parametrize(
    "disposition",
    [
        b'form-data; name="file"; filename="Zo\xeb.csv"',
        b'form-data; name="\xff"; filename="ada.csv"',
        b"form-data; name=\"file\"; filename*=unicode_escape''%5Cud800.csv",
    ],
)
def test_form_refuses_names_that_are_not_utf8(service: Service, disposition: bytes) -> None:
    form = encode_form([("ada.csv", ADA)])
    head = b'form-data; name="file"; filename="ada.csv"'
    result = post(service, form.replace(head, disposition))
    assert (result.status_code, result.json["type"]) == (400, "/docs#wrong-parameter")
    assert list_names(service) == []


def test_form_has_as_many_files_as_a_folder(service: Service) -> None:
    files = [(f"{number}.csv", ADA) for number in range(MAX_FORM_FILES)]
    assert post(service, encode_form(files)).status_code == 200
    assert len(list_names(service)) == MAX_FORM_FILES
    refusal = post(service, encode_form([*files, ("more.csv", ADA)]))
    assert refusal.status_code == 400
    assert "more than 1,000 files and fields; nothing was stored" in refusal.json["detail"]
    assert "more.csv" not in list_names(service)


def test_form_of_another_site_is_refused(service: Service) -> None:
    form = encode_form([("ada.csv", ADA)])
    for headers in (
        {"Sec_Fetch_Site": "cross-site", "Origin": "https://example.org"},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
    ):
        assert post(service, form, **headers).status_code == 403
    assert list_names(service) == []
    own = {"Sec_Fetch_Site": "same-origin", "Origin": "http://localhost"}
    assert post(service, form, **own).status_code == 200
