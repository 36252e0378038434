"""Counts in messages for people. Pure."""


def format_count(count: int, singular: str, plural: str = "") -> str:
    """Return the count with its noun, and a verb if there is one.

    Without `plural` the plural is the singular with an `s`.
    """
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"
