"""Tests that run the examples of README.md, docs/api.md and /docs on a running Rowdrop."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.running import ROOT, RunShProcess, run_rowdrop

README = (ROOT / "README.md").read_text(encoding="utf-8")
API_PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"(?ms)^```bash\n(.*?)^```$")
API_EXAMPLES = [block for block in BLOCK.findall(API_PAGE) if "$api/" in block]
EVENTS_TOKEN = "an-events-token-of-the-examples"
# A row appears milliseconds after its file, so each request is retried until it succeeds.
PREPARED = """set -euo pipefail
curl() {
    for _ in $(seq 100); do
        command curl --fail "$@" && return
        sleep 0.1
    done
    echo "failed after 100 attempts: curl $*" >&2
    return 1
}
"""


@pytest.fixture(scope="module")
def rowdrop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunShProcess]:
    """Start a Rowdrop that accepts events."""
    yield from run_rowdrop(tmp_path_factory.mktemp("rowdrop"), EVENTS_TOKEN=EVENTS_TOKEN)


def run(script: str, folder: Path, rowdrop: RunShProcess) -> str:
    (folder / "var").mkdir(exist_ok=True)
    (folder / "var" / ".env").write_bytes((rowdrop.folder / ".env").read_bytes())
    done = subprocess.run(
        ["/usr/bin/env", "bash", "-c", PREPARED + script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"EVENTS_TOKEN": EVENTS_TOKEN},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def routes_used(script: str) -> set[str]:
    """Return the method and path of every API request in a script, with `{}` for variable parts."""
    routes = set()
    for line in script.splitlines():
        method = "PUT" if " -T " in line else next(iter(re.findall(r"-X (\w+)", line)), "GET")
        for path in re.findall(r'"\$api(/[^"?]*)', line):
            variable = r"(?<=/)(?:[0-9]{4}[.a-z]*|style\.css|[$]task)"
            routes.add(f"{method} {re.sub(variable, '{}', path)}")
    return routes


def test_api_page_examples_cover_every_route(rowdrop: RunShProcess) -> None:
    status, body = rowdrop.get("/")
    assert status == 200
    listed = re.findall(r'"method": "(\w+)",\s+"path": "([^"]+)"', body.decode())
    routes = {f"{method} {re.sub(r'{.*?}', '{}', path)}" for method, path in listed}
    assert routes_used("\n".join(API_EXAMPLES)) == routes


def test_readme_examples_run_as_described(rowdrop: RunShProcess, tmp_path: Path) -> None:
    # The quick start is every indented command with an address, and the row below it.
    commands = re.findall(r"(?m)^    (printf .*\n +curl .*|sleep .*)$", README)
    (row,) = re.findall(r'(?m)^    (\[{"user_id".*)$', README)
    (examples,) = [block for block in BLOCK.findall(README) if "$api/" in block]
    assert len(commands) == 2
    script = "\n".join([*commands, examples])
    assert "127.0.0.1:8080" in script
    port = rowdrop.credentials["API_PORT"]
    printed = run(script.replace("127.0.0.1:8080", f"127.0.0.1:{port}"), tmp_path, rowdrop)
    assert row in printed


def test_api_page_examples_run_as_described(rowdrop: RunShProcess, tmp_path: Path) -> None:
    printed = run("".join(API_EXAMPLES), tmp_path, rowdrop)
    assert '"user_id":"0002","first_name":"Ann"' in printed
    assert (tmp_path / "back.csv").read_bytes() == (tmp_path / "0002.csv").read_bytes()
    assert (tmp_path / "image").read_bytes() == (tmp_path / "0002.png").read_bytes()


def test_api_page_s3_examples_run_as_described(rowdrop: RunShProcess, tmp_path: Path) -> None:
    (with_curl,) = [block for block in BLOCK.findall(API_PAGE) if "--aws-sigv4" in block]
    (with_minio,) = re.findall(r"(?ms)^```python\n(.*?)^```$", API_PAGE)
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "example.py").write_text(with_minio)
    script = f"{with_curl}\nset -a; . var/.env; set +a\n'{sys.executable}' example.py\n"
    header = "user_id,first_name,last_name,birthts,img_path"
    assert run(script, tmp_path, rowdrop).count(header) == 2


@pytest.fixture
def samples(rowdrop: RunShProcess) -> list[str]:
    """Return the samples of /docs, which are in an order in which they can be run."""
    status, body = rowdrop.get("/docs")
    assert status == 200
    return [
        text.replace("&quot;", '"').replace("&amp;", "&")
        for text in re.findall("<pre>(.*?)</pre>", body.decode())
    ]


def test_docs_page_examples_run_as_described(
    rowdrop: RunShProcess, samples: list[str], tmp_path: Path
) -> None:
    (tmp_path / "0001.csv").write_text("first_name,last_name,birthts\nAnn,Lee,0\n")
    (tmp_path / "0001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "notification.json").write_text('{"Records": []}')
    begin = """
. var/.env
token=$EVENTS_TOKEN
api=http://127.0.0.1:$API_PORT
curl -s -T 0001.csv "$api/files/0001.csv"
curl -s -T 0001.png "$api/files/0001.png"
task_id=$(curl -s -X POST "$api/data" | sed -n 's/.*"task_id": "\\(.*\\)",*/\\1/p')
"""
    assert len(samples) > 15
    run(begin + "\n".join(samples), tmp_path, rowdrop)
