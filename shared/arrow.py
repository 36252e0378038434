"""Keep pandas out of processes that use Arrow."""

import sys
from contextlib import suppress

import pyarrow as pa


def avoid_pandas() -> None:
    """Keep Arrow from importing pandas, which takes 28 MB, in this process.

    Arrow looks for pandas once, at the first conversion of a value, to recognize its types. Here it
    looks while pandas seems to be missing. What needs pandas still imports it: `to_pandas`, and
    `pyarrow.array` of a list without a type.
    """
    if "pandas" not in sys.modules:
        sys.modules["pandas"] = None  # type: ignore[assignment]
        with suppress(ImportError, AttributeError):
            pa.scalar("")
        del sys.modules["pandas"]
