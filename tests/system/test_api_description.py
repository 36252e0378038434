"""Test of a running Rowdrop with requests that schemathesis generates from its OpenAPI description.

The requests are valid and invalid ones. Every response must be described, and none may be a 5xx.
`API_EXAMPLES` sets the number of examples per route, which is small by default. In CI the requests
are the same in each run, as the inputs of Hypothesis are.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from minio import Minio

from tests.system.running import ROOT, RunShProcess, wait_until
from tests.system.test_a_users_day import FORM_OF_THE_PUBLIC_TASK, get, put

EXAMPLES = os.environ.get("API_EXAMPLES", "10")


@pytest.fixture
def _some_users(rowdrop: RunShProcess, s3: Minio) -> None:
    for number in range(5):
        put(s3, f"{number:04}.csv", FORM_OF_THE_PUBLIC_TASK)
        put(s3, f"{number:04}.png", b"\x89PNG\r\n\x1a\n")
    put(s3, "broken.csv", b"")
    put(s3, "1.CSV", b"")
    wait_until(lambda: len(get(rowdrop, "/data")) == 5 and get(rowdrop, "/errors"))


@pytest.mark.usefixtures("_some_users")
def test_openapi_describes_every_answer(rowdrop: RunShProcess) -> None:
    address = f"http://127.0.0.1:{rowdrop.credentials['API_PORT']}/openapi.json"
    options = ["--max-examples", EXAMPLES, "--no-color"]
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        "tests/schemathesis.toml",
        "run",
    ]
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "tests.schemathesis_hooks"}
    options += (
        ["--generation-deterministic"] if "CI" in os.environ else ["--generation-database", "none"]
    )
    command += [*options, address]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr
    assert "Server error" not in done.stdout
    wait_until(rowdrop.is_healthy)
