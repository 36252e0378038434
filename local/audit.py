"""Look up known vulnerabilities of the pinned packages with pip-audit, or write an SBOM.

Usage: `./audit.sh [--sbom FILE]`.  Uses only the standard library, and pip-audit as a command.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from local.minio_build import MINIO_MODULE_VERSION
from shared.text import format_count

ROOT = Path(__file__).parent.parent
EXIT_VULNERABLE = 1
EXIT_NOT_CHECKED = 3
KNOWN_VULNERABLE = "urllib3==1.24.1"
"""A package with well-known vulnerabilities.

An index without advisories answers as if no package had any.  It is recognised by this one.
"""
_PACKAGE = re.compile(r"(?m)^([\w.-]+)(?:\[[\w,]+\])?==(\S+)((?:[^\n]*\\\n *--hash=sha256:\w+)*)")

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]
"""Runs a command, and returns its exit status and its output as text."""


@dataclass
class AuditReport:
    """What pip-audit found.  `unchecked` maps packages to the reason why they were not checked."""

    vulnerable: dict[str, list[str]] = field(default_factory=dict)
    unchecked: dict[str, str] = field(default_factory=dict)
    checked_count: int = 0


class NoAdvisories(Exception):
    """No database of advisories could be used, so nothing is known about any package."""


def main() -> int:
    """Run the command.

    Returns the exit status: 0 if no vulnerability is known, `EXIT_VULNERABLE` if some are, and
    `EXIT_NOT_CHECKED` if that is not known for all packages.
    """
    parser = argparse.ArgumentParser(prog="./audit.sh")
    parser.add_argument("--sbom", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    if arguments.sbom:
        text = json.dumps(build_sbom(), indent=2) + "\n"
        arguments.sbom.write_text(text, encoding="utf-8")
        return 0
    try:
        report = audit(sorted((ROOT / "requirements").glob("*.txt")), _run)
    except NoAdvisories as error:
        print(f"audit: no advisory database is reachable: nothing was checked ({error})")
        return EXIT_NOT_CHECKED
    print(format_report(report))
    if report.vulnerable:
        return EXIT_VULNERABLE
    return EXIT_NOT_CHECKED if report.unchecked else 0


def audit(files: Sequence[Path], run: Run) -> AuditReport:
    """Look up the packages of these requirements files.

    Raises `NoAdvisories` if the lookup fails, or if it does not know `KNOWN_VULNERABLE`.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as probe:
        probe.write(f"{KNOWN_VULNERABLE}\n")
        probe.flush()
        known = _look_up(["--no-deps", "-r", probe.name], run)
    if not any(dependency.get("vulns") for dependency in known):
        raise NoAdvisories(f"it reports no vulnerability of {KNOWN_VULNERABLE}")
    report = AuditReport()
    for file in files:
        for dependency in _look_up(["--require-hashes", "-r", str(file)], run):
            name = f"{dependency['name']}=={dependency.get('version', '?')}"
            if "skip_reason" in dependency:
                report.unchecked[dependency["name"]] = dependency["skip_reason"]
            elif dependency["vulns"]:
                report.vulnerable[name] = [entry["id"] for entry in dependency["vulns"]]
            report.checked_count += "skip_reason" not in dependency
    return report


def format_report(report: AuditReport) -> str:
    """Return the lines to print."""
    lines = [f"{name}: {', '.join(ids)}" for name, ids in sorted(report.vulnerable.items())]
    lines += [f"{name}: not checked ({why})" for name, why in sorted(report.unchecked.items())]
    lines.append(
        f"audit: {format_count(report.checked_count, 'pin')} checked, "
        f"{format_count(len(report.vulnerable), 'package')} with known vulnerabilities, "
        f"{len(report.unchecked)} not checked. "
        "For MinIO see minio-source/README.md."
    )
    return "\n".join(lines)


def build_sbom() -> dict[str, Any]:
    """Return a bill of materials in CycloneDX 1.5: what the images and run.sh contain."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    python_components = [
        {
            "type": "library",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "hashes": [{"alg": "SHA-256", "content": digest} for digest in digests],
        }
        for name, version, digests in sorted(_list_pins(ROOT / "requirements" / "run.txt"))
    ]
    minio = {
        "type": "application",
        "name": "minio",
        "version": MINIO_MODULE_VERSION,
        "purl": f"pkg:golang/github.com/minio/minio@{MINIO_MODULE_VERSION}",
        "modified": True,
    }
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "name": project["name"],
                "version": project["version"],
            }
        },
        "components": [*python_components, minio],
    }


def _list_pins(file: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, version and SHA-256 digests of each package in a requirements file."""
    for name, version, hashes in _PACKAGE.findall(file.read_text(encoding="utf-8")):
        yield name, version, re.findall(r"sha256:(\w+)", hashes)


def _look_up(arguments: Sequence[str], run: Run) -> list[dict[str, Any]]:
    options = ["--disable-pip", "--progress-spinner", "off", "--format", "json"]
    completed = run([sys.executable, "-m", "pip_audit", *options, *arguments])
    try:
        dependencies: list[dict[str, Any]] = json.loads(completed.stdout)["dependencies"]
    except ValueError:
        error_lines = completed.stderr.strip().splitlines()
        raise NoAdvisories(error_lines[-1] if error_lines else "no output") from None
    return dependencies


def _run(command: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False)


if __name__ == "__main__":
    sys.exit(main())
