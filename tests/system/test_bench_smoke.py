"""Smoke test of `python -m bench`: it measures everything, prints it, and leaves nothing behind."""

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.browser.chromium import find_chromium

ROOT = Path(__file__).parents[2]
EXPECTED = (
    "drop → output.csv, 10 users, p50",
    "drop → output.csv, 20 users, p99",
    "drop → GET /data, 20 users, p50",
    "GET /data, 10 users",
    "GET /data, 304, 20 users",
    "GET /stats, filtered, each new, 20 users",
    "20 users in a burst → output.csv",
    "full rebuild, 20 users",
    "sweep, nothing changed, 40 objects",
    "idle, 20 users: processor",
    "idle, 20 users: memory",
    "a bundle of 200 members",
)
PAGE_EXPECTED = (
    "page usable, without a cache, 20 users, p50",
    "drop on the page → highlighted row, 20 users, p50",
)


def run_bench(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_bench_small_run_measures_all_and_leaves_no_process(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path / "figures.json"
    # Chromium creates a socket in it. The path of a socket has at most 107 characters on Linux.
    folder = tmp_path_factory.mktemp("bench")
    size = ["--users", "20", "--drops", "2", "--quick", "--json", str(file)]
    code, output = run_bench(["env", f"TMPDIR={folder}", sys.executable, "-m", "bench", *size])
    assert code == 0, output
    document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    for name in EXPECTED + (PAGE_EXPECTED if find_chromium() else ()):
        assert name in output
        assert [figure for figure in document["figures"] if figure["name"].startswith(name)], name
    for figure in document["figures"]:
        assert figure["measured"] >= 0
        assert (figure["ratio"] is None) == (figure["floor"] is None)
    assert {"api", "minio", "redis", "publisher", "worker"} <= {
        share["name"] for share in document["idle"]
    }
    assert {"cores", "Python", "MinIO"} <= document["machine"].keys()
    assert [path for path in folder.iterdir() if path.suffix != ".lock"] == []
    assert find_command_lines(str(folder)) == []


def find_command_lines(text: str) -> list[str]:
    """Return the command lines of running processes that contain this text."""
    lines = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it ended, or belongs to another user
            lines.append(" ".join(process.cmdline()))
    return [line for line in lines if text in line]
