"""The `Link` header to the other pages of a list (RFC 8288).  Pure."""

from collections.abc import Mapping
from urllib.parse import urlencode

from api.question import Page

_RELATIONS = ("first", "prev", "next", "last")


def address(path: str, parameters: Mapping[str, str | list[str]], **changes: object) -> str:
    """Return the URL of a query with some parameters changed; None removes a parameter."""
    changed = {**parameters, **changes}
    query = urlencode([(name, value) for name, value in changed.items() if value is not None])
    return f"{path}?{query}" if query else path


def links(path: str, parameters: Mapping[str, str | list[str]], page: Page, total: int) -> str:
    """Return the value of the `Link` header; empty if the list is not paged."""
    others = page.others(total)
    return ", ".join(
        f'<{address(path, parameters, offset=others[relation])}>; rel="{relation}"'
        for relation in _RELATIONS
        if relation in others
    )
