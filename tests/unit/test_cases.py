"""The inputs of `tests/cases`: each gives its row or its reason, as the command prints it."""

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.formats.records import Person
from tests.archives import make_zip
from tests.cases.__main__ import ALL_CASES
from tests.cases.case import Case, Kind, format_row
from tests.cases.csv_cases import BORN, make_csv
from tests.cases.reported_cases import REPORTED_CASES
from tests.cases.runner import CaseRunner
from tests.faults.independent_reader import read_person

ROOT = Path(__file__).parents[2]
CSV_BODIES = [case for case in ALL_CASES if case.kind is Kind.CSV]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def runner() -> Iterator[CaseRunner]:
    with CaseRunner() as runner:
        yield runner


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: f"{case.kind}/{case.name}")
def test_case_gives_expected_outcome(runner: CaseRunner, case: Case) -> None:
    assert list(case.expected.find_differences(runner.run_case(case))) == []


@pytest.mark.parametrize("case", CSV_BODIES, ids=lambda case: case.name)
def test_case_of_csv_agrees_with_independent_reader(case: Case) -> None:
    assert isinstance(case.body, bytes)
    person = read_person(case.body)
    rows = () if person is None else (format_row(case.name, Person(*person)),)
    assert rows == case.expected.rows


def test_cases_have_names_of_their_own() -> None:
    names = Counter((case.kind, case.name) for case in ALL_CASES)
    assert [name for name, count in names.items() if count > 1] == []


def test_cases_of_reports_name_source_and_reason() -> None:
    assert len({case.source for case in REPORTED_CASES}) == len(REPORTED_CASES) >= 20
    assert [case.name for case in REPORTED_CASES if not case.source or not case.why] == []


@pytest.mark.parametrize("case", REPORTED_CASES, ids=lambda case: case.name)
def test_docs_name_each_report(case: Case) -> None:
    report, _, _ = case.source.partition(": ")
    assert f"| `{case.name}` | {report}: " in OPERATIONS


def run_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.cases", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_cases_command_prints_one_line_for_each_input(tmp_path: Path) -> None:
    files = {
        "csv/7.csv": make_csv().encode(),
        "csv/8.csv": b"",
        "bundles/u.zip": make_zip({"9.csv": make_csv().encode(), "9.txt": b"x"}),
        "load/desk/10.csv": make_csv("A\u202eda").encode(),
    }
    for name, body in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    done = run_command(str(tmp_path))
    lines = done.stdout.splitlines()
    assert done.returncode == 0
    assert lines[0] == f"csv/7.csv -> row 7,Ida,Lindqvist,{BORN}"
    assert lines[1] == "csv/8.csv -> reject the file is empty"
    assert lines[2].startswith(f"bundles/u.zip -> row 9,Ida,Lindqvist,{BORN} | ignored 9.txt: ")
    assert lines[3] == f"load/desk -> row 10,A\\u202eda,Lindqvist,{BORN}"
    assert len(lines) == 4


def test_cases_command_refuses_folder_without_inputs(tmp_path: Path) -> None:
    done = run_command(str(tmp_path))
    assert done.returncode == 2
    assert "has no files" in done.stderr


def test_cases_command_says_right_for_declared_inputs() -> None:
    done = run_command()
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("right ") == len(ALL_CASES)
    assert done.stdout.endswith(f"{len(ALL_CASES)} inputs, 0 wrong\n")
