"""How many generated cases are run, and which: the short form in every run of the tests, the long one by

    .venv/bin/python -m pytest tests/faults --faults=long [--faults-seed=7]

The short form has seed 0 unless another is given, so that it is the same everywhere; the long one draws a seed.  The
seed is in pytest's first lines.  The same seed gives the same cases; a failure prints the shortest case that fails.
"""

from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, settings


@dataclass(frozen=True)
class Form:
    """`long` or short, and the seed."""

    long: bool
    seed: int

    def cases(self, short: int, long: int) -> int:
        """How many cases."""
        return long if self.long else short

    def settings(self, short: int, long: int, *, shrink: bool = True) -> settings:
        """So many cases, without any limit of time; nothing is kept from one run for the next."""
        phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
        return settings(
            max_examples=self.cases(short, long),
            deadline=None,
            database=None,
            phases=[Phase.explicit, *phases],
            suppress_health_check=list(HealthCheck),
            print_blob=True,
            report_multiple_bugs=False,
        )
