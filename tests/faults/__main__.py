"""`python -m tests.faults`: the long form of the fault tests, and a report.

By default everything: random histories, generated files, keys and events; each fault on a whole Rowdrop; and each fault
once more without what keeps it from doing harm.  `--only` plays some faults alone; with `--results` a run adds what it
finds to a file, in place of what was found there before, and the report tells all that is in it.  Exit status 1 unless
all is as promised and everything taken away was noticed.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from local.processes import ROOT
from tests.faults.live.report import one_line, report
from tests.faults.live.results import Results
from tests.faults.live.scenario import Finding
from tests.faults.live.scenarios import SCENARIOS, play


def main() -> int:
    """Play what the command line asks for."""
    options = _options()
    names = [name for name in SCENARIOS if any(word in name for word in options.only)] if options.only else [*SCENARIOS]
    print(f"seed {options.seed}", flush=True)
    results = Results(Path(options.results) if options.results else None)
    if options.generated or not (options.only or options.with_only or options.without_only):
        results.generated(*_generated(options.seed))
    if not (options.without_only or options.generated):
        for name in names:
            results.add(_told(play(name, options.seed, long=options.long)))
    if not (options.with_only or options.generated):
        # In the short form, if that shows it: most of the time is spent on waiting for what does not come.
        for name in names:
            for remedy in SCENARIOS[name].remedies:
                results.add(_told(play(name, options.seed, long=SCENARIOS[name].shows_late, without=remedy)))
    if options.report:
        Path(options.report).write_text(report(results), encoding="utf-8")
    print(json.dumps(results.summary()))
    return int(results.wrong)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description="The long form of the fault tests.")
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1 << 20), help="which cases; drawn by default")
    parser.add_argument("--only", nargs="*", default=[], metavar="WORDS", help="faults whose names have these in them")
    parser.add_argument("--short", dest="long", action="store_false", help="each in its short form")
    parser.add_argument("--generated", action="store_true", help="only the generated cases")
    parser.add_argument("--with-only", action="store_true", help="nothing is taken away")
    parser.add_argument("--without-only", action="store_true", help="only with something taken away")
    parser.add_argument("--results", metavar="FILE", help="keep what is found there, and report all that is in it")
    parser.add_argument("--report", metavar="FILE", help="write the report there, as Markdown")
    return parser.parse_args()


def _told(finding: Finding) -> Finding:
    print(one_line(finding), flush=True)
    for name, said in finding.figures.items():
        print(f"    {name}: {said}", flush=True)
    for failure in finding.failures:
        print(f"    ! {failure}", flush=True)
    return finding


def _generated(seed: int) -> tuple[dict[str, str], bool]:
    """Run the generated cases by pytest; what they say of themselves, and whether all passed."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.xml"
        options = ["--faults=long", f"--faults-seed={seed}", f"--junit-xml={result}", "-q"]
        options += ["-o", "junit_family=xunit1"]  # the other one has no place for what a test says of itself
        paths = [str(path) for path in sorted((ROOT / "tests" / "faults").glob("test_*.py")) if "live" not in path.name]
        done = subprocess.run([sys.executable, "-m", "pytest", *options, *paths], cwd=ROOT, check=False)
        properties = ElementTree.parse(result).iter("property")  # noqa: S314  our own file
        said = {str(each.get("name")): str(each.get("value")) for each in properties}
        counts = next(ElementTree.parse(result).iter("testsuite"))  # noqa: S314
        said["tests"] = f"{counts.get('tests')}, of which {counts.get('failures')} failed"
    return {re.sub(r"\s+", " ", name): value for name, value in said.items()}, done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
