"""The program that edits and builds MinIO rejects every source except the pinned one.

The other integration tests run the MinIO that it builds.
"""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from local.minio_build import MINIO_MODULE_VERSION, MINIO_SOURCE_DIR, build_go_environment, find_go

MODULE = f"github.com/minio/minio@{MINIO_MODULE_VERSION}"
EDITED_FILES = ("cmd/auth-handler.go", "cmd/handler-utils.go", "cmd/object-api-options.go")


class Program:
    """The build program in minio-source/, compiled once for all tests of this module."""

    def __init__(self, folder: Path) -> None:
        go = find_go(folder, print)
        self._binary = folder / "minio-source"
        self._environment = build_go_environment(folder, go)
        command = [str(go), "-C", str(MINIO_SOURCE_DIR), "build", "-o", str(self._binary), "."]
        subprocess.run(command, env=self._environment, check=True)

    def run(self, command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self._binary, command, folder],
            env=self._environment | {"GOMODCACHE": f"{folder}-modules"} | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    return Program(tmp_path_factory.mktemp("minio-source"))


@pytest.fixture
def module_proxy(tmp_path: Path) -> Path:
    """Return the folder of a Go module proxy that serves another module under MinIO's name."""
    folder = tmp_path / "proxy" / "github.com" / "minio" / "minio" / "@v"
    folder.mkdir(parents=True)
    go_mod = "module github.com/minio/minio\n\ngo 1.24\n"
    (folder / f"{MINIO_MODULE_VERSION}.info").write_text(
        f'{{"Version": "{MINIO_MODULE_VERSION}", "Time": "2026-02-12T20:18:48Z"}}'
    )
    (folder / f"{MINIO_MODULE_VERSION}.mod").write_text(go_mod)
    with zipfile.ZipFile(folder / f"{MINIO_MODULE_VERSION}.zip", "w") as module:
        module.writestr(f"{MODULE}/go.mod", go_mod)
        module.writestr(f"{MODULE}/main.go", "package main\n\nfunc main() {}\n")
    return tmp_path / "proxy"


def test_minio_source_build_refuses_module_with_another_hash(
    program: Program, module_proxy: Path, tmp_path: Path
) -> None:
    """The hash is verified even if settings disable Go's own verification."""
    target = tmp_path / "built"
    answer = program.run(
        "build",
        target,
        GOPROXY=module_proxy.as_uri(),
        GOSUMDB="off",
        GONOSUMDB="*",
        GONOSUMCHECK="1",
        GOFLAGS="-mod=mod",
    )
    assert answer.returncode == 1
    assert f"{MODULE} is not the source that Rowdrop pins: expected h1:" in answer.stderr
    assert "found h1:" in answer.stderr
    assert not target.exists()


def test_minio_source_build_reports_unavailable_module(program: Program, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = program.run(
        "build", tmp_path / "built", GOPROXY=(tmp_path / "empty").as_uri(), GOSUMDB="off"
    )
    assert answer.returncode == 1
    assert f"cannot fetch {MODULE}" in answer.stderr


def test_minio_source_edit_refuses_file_of_another_version(
    program: Program, tmp_path: Path
) -> None:
    (tmp_path / "cmd").mkdir()
    text = b"package cmd\n"
    for name in EDITED_FILES:
        (tmp_path / name).write_bytes(text)
    answer = program.run("edit", tmp_path)
    assert answer.returncode == 1
    assert (
        f"{EDITED_FILES[0]} is not the file these edits were made for: expected sha256 "
        in answer.stderr
    )
    assert f"found {hashlib.sha256(text).hexdigest()}" in answer.stderr
    assert "review the edits before changing the version" in answer.stderr
    assert [(tmp_path / name).read_bytes() for name in EDITED_FILES] == [text] * 3


def test_minio_source_edit_refuses_folder_without_files(program: Program, tmp_path: Path) -> None:
    answer = program.run("edit", tmp_path)
    assert answer.returncode == 1
    assert EDITED_FILES[0] in answer.stderr
    assert list(tmp_path.iterdir()) == []
