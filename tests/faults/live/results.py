"""Findings that are kept in a file from one run to the next."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.live.scenario import Finding


class Results:
    """The newest finding of each fault with each removed protection.

    `file`: where they are saved, or None.
    """

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.histories: dict[str, str] = {}
        self.histories_pass = True
        self._findings: dict[str, Finding] = {}
        if file and file.exists():
            saved = json.loads(file.read_text(encoding="utf-8"))
            self.histories = saved["histories"]
            self.histories_pass = saved["histories_pass"]
            self._findings = {
                _make_key(saved_finding): saved_finding
                for saved_finding in (Finding(**finding) for finding in saved["findings"])
            }

    def add(self, finding: Finding) -> None:
        """Add a finding, and save all."""
        self._findings[_make_key(finding)] = finding
        self._save()

    def add_generated(self, histories: dict[str, str], passed: bool) -> None:
        """Add the properties of the generated cases, and whether the cases passed."""
        self.histories = histories
        self.histories_pass = passed
        self._save()

    def _save(self) -> None:
        if self._file:
            saved = {
                "histories": self.histories,
                "histories_pass": self.histories_pass,
                "findings": [asdict(finding) for finding in self._findings.values()],
            }
            self._file.write_text(json.dumps(saved, indent=1), encoding="utf-8")

    @property
    def findings(self) -> list[Finding]:
        """Return the findings with all protections."""
        return [finding for finding in self._findings.values() if not finding.without]

    @property
    def removal_findings(self) -> list[Finding]:
        """Return the findings with a protection removed."""
        return [finding for finding in self._findings.values() if finding.without]

    @property
    def has_failures(self) -> bool:
        """Return whether an expectation failed, or a removed protection was not detected."""
        summary = self.summary()
        return bool(summary["failed"] or summary["unnoticed"] or not self.histories_pass)

    def summary(self) -> dict[str, Any]:
        """Return the names of what failed, as the command prints it."""
        return {
            "failed": [finding.name for finding in self.findings if finding.failures],
            "unnoticed": [
                f"{each.name} without {each.without}"
                for each in self.removal_findings
                if not each.failures
            ],
            "generated cases pass": self.histories_pass,
        }


def _make_key(finding: Finding) -> str:
    return f"{finding.name} without {finding.without}"
