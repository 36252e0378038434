"""Tests of ./rowdrop beside a running ./run.sh, without any settings in the environment."""

import io
import json
import signal
import subprocess
from pathlib import Path

import pytest
from minio import Minio

from tests.system.running import (
    ROOT,
    RunShProcess,
    build_foreground_command,
    clean_up_processes,
    wait_until,
)

USER_CSV = b"first_name,last_name,birthts\nIvan,Ivanov,946674000000\n"


def put(s3: Minio, key: str, body: bytes) -> None:
    s3.put_object("src-data", key, io.BytesIO(body), len(body))


def test_rowdrop_status_finds_the_running_rowdrop(rowdrop: RunShProcess, s3: Minio) -> None:
    put(s3, "0001.csv", USER_CSV)
    wait_until(lambda: rowdrop.list_users() == ["0001"])
    wait_until(rowdrop.is_healthy)
    completed = rowdrop.run_command("status", "--json")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    status = json.loads(completed.stdout)
    assert (status["ready"], status["reasons"], status["rows"]) == (True, [], 1)
    assert status["api"] == f"http://127.0.0.1:{rowdrop.credentials['API_PORT']}"
    lines = rowdrop.run_command("status").stdout.splitlines()
    assert ["ready", "yes"] in [line.split() for line in lines]
    assert ["rows", "1"] in [line.split() for line in lines]


def test_rowdrop_commands_have_the_rights_that_they_need(rowdrop: RunShProcess, s3: Minio) -> None:
    put(s3, "0001.csv", USER_CSV)
    assert rowdrop.run_command("init").returncode == 0
    assert rowdrop.run_command("sample", "--count", "30").returncode == 0
    wait_until(lambda: len(rowdrop.list_users()) == 31)
    errors = rowdrop.run_command("errors")
    assert errors.returncode == 1, errors.stderr
    assert "sample-broken.csv, line 2: rejected" in errors.stdout
    swept = rowdrop.run_command("sweep", "--wait", "--json")
    assert swept.returncode == 0, swept.stderr
    assert json.loads(swept.stdout)["last_sweep"]["cause"] == "by hand"
    rebuilt = rowdrop.run_command("rebuild", "--wait", "--json")
    assert rebuilt.returncode == 0, rebuilt.stderr
    # The rejected user is read again as well.
    assert json.loads(rebuilt.stdout)["done"] == 32
    checked = rowdrop.run_command("check", "--json")
    result = json.loads(checked.stdout)
    assert (result["count"], result["differences"]) == (0, [])
    assert (result["compared"]["rows"], result["compared"]["rejects"]) == (31, 1)
    assert rowdrop.run_command("sample", "--remove").returncode == 0
    wait_until(lambda: rowdrop.list_users() == ["0001"])


def test_rowdrop_credentials_shows_those_of_the_data_folder(rowdrop: RunShProcess) -> None:
    assert str(rowdrop.folder / ".env") in rowdrop.run_command("credentials").stdout
    shown = rowdrop.run_command("credentials", "--show").stdout
    assert f"MINIO_SECRET_KEY='{rowdrop.credentials['MINIO_SECRET_KEY']}'\n" in shown
    assert "MINIO_ROOT" not in shown
    worker = rowdrop.run_command("credentials", "--show", "worker").stdout
    assert rowdrop.read_credentials_of("worker")["REDIS_URL"] in worker


def test_rowdrop_watch_ends_with_130_after_ctrl_c(rowdrop: RunShProcess) -> None:
    command = build_foreground_command([str(ROOT / "rowdrop"), "watch"])
    environment = {"ROWDROP_DIR": str(rowdrop.folder), "PATH": "/usr/bin:/bin"}
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any(line.startswith("complete") for line in lines)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in error


def test_rowdrop_reports_stopped_rowdrop_plainly(tmp_path: Path) -> None:
    """After its end ./run.sh leaves its settings, of which no command may assume that they work."""
    for folder in clean_up_processes(tmp_path / "data"):
        run = RunShProcess(folder, "--empty").wait_until_ready()
        assert run.run_command("status").returncode == 0
        assert run.stop_with_signal(signal.SIGTERM) == 0
        endpoint = run.credentials["MINIO_ENDPOINT"]
        redis = f"127.0.0.1:{run.credentials['REDIS_PORT']}"
        for arguments, server in [
            (["status"], f"MinIO does not answer at {endpoint}"),
            (["errors"], f"MinIO does not answer at {endpoint}"),
            (["check"], f"MinIO does not answer at {endpoint}"),
            (["load", str(ROOT / "README.md")], f"MinIO does not answer at {endpoint}"),
            (["sample"], f"MinIO does not answer at {endpoint}"),
            (["init"], f"MinIO does not answer at {endpoint}"),
            (["sweep"], f"Redis does not answer at {redis}"),
        ]:
            completed = run.run_command(*arguments)
            assert completed.returncode == 4, arguments
            assert completed.stderr == (
                f"Error: {server} (connection refused). "
                f"Rowdrop is not running in {folder}: start it with ./run.sh.\n"
            )


@pytest.mark.parametrize("arguments", [["status"], ["load", "run.sh"]])
def test_rowdrop_without_settings_exits_with_3(arguments: list[str], rowdrop: RunShProcess) -> None:
    environment = {"ROWDROP_DIR": str(rowdrop.folder / "missing"), "PATH": "/usr/bin:/bin"}
    completed = subprocess.run(
        [str(ROOT / "rowdrop"), *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 3
    assert "Start Rowdrop with ./run.sh" in completed.stderr
