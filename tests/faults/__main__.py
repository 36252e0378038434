"""`python -m tests.faults`: the long form of the fault tests, and a report.

By default it runs everything: random histories, generated files, keys and events, each fault on a
complete Rowdrop, and each fault again with one protection removed. The generated cases run at the
same time as the faults, with a lower priority. `--only` selects faults by words in their names.
`--results` saves the findings to a file. A new finding replaces the older one of the same fault,
and the report covers all findings in the file. The exit status is 1 if an expectation fails, or if
a removed protection is not detected.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xml.etree import ElementTree

from local.processes import ROOT
from tests.faults.live.report import format_line, render_report
from tests.faults.live.results import Results
from tests.faults.live.scenario import Finding
from tests.faults.live.scenarios import SCENARIOS, run_scenario


def main() -> int:
    """Run what the command line selects, and return the exit status."""
    options = _parse_options()
    names = [*SCENARIOS]
    if options.only:
        names = [name for name in names if any(words in name for words in options.only)]
    print(f"seed {options.seed} (to replay this run, pass it as --seed)", flush=True)
    results = Results(Path(options.results) if options.results else None)
    with ThreadPoolExecutor(1) as executor:
        generated = None
        if options.generated or not (options.only or options.with_only or options.without_only):
            generated = executor.submit(_run_generated_cases, options.seed)
        if not (options.without_only or options.generated):
            for name in names:
                results.add(_print_finding(run_scenario(name, options.seed, long=options.long)))
        if not (options.with_only or options.generated):
            _run_without_protections(names, options.seed, results)
        if generated is not None:
            results.add_generated(*generated.result())
    if options.report:
        Path(options.report).write_text(render_report(results), encoding="utf-8")
    print(json.dumps(results.summary()))
    return int(results.has_failures)


def _run_without_protections(names: Sequence[str], seed: int, results: Results) -> None:
    # The short form where it suffices: with a protection removed, most time goes into timeouts.
    for name in names:
        scenario = SCENARIOS[name]
        for protection in scenario.protections:
            finding = run_scenario(name, seed, long=scenario.needs_long_form, without=protection)
            results.add(_print_finding(finding))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Run the long form of the fault tests."
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=random.randrange(1, 1 << 20),
        help="seed of the cases (default: random, printed at the start)",
    )
    parser.add_argument(
        "--only",
        nargs="*",
        default=[],
        metavar="WORDS",
        help="run only faults with one of these words in their names",
    )
    parser.add_argument(
        "--short", dest="long", action="store_false", help="run each fault in its short form"
    )
    parser.add_argument("--generated", action="store_true", help="run only the generated cases")
    parser.add_argument("--with-only", action="store_true", help="run only with all protections")
    parser.add_argument(
        "--without-only", action="store_true", help="run only with a protection removed"
    )
    parser.add_argument(
        "--results",
        metavar="FILE",
        help="save the findings to this file, and report all findings in it",
    )
    parser.add_argument(
        "--report", metavar="FILE", help="write the report to this file, as Markdown"
    )
    return parser.parse_args()


def _print_finding(finding: Finding) -> Finding:
    print(format_line(finding), flush=True)
    for name, value in finding.figures.items():
        print(f"    {name}: {value}", flush=True)
    for failure in finding.failures:
        print(f"    ! {failure}", flush=True)
    return finding


def _run_generated_cases(seed: int) -> tuple[dict[str, str], bool]:
    """Run the generated cases with pytest, and print its output at the end.

    Returns the properties that the tests recorded, and whether all tests passed.
    """
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.xml"
        options = ["--faults=long", f"--faults-seed={seed}", f"--junit-xml={result}", "-q"]
        options += ["-o", "junit_family=xunit1"]  # xunit2 has no place for the properties of a test
        paths = [
            str(path)
            for path in sorted((ROOT / "tests" / "faults").glob("test_*.py"))
            if "live" not in path.name
        ]
        completed = subprocess.run(
            ["nice", sys.executable, "-m", "pytest", *options, *paths],  # noqa: S607
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        print(completed.stdout, flush=True)
        properties = ElementTree.parse(result).iter("property")  # noqa: S314  our own file
        summary = {str(element.get("name")): str(element.get("value")) for element in properties}
        counts = next(ElementTree.parse(result).iter("testsuite"))  # noqa: S314  our own file
        summary["tests"] = f"{counts.get('tests')}, of which {counts.get('failures')} failed"
    return {
        re.sub(r"\s+", " ", name): value for name, value in summary.items()
    }, completed.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
