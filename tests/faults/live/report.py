"""What was found, for people to read."""

import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime

import psutil

from local.processes import ROOT
from tests.faults.live.removed import REMEDIES
from tests.faults.live.results import Results
from tests.faults.live.scenario import Finding

HEAD = """\
# The fault report

Made by `.venv/bin/python -m tests.faults`, in one run of about two hours or put together from several; what heals what
is said in `docs/architecture.md`.  Each fault is played on a whole Rowdrop with servers of its own, while files are
dropped, overwritten, broken and deleted, one by one and in bundles, which have the same users.

- *acknowledged*: writes that MinIO said were done; *bundles*: those of them that put or deleted an archive
- *lost*: rows that were not what the files say when their time was over, and whatever `worker.check` found at the end
- *doubled*: users with two lines; *stale*: rows that were older than one that had been seen before, or never true
- *converged*: seconds from the end of the fault until every row was right (the slowest, if it was played several times)
"""


def report(results: Results) -> str:
    """The whole report, as Markdown."""
    parts = [HEAD, _machine(), _table(results.findings), _figures(results.findings)]
    if results.histories:
        rows = [f"| {name} | {said} |" for name, said in results.histories.items()]
        parts.append("\n".join(["## Generated cases\n", "| what | cases |", "|---|---|", *rows]) + "\n")
    if results.without:
        parts.append(_without(results.without))
    return "\n".join(parts)


def one_line(finding: Finding) -> str:
    """A finding for the screen."""
    removed = f", without {REMEDIES[finding.without][0]}" if finding.without else ""
    converged = f"{finding.converged_s:.1f} s" if finding.converged_s is not None else "never"
    return (
        f"{finding.name}{removed} (seed {finding.seed}): acknowledged {finding.acknowledged}, lost {finding.lost}, "
        f"doubled {finding.doubled}, stale {finding.stale}, converged {converged}"
    )


def _machine() -> str:
    commit = subprocess.run(
        ["/usr/bin/env", "git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    memory = psutil.virtual_memory().total / 2**30
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, commit {commit or 'unknown'}, {psutil.cpu_count()} cores, {memory:.0f} GB, "
        f"{platform.system()} {platform.machine()}, Python {platform.python_version()}.\n"
    )


def _table(findings: Sequence[Finding]) -> str:
    lines = [
        "## Faults\n",
        "| fault | seed | acknowledged | bundles | lost | doubled | stale | converged | may take |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for finding in findings:
        converged = "never" if finding.converged_s is None else f"{finding.converged_s:.1f} s"
        lines.append(
            f"| {finding.name} | {finding.seed} | {finding.acknowledged:,} | {finding.bundled} | {finding.lost} | "
            f"{finding.doubled} | {finding.stale} | {converged} | {finding.bound_s:.0f} s |"
        )
    failed = [f"- **{finding.name}**: {failure}" for finding in findings for failure in finding.failures]
    return "\n".join([*lines, "", *(["Not as promised:\n", *failed, ""] if failed else [])])


def _figures(findings: Sequence[Finding]) -> str:
    lines = ["| fault | figure | |", "|---|---|---|"]
    lines += [f"| {finding.name} | {name} | {said} |" for finding in findings for name, said in finding.figures.items()]
    return "\n".join([*lines, ""])


def _without(findings: Sequence[Finding]) -> str:
    lines = [
        "## The same faults without what keeps them from doing harm\n",
        "Each must be noticed, or the tests above would prove nothing.\n",
        "| fault | taken away | noticed |",
        "|---|---|---|",
    ]
    for finding in findings:
        noticed = finding.failures[0] if finding.failures else "**no**"
        lines.append(f"| {finding.name} | {REMEDIES[finding.without][0]} | {noticed.replace('|', '/')} |")
    return "\n".join([*lines, ""])
