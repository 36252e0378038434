"""The `Link` header to the other pages of a list (RFC 8288).  Pure."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from api.query.row_query import Paging

_RELATIONS = ("first", "prev", "next", "last")


def build_path(path: str, parameters: Mapping[str, str | list[str]], **changes: object) -> str:
    """Return the URL of a query with some parameters changed; None removes a parameter."""
    changed = {**parameters, **changes}
    pairs = [(name, value) for name, value in changed.items() if value is not None]
    query_string = urlencode(pairs)
    return f"{path}?{query_string}" if query_string else path


def build_link_header(
    path: str, parameters: Mapping[str, str | list[str]], paging: Paging, total: int
) -> str:
    """Return the value of the `Link` header; empty if the list is not paged."""
    offsets = paging.list_related_offsets(total)
    return ", ".join(
        f'<{build_path(path, parameters, offset=offsets[relation])}>; rel="{relation}"'
        for relation in _RELATIONS
        if relation in offsets
    )


def build_row_path(user_id: str) -> str:
    """Return the address of a user's row, which need not exist yet."""
    return f"/data/{quote(user_id, safe='')}"
