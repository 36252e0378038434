"""Keep pandas out of processes that use Arrow."""

import sys
from contextlib import suppress

import pyarrow as pa


def avoid_pandas() -> None:
    """Make pandas seem missing in this process, so that Arrow does not import it: 28 MB.

    Arrow does so at the first conversion of a value, only to recognize the types of pandas.
    """
    if "pandas" not in sys.modules:
        sys.modules["pandas"] = None  # type: ignore[assignment]
        # Arrow looks for pandas once.  Its way to import it does not expect the None.
        with suppress(ImportError, AttributeError):
            pa.scalar("")
