"""Selection of the server programs, and the messages about programs that are not suitable."""

import platform
import re
import shutil
from pathlib import Path

import pytest

from local import minio_build
from local.errors import StartupError
from local.minio_binary import build_program_name, find_minio, read_release, user_cache_dir
from local.minio_build import MINIO_MODULE_VERSION
from local.redis_binary import find_redis


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty folder, which is the only one on PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("MINIO_BINARY", raising=False)
    return folder


def program(path: Path, answer: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return path


def silent(_: str) -> None:
    """Discard the report."""


@pytest.mark.parametrize(
    "answer", ["Redis server v=7.0.0 sha=0:0", "Redis server v=7.4.1", "Valkey server v=8.1.2"]
)
def test_find_redis_uses_recent_redis_on_path(path: Path, answer: str) -> None:
    redis = program(path / "redis-server", answer)
    assert find_redis() == redis


@pytest.mark.parametrize(
    ("answer", "version"), [("Redis server v=6.0.16 sha=0:0", "6.0"), ("what?", "unknown version")]
)
def test_find_redis_reports_old_redis_on_path(path: Path, answer: str, version: str) -> None:
    reports: list[str] = []
    old = program(path / "redis-server", answer)
    assert find_redis(reports.append) != old
    assert str(old) in reports[0]
    assert version in reports[0]
    assert "7.0" in reports[0]


def test_find_redis_falls_back_to_installed_valkey(path: Path) -> None:
    assert find_redis().name == "valkey-server"


def test_find_minio_ignores_minio_on_path(path: Path, tmp_path: Path) -> None:
    """Published versions have vulnerabilities that Rowdrop's build fixes."""
    program(path / "minio", "minio version RELEASE.2025-10-15T17-29-55Z")
    built = write_cached_build(tmp_path)
    assert find_minio(tmp_path, silent) == built


def test_find_minio_looks_up_minio_binary_on_path(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    minio = program(path / "minio", "minio version RELEASE.2025-10-15T17-29-55Z")
    write_cached_build(tmp_path)
    monkeypatch.setenv("MINIO_BINARY", "minio")
    assert find_minio(tmp_path, silent) == minio


def test_find_minio_ignores_build_without_edits(path: Path, tmp_path: Path) -> None:
    """The cache may contain the unpatched program of an earlier Rowdrop."""
    name = f"minio-{MINIO_MODULE_VERSION}-{platform.system()}-{platform.machine()}".lower()
    unpatched = program(tmp_path / name, "minio version DEVELOPMENT.GOGET")
    built = write_cached_build(tmp_path)
    assert find_minio(tmp_path, silent) == built != unpatched


def test_build_program_name_changes_with_the_edits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = build_program_name()
    shutil.copytree(minio_build.MINIO_SOURCE_DIR, tmp_path / "source")
    monkeypatch.setattr(minio_build, "MINIO_SOURCE_DIR", tmp_path / "source")
    assert build_program_name() == before
    with (tmp_path / "source" / "edits.go").open("a") as edits:
        edits.write("// changed")
    assert build_program_name() != before


def test_find_minio_prefers_minio_binary(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(path / "minio", "minio version RELEASE.2025-10-15T17-29-55Z")
    requested = program(tmp_path / "my minio", "minio version RELEASE.2026-01-01T00-00-00Z")
    monkeypatch.setenv("MINIO_BINARY", str(requested))
    assert find_minio(tmp_path / "cache", silent) == requested


@pytest.mark.parametrize("answer", [None, "minio version RELEASE.2023-03-20T20-16-18Z"])
def test_find_minio_refuses_unusable_minio_binary(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None
) -> None:
    requested = program(tmp_path / "minio", answer) if answer else tmp_path / "no-such-program"
    monkeypatch.setenv("MINIO_BINARY", str(requested))
    with pytest.raises(StartupError, match="MINIO_BINARY"):
        find_minio(tmp_path / "cache", silent)


def test_read_release_finds_month_in_go_module(tmp_path: Path) -> None:
    minio = program(
        tmp_path / "minio", "minio version DEVELOPMENT.GOGET (commit-id=DEVELOPMENT.GOGET)"
    )
    with minio.open("ab") as file:
        file.write(
            b"exit 0\n\x00path\tx\n"
            b"mod\tgithub.com/minio/minio\tv0.0.0-20260212201848-7aac2a2c5b7c\th1:x=\n"
        )
    assert read_release(minio) == "2026-02"


def test_read_release_of_built_minio_is_commit_month(tmp_path: Path) -> None:
    tag = re.search(
        r'releaseTag = "(.*)"',
        (minio_build.MINIO_SOURCE_DIR / "main.go").read_text(encoding="utf-8"),
    )
    assert tag
    minio = program(tmp_path / "minio", f"minio version {tag[1]} (commit-id=7aac2a2c5b7c)")
    assert read_release(minio) == "2026-02"


def test_find_minio_explains_unwritable_cache(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"XDG_CACHE_HOME(.|\n)*MINIO_BINARY"):
        find_minio(tmp_path / "file" / "cache", silent)


def test_find_minio_explains_failed_build_and_cleans_up(path: Path, tmp_path: Path) -> None:
    go = program(path / "go", "go version go1.25.1 linux/amd64")
    go.write_text(
        go.read_text() + '[ "$1" = version ] || { echo "dial tcp: i/o timeout"; exit 1; }\n'
    )
    cache = tmp_path / "cache"
    with pytest.raises(StartupError) as failure:
        find_minio(cache, silent)
    for word in (
        "dial tcp: i/o timeout",
        "HTTPS_PROXY",
        "GOPROXY",
        "MINIO_BINARY",
        "MINIO_ENDPOINT",
    ):
        assert word in str(failure.value)
    assert [entry.suffix for entry in cache.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "refusal",
    [
        "cannot build MinIO: minio@v1 is not the source that Rowdrop pins: "
        "expected h1:a=, found h1:b=",
        "cannot build MinIO: cmd/auth-handler.go is not the file these edits were made for: "
        "expected sha256 a, found b",
    ],
)
def test_find_minio_reports_refused_source(path: Path, tmp_path: Path, refusal: str) -> None:
    go = program(path / "go", "go version go1.25.1 linux/amd64")
    go.write_text(go.read_text() + f'[ "$1" = version ] || {{ echo "{refusal}"; exit 1; }}\n')
    with pytest.raises(StartupError) as failure:
        find_minio(tmp_path / "cache", silent)
    assert refusal in str(failure.value)
    assert "nothing was built" in str(failure.value)
    assert "GOSUMDB" not in str(failure.value)


def test_user_cache_dir_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert user_cache_dir() == Path("/somewhere/rowdrop")


def write_cached_build(cache: Path) -> Path:
    """Write a program into the cache under the name that a build uses, and return its path."""
    return program(cache / build_program_name(), "minio version DEVELOPMENT.GOGET")
