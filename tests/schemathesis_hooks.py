"""Schemathesis hooks that exclude requests; used by tests/system/test_api_description.py."""

from collections.abc import Mapping

import schemathesis
from schemathesis import HookContext


@schemathesis.hook
def filter_query(_: HookContext, query: Mapping[str, object] | None) -> bool:
    """Exclude requests with format=html and a blank value.

    Forms send a field that is not filled in as a blank value, so it counts as not given. No schema
    can express that.
    """
    return not (query and query.get("format") == "html" and "" in query.values())
