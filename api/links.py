"""`Link` to the other pages of a list (RFC 8288).  Pure."""

from collections.abc import Mapping
from urllib.parse import urlencode

from api.question import Page

_RELATIONS = ("first", "prev", "next", "last")


def address(path: str, parameters: Mapping[str, str | list[str]], **changes: object) -> str:
    """The same question with some parameters changed; None takes one away."""
    changed = {**parameters, **changes}
    query = urlencode([(name, value) for name, value in changed.items() if value is not None])
    return f"{path}?{query}" if query else path


def links(path: str, parameters: Mapping[str, str | list[str]], page: Page, total: int) -> str:
    """The header's text; empty if there are no pages."""
    others = page.others(total)
    return ", ".join(
        f'<{address(path, parameters, offset=others[relation])}>; rel="{relation}"'
        for relation in _RELATIONS
        if relation in others
    )
