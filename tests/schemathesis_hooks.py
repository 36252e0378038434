"""What schemathesis is not to ask: see tests/system/test_api_description.py."""

from collections.abc import Mapping

import schemathesis
from schemathesis import HookContext


@schemathesis.hook
def filter_query(_: HookContext, query: Mapping[str, object] | None) -> bool:
    """Leave out what no schema can say: with format=html a blank value counts as not given, as forms send it so."""
    return not (query and query.get("format") == "html" and "" in query.values())
