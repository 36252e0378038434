"""The parameters of GET /files and of receipts."""

import re
from collections.abc import Mapping

from api.query.parameters import InvalidParameter, parse_single_values
from shared.formats.source_keys import MAX_KEY_BYTES, is_listable_prefix

MAX_LISTED_FILES = 1000
"""Files on one page of GET /files."""

ALLOWED_FILE_LIMIT = f"a whole number of files, from 1 to {MAX_LISTED_FILES}"
ALLOWED_KEY = (
    f"a name or the beginning of one, at most {MAX_KEY_BYTES} characters; "
    "no part between slashes is . or .. or empty"
)

ALLOWED_ETAG = "an ETag as an upload returns it, at most 64 letters, digits and hyphens"


def parse_etag(parameters: Mapping[str, str | list[str]]) -> str | None:
    """Return the parameter `etag`, None without one. Raises `InvalidParameter`."""
    text = parse_single_values(parameters, ("etag",)).get("etag")
    if text is not None and not re.fullmatch(r"[0-9A-Za-z-]{1,64}", text):
        raise InvalidParameter("etag", f"{text[:40]!r} is not an ETag", ALLOWED_ETAG)
    return text


def parse_file_limit(parameters: Mapping[str, str]) -> int:
    """Return the number of files to list, from 1 to `MAX_LISTED_FILES` (also the default).

    Raises `InvalidParameter`.
    """
    text = parameters.get("limit", str(MAX_LISTED_FILES))
    # `isdigit` alone also accepts the digits of other scripts.
    is_number = text.isascii() and text.isdigit() and len(text) <= 4
    if not (is_number and 1 <= int(text) <= MAX_LISTED_FILES):
        raise InvalidParameter(
            "limit", f"{text[:40]!r} is not a valid number of files", ALLOWED_FILE_LIMIT
        )
    return int(text)


def parse_key(parameters: Mapping[str, str], name: str) -> str:
    """Return the parameter `name`, which is the beginning of a key; empty by default.

    Raises `InvalidParameter` if no key can begin with it.
    """
    text = parameters.get(name, "")
    if len(text) > MAX_KEY_BYTES or not is_listable_prefix(text):
        raise InvalidParameter(name, "not a name or the beginning of one", ALLOWED_KEY)
    return text
