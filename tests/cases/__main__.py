"""`python -m tests.cases [FOLDER]`: the table "input -> row or reason".

Without FOLDER it runs the inputs that the project declares, and says of each whether the outcome is
right; the exit status is 1 if any is wrong. FOLDER may have the sub-folders `csv/` (files
`<user_id>.csv`), `bundles/` (archives) and `load/` (folders for `rowdrop load`). Then it prints
what becomes of each of them.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.cases.bundle_cases import BUNDLE_CASES
from tests.cases.case import Case, Kind, Outcome
from tests.cases.csv_cases import CSV_CASES
from tests.cases.folder_cases import FOLDER_CASES
from tests.cases.reported_cases import REPORTED_CASES
from tests.cases.runner import CaseRunner

ALL_CASES: list[Case] = [*CSV_CASES, *BUNDLE_CASES, *FOLDER_CASES, *REPORTED_CASES]
"""All inputs that the project declares."""


def main() -> int:
    """Run what the command line names, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.cases", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER")
    parser.add_argument("--zip-names", default="", metavar="CODEC", help="the setting ZIP_NAMES")
    options = parser.parse_args()
    with CaseRunner(options.zip_names) as runner:
        if options.folder:
            return _print_folder(runner, options.folder)
        return _print_declared(runner)


def _print_folder(runner: CaseRunner, folder: Path) -> int:
    inputs = [(kind, path) for kind in Kind for path in sorted((folder / kind).glob("*"))]
    if not inputs:
        sys.stderr.write(f"{folder} has no files in csv/, bundles/ or load/\n")
        return 2
    for kind, path in inputs:
        _print_line(f"{kind}/{path.name}", runner.run_file(kind, path))
    return 0


def _print_declared(runner: CaseRunner) -> int:
    wrong_count = 0
    for case in ALL_CASES:
        outcome = runner.run_case(case)
        differences = list(case.expected.find_differences(outcome))
        wrong_count += bool(differences)
        _print_line(f"{'WRONG' if differences else 'right'} {case.kind}/{case.name}", outcome)
        for difference in differences:
            print(f"      {difference}")
    print(f"{len(ALL_CASES)} inputs, {wrong_count} wrong")
    return int(wrong_count > 0)


def _print_line(name: str, outcome: Outcome) -> None:
    # Names and rows come from files: control and direction characters would change the table.
    text = " | ".join(format_outcome(outcome)) or "nothing"
    print(name, "->", "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text))


def format_outcome(outcome: Outcome) -> Iterator[str]:
    """Yield one text for each line of the outcome."""
    yield from (f"row {row}" for row in outcome.rows)
    yield from (f"reject {entry}" for entry in outcome.rejects)
    yield from (f"ignored {entry}" for entry in outcome.ignored)
    yield from (f"suspicious {entry}" for entry in outcome.suspicious)


if __name__ == "__main__":
    sys.exit(main())
