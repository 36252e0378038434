"""Bodies that wrap the bytes of a file, and the command that sends a file unchanged. Pure."""

import shlex

_URL_ENCODED = "application/x-www-form-urlencoded"
_MAX_SHOWN_LENGTH = 60


def describe_wrapped_body(content_type: str | None, content_encoding: str | None) -> str | None:
    """Return how a body wraps the bytes of a file; None if the body is the file itself.

    The arguments are the headers of the request. Any other media type may describe a file.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type == _URL_ENCODED:
        return f"a form ({media_type}, which curl -d and --data-binary send)"
    if media_type.startswith("multipart/"):
        return f"a form ({media_type[:_MAX_SHOWN_LENGTH]}, which curl -F sends)"
    codings = {coding.strip().lower() for coding in (content_encoding or "").split(",")}
    if codings <= {"", "identity"}:
        return None
    return f"encoded (Content-Encoding: {(content_encoding or '').strip()[:_MAX_SHOWN_LENGTH]})"


def format_upload_command(url: str, name: str, *, needs_token: bool) -> str:
    """Return the command line of curl that uploads the file `name` to `url`, for a POSIX shell."""
    words = ["curl"]
    if needs_token:
        words.append('-H "Authorization: Bearer $API_TOKEN"')
    # curl expands brackets and braces in the names of files.
    if set(name) & set("[]{}"):
        words.append("--globoff")
    return " ".join([*words, "--upload-file", shlex.quote(name), shlex.quote(url)])
