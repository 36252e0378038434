"""The command line on a real MinIO, Redis and API: exit codes, JSON, and what it changes."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from local.ports import find_free_port
from shared.progress.sweep_record import SweepRecord
from shared.redis_keys import FAST_EVENTS
from shared.settings import Settings
from shared.task_queue import BULK_QUEUE
from tests.api_process import ROOT, ApiEnvironment, ApiProcess, wait_until
from tests.archives import make_zip
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands.status import ApiAddress, request_readiness
from worker.state.event_inbox import DecodedEntry

COMMAND = [sys.executable, "-m", "worker.commands.cli"]


def environment_of(settings: Settings) -> dict[str, str]:
    return {
        "MINIO_ENDPOINT": settings.minio_endpoint,
        "MINIO_ACCESS_KEY": settings.minio_access_key,
        "MINIO_SECRET_KEY": settings.minio_secret_key,
        "REDIS_URL": settings.redis_url,
        "SOURCE_BUCKET": settings.source_bucket,
        "OUTPUT_BUCKET": settings.output_bucket,
    }


def start(environment: Mapping[str, str], *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Completed:
    """A command that has ended."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.output, self.error = process.communicate(timeout=60)
        self.exit_code = process.returncode
        assert "Traceback" not in self.error

    @property
    def json(self) -> Any:  # noqa: ANN401
        """The JSON on standard output."""
        return json.loads(self.output)


def run(environment: Mapping[str, str], *arguments: str) -> Completed:
    return Completed(start(environment, *arguments))


@pytest.fixture
def environment(settings: Settings) -> dict[str, str]:
    return environment_of(settings)


# -- check -----------------------------------------------------------------------------------------
def test_check_command_without_differences_exits_with_0(
    rowdrop: RowdropHarness, environment: dict[str, str]
) -> None:
    rowdrop.put_files("a", images=["png"])
    rowdrop.put_files("b", b"broken")
    rowdrop.source.put("u.zip", make_zip({"b/7.csv": make_csv(), "8.csv": make_csv()}))
    rowdrop.source.put("broken.zip", b"x")
    rowdrop.source.put("notes.txt", b"x")
    rowdrop.run_sweep()
    del environment["REDIS_URL"]  # it needs only MinIO
    checked = run(environment, "check")
    text = "4 users with a CSV, in 3 files and 2 bundles, compared with 3 rows and 2 rejects\n"
    assert (checked.exit_code, checked.output) == (0, f"{text}0 differences\n"), checked.error


def test_check_command_lists_differences_and_exits_with_1(
    rowdrop: RowdropHarness, environment: dict[str, str]
) -> None:
    rowdrop.put_files("a")
    rowdrop.process_users("a")
    rowdrop.put_files("a", make_csv("Changed"))
    checked = run(environment, "check")
    assert (checked.exit_code, checked.output) == (
        1,
        "a: differs in first_name\n"
        "1 user with a CSV, in 1 file and 0 bundles, compared with 1 row and 0 rejects\n"
        "1 difference\n",
    )
    checked = run(environment, "check", "--json")
    assert checked.exit_code == 1
    assert checked.json == {
        "count": 1,
        "differences": ["a: differs in first_name"],
        "compared": {"files": 1, "bundles": 0, "users": 1, "rows": 1, "rejects": 0},
    }


# -- errors of the servers -------------------------------------------------------------------------
@pytest.mark.parametrize("command", ["check", "status", "errors", "sweep"])
def test_cli_with_unreachable_servers_exits_with_4(
    command: str, environment: dict[str, str]
) -> None:
    port = find_free_port()
    environment["MINIO_ENDPOINT"] = f"http://127.0.0.1:{port}"
    environment["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
    ended = run(environment, command)
    assert ended.exit_code == 4, ended.error
    server = "Redis" if command == "sweep" else "MinIO"
    assert f"{server} does not answer at " in ended.error
    assert "(connection refused)" in ended.error
    assert len(ended.error.splitlines()) == 1


def test_cli_with_refused_keys_exits_with_4(environment: dict[str, str]) -> None:
    environment["MINIO_SECRET_KEY"] = "not-the-secret"
    ended = run(environment, "load", "run.sh", "README.md")
    assert ended.exit_code == 4, ended.error
    assert "refuses the credentials (SignatureDoesNotMatch)" in ended.error
    assert "MINIO_SECRET_KEY" in ended.error


def test_cli_with_refused_redis_password_exits_with_4(environment: dict[str, str]) -> None:
    user, _, address = environment["REDIS_URL"].rpartition("@")
    environment["REDIS_URL"] = f"{user}-wrong@{address}"
    ended = run(environment, "sweep")
    assert ended.exit_code == 4, ended.error
    assert "refuses the credentials (wrong user or password)" in ended.error


@pytest.mark.parametrize("arguments", [["errors"], ["sample"], ["load", "README.md"]])
def test_cli_without_bucket_names_init(arguments: list[str], environment: dict[str, str]) -> None:
    environment |= {"SOURCE_BUCKET": "no-such-bucket", "OUTPUT_BUCKET": "no-such-bucket-either"}
    ended = run(environment, *arguments)
    assert ended.exit_code == 4, ended.error
    assert "lacks a bucket (NoSuchBucket). `rowdrop init`" in ended.error


def test_cli_with_invalid_settings_exits_with_3(environment: dict[str, str]) -> None:
    environment["REDIS_URL"] = "http://127.0.0.1"
    ended = run(environment, "sweep")
    assert ended.exit_code == 3
    assert "REDIS_URL: must be redis://" in ended.error


# -- sweep and rebuild -----------------------------------------------------------------------------
def test_sweep_command_enqueues_a_sweep(
    rowdrop: RowdropHarness, environment: dict[str, str]
) -> None:
    ended = run(environment, "sweep", "--json")
    assert (ended.exit_code, ended.json) == (0, {"state": "queued", "last_sweep": None})
    assert SweepRecord(rowdrop.services.clients.redis).is_requested()
    assert rowdrop.services.clients.redis.llen(BULK_QUEUE) == 1


def test_sweep_command_waits_until_marked_users_are_published(
    rowdrop: RowdropHarness, environment: dict[str, str]
) -> None:
    rowdrop.put_files("a")
    rowdrop.put_files("b")
    process = start(environment, "sweep", "--wait", "--json")
    wait_until(SweepRecord(rowdrop.services.clients.redis).is_requested)
    rowdrop.sweep.run("by hand")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    rowdrop.run_bulk_work()
    ended = Completed(process)
    assert ended.exit_code == 0, ended.error
    sweep = ended.json["last_sweep"]
    assert (sweep["cause"], sweep["objects"], sweep["marked"]) == ("by hand", 2, 2)


def test_rebuild_command_waits_until_users_are_published(
    rowdrop: RowdropHarness, environment: dict[str, str]
) -> None:
    rowdrop.put_files("a")
    process = start(environment, "rebuild", "--wait", "--json")
    wait_until(rowdrop.services.records.rebuilds.get_queued_id)
    rowdrop.services.rebuild.start(rowdrop.services.records.rebuilds.get_queued_id() or "")
    rowdrop.run_bulk_work()
    rowdrop.services.rebuild.finish()
    ended = Completed(process)
    assert ended.exit_code == 0, ended.error
    assert (ended.json["state"], ended.json["done"], ended.json["total"]) == ("done", 1, 1)


def test_rebuild_command_reports_a_failed_rebuild(
    rowdrop: RowdropHarness, environment: dict[str, str]
) -> None:
    rebuilds = rowdrop.services.records.rebuilds
    process = start(environment, "rebuild", "--wait")
    wait_until(rebuilds.get_queued_id)
    task_id = rebuilds.get_queued_id() or ""
    assert rebuilds.start(task_id, 1.0)
    rebuilds.fail(task_id, "the disk is full", 2.0)
    ended = Completed(process)
    assert ended.exit_code == 6
    assert f"the rebuild {task_id} failed: the disk is full" in ended.error


# -- load ------------------------------------------------------------------------------------------
def test_load_command_uploads_and_lists_what_it_skips(
    rowdrop: RowdropHarness, environment: dict[str, str], tmp_path: Path
) -> None:
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "1.csv").write_bytes(make_csv())
    (tmp_path / "2.csv").write_bytes(make_csv())
    paths = [str(folder), str(tmp_path / "2.csv")]
    loaded = run(environment, "load", *paths)
    bucket = rowdrop.source.bucket
    text = f"2 files loaded into {bucket}, 0 were there already\n"
    assert (loaded.exit_code, loaded.output) == (0, text), loaded.error
    (folder / "notes.txt").write_text("x")
    loaded = run(environment, "load", "--json", *paths)
    assert loaded.exit_code == 1
    assert loaded.json.pop("skipped")[0]["path"] == "notes.txt"
    counts = (loaded.json["bucket"], loaded.json["loaded"], loaded.json["unchanged"])
    assert counts == (bucket, 0, 2)
    assert rowdrop.source.get("1.csv").body == make_csv()
    loaded = run(environment, "load", *paths)
    assert "1 file was not loaded:\n  notes.txt: " in loaded.output


def test_load_command_without_loadable_file_exits_with_1(
    rowdrop: RowdropHarness, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    loaded = run(environment, "load", str(tmp_path))
    assert loaded.exit_code == 1
    message = f"{tmp_path} has no CSV, image or bundle\n1 file was not loaded:\n  notes.txt: "
    assert loaded.output.startswith(message)
    (tmp_path / "notes.txt").unlink()
    loaded = run(environment, "load", str(tmp_path))
    assert (loaded.exit_code, loaded.output) == (1, f"{tmp_path} has no CSV, image or bundle\n")
    assert run(environment, "load", "--json", str(tmp_path)).exit_code == 1
    # docker compose does this at each start, by default with an empty folder.
    loaded = run(environment, "load", "--if-empty", str(tmp_path))
    assert (loaded.exit_code, loaded.output) == (0, f"{tmp_path} has no CSV, image or bundle\n")
    assert list(rowdrop.source.list_objects()) == []


def test_load_command_lists_unreadable_file_and_loads_the_rest(
    rowdrop: RowdropHarness, environment: dict[str, str], tmp_path: Path
) -> None:
    unreadable = tmp_path / "1.csv"
    unreadable.symlink_to("/proc/self/mem")  # reading it is an OSError, even for root
    folder = tmp_path / "users"
    folder.mkdir()
    (folder / "2.csv").write_bytes(make_csv())
    loaded = run(environment, "load", str(unreadable), str(folder))
    assert loaded.exit_code == 1
    assert "1 file loaded into " in loaded.output
    assert f"1 file was not loaded:\n  {unreadable}: it cannot be read: " in loaded.output
    assert rowdrop.source.get_info("1.csv") is None
    assert rowdrop.source.get("2.csv").body == make_csv()


def test_load_command_lists_junk_and_needs_no_attention(
    rowdrop: RowdropHarness, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "1.csv").write_bytes(make_csv())
    (tmp_path / "#recycle").mkdir()
    (tmp_path / "#recycle" / "2.csv").write_bytes(make_csv())
    loaded = run(environment, "load", str(tmp_path))
    assert loaded.exit_code == 0
    assert "1 was skipped as junk:\n  #recycle: its name or that of its folder" in loaded.output
    loaded = run(environment, "load", "--json", str(tmp_path))
    assert [file["path"] for file in loaded.json["junk"]] == ["#recycle"]
    assert rowdrop.source.get_info("2.csv") is None


def test_load_command_if_empty_leaves_a_bucket_in_use(
    rowdrop: RowdropHarness, environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "1.csv").write_bytes(make_csv())
    rowdrop.put_files("0")
    loaded = run(environment, "load", "--if-empty", str(tmp_path))
    assert loaded.exit_code == 0
    assert "has files already; nothing was loaded" in loaded.output
    assert rowdrop.source.get_info("1.csv") is None


# -- errors ----------------------------------------------------------------------------------------
def test_errors_command_without_errors_exits_with_0(
    rowdrop: RowdropHarness, environment: dict[str, str]
) -> None:
    rowdrop.put_files("a")
    rowdrop.process_users("a")
    listed = run(environment, "errors")
    assert (listed.exit_code, listed.output) == (0, "0 errors\n")


def test_errors_command_lists_every_kind_with_a_remedy(
    rowdrop: RowdropHarness, environment: dict[str, str]
) -> None:
    rowdrop.put_files("held")
    rowdrop.process_users("held")
    rowdrop.put_files("held", b"broken")
    rowdrop.put_files("never", b"broken")
    rowdrop.put_files("ü", b"first_name,last_name,birthts\nAnn,Lee,so\x1bon\n")
    rowdrop.source.put("u.zip", make_zip({"a/7.csv": b"broken"}))
    rowdrop.source.put("1.CSV", b"x")
    rowdrop.source.put("broken.zip", b"x")
    rowdrop.services.clients.redis.rpush(FAST_EVENTS, b"?")
    rowdrop.run_sweep()
    rowdrop.state.inbox.mark_and_pop([DecodedEntry(b"?", [], "it is not JSON")], 1.0)
    listed = run(environment, "errors", "--json")
    assert listed.exit_code == 1
    errors = listed.json["errors"]
    assert [(error["kind"], error["key"], error["user_id"]) for error in errors] == [
        ("rejected", "broken.zip", None),
        ("rejected", "u.zip#a/7.csv", "7"),
        ("held", "held.csv", "held"),
        ("rejected", "never.csv", "never"),
        ("rejected", "ü.csv", "ü"),
        ("ignored", "1.CSV", None),
        ("dead_letter", None, None),
    ]
    assert (listed.json["count"], listed.json["ignored"]) == (7, 1)
    files = {error["key"]: (error["file"], error.get("quote")) for error in errors}
    assert files == {
        "broken.zip": ("/files/broken.zip", None),
        "held.csv": ("/files/held.csv", "broken"),
        "never.csv": ("/files/never.csv", "broken"),
        "u.zip#a/7.csv": (None, None),
        "ü.csv": ("/files/%C3%BC.csv", "Ann,Lee,so?on"),
        "1.CSV": ("/files/1.CSV", None),
        None: (None, None),
    }
    assert all(error["remedy"] and error["reason"] for error in errors)
    text = run(environment, "errors").output
    assert "never.csv, line 1: rejected since " in text
    assert "(unknown key): dead_letter since 1970-01-01T00:00:01Z\n  it is not JSON\n" in text
    assert "\n  the line is: Ann,Lee,so?on\n" in text
    assert "\n  the file in the API: /files/%C3%BC.csv\n" in text
    assert text.endswith("7 errors\n")
    rowdrop.put_files("ü", b"first_name,last_name,birthts\nBob,Lee,soon\n")  # not read yet
    assert "the line is: Bob" not in run(environment, "errors").output


# -- status ----------------------------------------------------------------------------------------
def test_status_command_without_api_shows_figures_and_says_so(
    rowdrop: RowdropHarness, environment: dict[str, str]
) -> None:
    rowdrop.put_files("a")
    rowdrop.put_files("b", b"broken")
    rowdrop.run_sweep()
    rowdrop.mark_users("a")
    api = f"http://127.0.0.1:{find_free_port()}"
    shown = run(environment, "status", "--json", "--api", api)
    assert shown.exit_code == 1
    status = shown.json
    assert status["ready"] is None
    assert status["reasons"][0].startswith(f"the API at {api} does not answer")
    assert (status["rows"], status["rejected"], status["held"]) == (1, 1, 0)
    assert (status["dirty_users"]["event"], status["trust_state"]) == (1, "verified")
    assert status["last_sweep"]["marked"] == 2
    assert "does not answer" in run(environment, "status", "--api", api).output


def test_status_command_counts_bundles_by_their_visible_version(
    rowdrop: RowdropHarness, environment: dict[str, str]
) -> None:
    for body in (
        {"1.csv": make_csv(), "notes.txt": b"x"},
        {"1.csv": make_csv(), "notes.txt": b"x", "more.txt": b"x"},
    ):
        rowdrop.source.put("u.zip", make_zip(body))
        rowdrop.source.put("v.zip", make_zip(body))
        rowdrop.process_bundles("u.zip", "v.zip")
    rowdrop.source.put("u.zip", b"broken: the version before it stays visible")
    rowdrop.source.delete("v.zip")
    rowdrop.process_bundles("u.zip", "v.zip")
    status = run(environment, "status", "--json").json
    assert status["ignored_members"] == 2
    assert (status["rejected"], status["held"]) == (0, 1)
    assert (
        "members       2 members of bundles are not read: GET" in run(environment, "status").output
    )


def test_status_command_agrees_with_the_api(api_environment: ApiEnvironment) -> None:
    api = api_environment.api
    body = api.get("/health/ready").json
    shown = run(api.environment, "status", "--json", "--api", f"http://127.0.0.1:{api.port}")
    assert shown.exit_code == (0 if body["ready"] else 1)
    assert {name: shown.json[name] for name in ("ready", "rows", "rejected", "held")} == {
        name: body[name] for name in ("ready", "rows", "rejected", "held")
    }
    # Nothing has swept in this test: a loss of events is possible.
    assert shown.json["trust_state"] == "suspect"


def test_status_command_sends_a_token_to_a_published_api(
    api_environment: ApiEnvironment, tmp_path: Path
) -> None:
    token = {"BIND_ADDRESS": "0.0.0.0", "API_TOKEN": "a-token-of-this-test-only"}  # noqa: S104
    environment = api_environment.api.environment
    with ApiProcess({**environment, **token}, tmp_path / "published.log") as api:
        url = f"http://127.0.0.1:{api.port}"
        wait_until(lambda: api.get("/health/live").status == 200)
        refused = run(environment, "status", "--json", "--api", url)
        assert refused.exit_code == 1
        assert refused.json["ready"] is None
        assert "status 401: set API_TOKEN" in refused.json["reasons"][0]
        accepted = run({**environment, **token}, "status", "--json", "--api", url)
        assert accepted.json["ready"] is not None


def test_request_readiness_sends_host_of_its_address(api_environment: ApiEnvironment) -> None:
    """In a container the name `api` is not local; the header `Host` says that the client is."""
    url = f"http://127.0.0.1:{api_environment.api.port}"
    assert request_readiness(ApiAddress(url, host="api:8080")).ready is None
    assert request_readiness(ApiAddress(url, host="localhost")).ready is not None
