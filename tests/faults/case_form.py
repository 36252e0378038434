"""Size and seed of the generated test cases: a short form and a long form.

Every run of the test suite includes the short form. This command runs the long form:

    .venv/bin/python -m pytest tests/faults --faults=long [--faults-seed=7]

The short form uses seed 0 unless `--faults-seed` is given, so it is the same on every machine. The
long form draws a random seed. pytest prints the seed in its header. The same seed generates the
same cases, and a failure prints the shortest failing case.
"""

from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, settings


@dataclass(frozen=True)
class CaseForm:
    """The form (`long`, or else short) and the random seed."""

    long: bool
    seed: int

    def case_count(self, short: int, long: int) -> int:
        """Return the number of cases for this form."""
        return long if self.long else short

    def build_settings(self, short: int, long: int, *, shrink: bool = True) -> settings:
        """Return Hypothesis settings for this number of cases.

        A case has no deadline, and no example database is kept between runs. Without `shrink`,
        Hypothesis reports the failing case as it was generated.
        """
        phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
        return settings(
            max_examples=self.case_count(short, long),
            deadline=None,
            database=None,
            phases=[Phase.explicit, *phases],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            report_multiple_bugs=False,
        )
