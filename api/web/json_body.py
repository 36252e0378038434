"""Encode small JSON responses.  Pure."""

import json


def encode_json(body: object) -> str:
    """Encode a small response as JSON with a final LF, indented to be readable by people, too.

    Raises `TypeError` for a value that JSON cannot encode.
    """
    return json.dumps(body, ensure_ascii=False, indent=2) + "\n"
