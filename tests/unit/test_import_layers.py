"""Test that import-linter refuses an import against the layers of `pyproject.toml`."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLANTED_IMPORTS = {
    "api imports worker": ("api/query/links.py", "import worker.tasks"),
    "shared imports worker": ("shared/tokens.py", "import worker.heartbeat"),
    "state imports jobs": ("worker/state/user_states.py", "import worker.jobs.drift"),
    "reading imports publishing": ("worker/reading/parallel.py", "import worker.publishing.merge"),
    "query imports snapshot": ("api/query/links.py", "import api.snapshot.view"),
    "formats imports progress": ("shared/formats/events.py", "import shared.progress.rebuilds"),
    "pure module imports redis": ("shared/formats/records.py", "import redis"),
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the packages and of the linter's configuration."""
    for package in ("api", "shared", "worker"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def test_import_layers_hold(checkout: Path) -> None:
    completed = lint_imports(checkout)
    assert completed.returncode == 0, completed.stdout


@pytest.mark.parametrize("name", PLANTED_IMPORTS)
def test_import_layers_refuse_planted_import(name: str, checkout: Path) -> None:
    path, statement = PLANTED_IMPORTS[name]
    module = checkout / path
    module.write_text(f"{module.read_text(encoding='utf-8')}\n{statement}\n", encoding="utf-8")
    completed = lint_imports(checkout)
    assert completed.returncode == 1, completed.stdout
    assert statement.removeprefix("import ") in completed.stdout
