"""Tokens that clients send to the API: their names, their kinds, and the check of their form.

Pure. No message of this module contains the value of a token.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

MIN_TOKEN_LENGTH = 20
"""Characters of a token's value."""
MAX_TOKEN_NAME_LENGTH = 40
"""Characters of a token's name."""
RESERVED_TOKEN_NAMES = frozenset({"API_TOKEN", "EVENTS_TOKEN", "generated", "local", "anyone"})
"""Names in the log that an entry of API_TOKENS or READ_TOKENS must not take."""

_TOKEN_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_TOKEN_NAME_LENGTH}}}")
_TOKEN_VALUE = re.compile(r"[\x21-\x2b\x2d-\x7e]+")


class InvalidToken(ValueError):
    """A token or its name is not valid; the message says why, and never contains the value."""


class TokenKind(Enum):
    """The setting that a token comes from, which decides what the token permits."""

    WRITE = "API_TOKENS"
    GENERATED = "GENERATED_API_TOKEN"
    READ = "READ_TOKENS"
    EVENTS = "EVENTS_TOKEN"


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the API; the log shows only its `name`."""

    name: str
    value: str = field(repr=False)
    kind: TokenKind

    @property
    def may_write(self) -> bool:
        """Return whether the token permits writes; so it permits reads as well."""
        return self.kind in {TokenKind.WRITE, TokenKind.GENERATED}


def parse_tokens(text: str, kind: TokenKind) -> tuple[Token, ...]:
    """Return the tokens of `name=token` entries, separated by commas or whitespace.

    Raises `InvalidToken`.
    """
    numbered_entries = enumerate(text.replace(",", " ").split(), start=1)
    return tuple(_parse_entry(number, entry, kind) for number, entry in numbered_entries)


def _parse_entry(number: int, entry: str, kind: TokenKind) -> Token:
    name, _, value = entry.partition("=")
    # An entry without a name may be a token that ends with "=". The text before the "=" is
    # therefore shown only if a value follows.
    if not value.strip("="):
        raise InvalidToken(f"entry {number} must have a name and a token, as name=token")
    if not _TOKEN_NAME.fullmatch(name):
        raise InvalidToken(
            f"the name of entry {number} must be "
            f"1 to {MAX_TOKEN_NAME_LENGTH} letters, digits, - or _"
        )
    if name in RESERVED_TOKEN_NAMES:
        raise InvalidToken(f"{name} is a name that Rowdrop itself uses; choose another")
    try:
        check_token_value(value)
    except InvalidToken as error:
        raise InvalidToken(f"the token {name} {error}") from None
    return Token(name, value, kind)


def check_token_value(value: str) -> None:
    """Raise `InvalidToken` if the value of a token is not valid; an empty value means no token."""
    if value and not _TOKEN_VALUE.fullmatch(value):
        raise InvalidToken("must be printable ASCII without spaces and commas")
    if value and len(value) < MIN_TOKEN_LENGTH:
        raise InvalidToken(f"must have at least {MIN_TOKEN_LENGTH} characters")


def check_distinct_tokens(tokens: Iterable[Token]) -> None:
    """Raise `InvalidToken` if two tokens have the same name or the same value."""
    by_value: dict[str, list[str]] = {}
    for token in tokens:
        by_value.setdefault(token.value, []).append(token.name)
    names = Counter(name for names_of_value in by_value.values() for name in names_of_value)
    for name, count in names.items():
        if count > 1:
            raise InvalidToken(f"the name {name} is used {count} times; each token needs its own")
    for names_of_value in by_value.values():
        if len(names_of_value) > 1:
            joined_names = " and ".join(names_of_value)
            raise InvalidToken(f"{joined_names} have the same value; each token needs its own")
