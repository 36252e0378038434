"""Parameters of query strings: single values, booleans, and what is invalid. Pure."""

from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
ALLOWED_BOOLEAN = "true or false in any case, 1 or 0"


class InvalidParameter(ValueError):
    """A query parameter that is unknown, repeated, or has an invalid value.

    `reason` says what is wrong, `allowed` which values the client may send.
    """

    def __init__(self, name: str, reason: str, allowed: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name = name
        self.reason = reason
        self.allowed = allowed


def check_encoding(query_string: str) -> None:
    """Raise `InvalidParameter` for a parameter that is not percent-encoded UTF-8.

    falcon decodes its bytes as U+FFFD, which is also a character that a name may have.
    """
    for parameter in query_string.split("&"):
        try:
            unquote_to_bytes(parameter).decode()
        except UnicodeDecodeError:
            name = parameter.partition("=")[0]
            allowed = "characters percent-encoded as UTF-8"
            raise InvalidParameter(name, "not UTF-8", allowed) from None


def parse_single_values(
    parameters: Mapping[str, str | list[str]], known_names: tuple[str, ...]
) -> dict[str, str]:
    """Return the parameters as single values.

    Raises `InvalidParameter` for a parameter that is unknown or given more than once.
    """
    values = {}
    for name, value in parameters.items():
        if name not in known_names:
            raise InvalidParameter(
                name, "unknown parameter", f"the parameters {', '.join(known_names) or '(none)'}"
            )
        if not isinstance(value, str):
            raise InvalidParameter(name, "given more than once", "one value")
        values[name] = value
    return values


def parse_boolean(values: Mapping[str, str], name: str) -> bool | None:
    """Return a boolean parameter, or None without it. Raises `InvalidParameter`."""
    if name not in values:
        return None
    try:
        return _BOOLEANS[values[name].lower()]
    except KeyError:
        raise InvalidParameter(
            name, f"{values[name][:40]!r} is not a boolean", ALLOWED_BOOLEAN
        ) from None


def parse_explain(parameters: Mapping[str, str | list[str]]) -> bool:
    """Return the parameter `explain`, False by default. Raises `InvalidParameter`."""
    return bool(parse_boolean(parse_single_values(parameters, ("explain",)), "explain"))
