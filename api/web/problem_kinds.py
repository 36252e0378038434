"""The types of problem documents (RFC 9457). Pure.

An error with a meaning beyond its HTTP status has a type of its own, `/docs#<kind>`. The others
have the type `about:blank`, which RFC 9457 defines: the status says what is wrong.
"""

from typing import NamedTuple

PROBLEM_MEDIA_TYPE = "application/problem+json"
PLAIN_TYPE = "about:blank"


class ProblemKind(NamedTuple):
    """A kind of problem: its HTTP status, its title, and the explanation shown at /docs."""

    status: int
    title: str
    explanation: str


PROBLEM_KINDS = {
    "wrong-parameter": ProblemKind(
        400,
        "Invalid parameter",
        "A parameter of the query string is unknown, given twice, or has an invalid value; or the "
        "path has the name of a file that Rowdrop would ignore.  `parameter` is its name, "
        "`allowed` describes what is allowed.",
    ),
    "token": ProblemKind(
        401,
        "Token missing or wrong",
        "Send a token as `Authorization: Bearer <token>`: "
        "a write token to write, any token to read.",
    ),
    "access-refused": ProblemKind(
        403,
        "Access refused",
        "A write needs a write token, but a read token was sent; or the request is not local, and "
        "no token is set that would allow it: `API_TOKEN` to write; `API_TOKEN`, `READ_TOKENS` or "
        "`PUBLIC_READ=true` to read.",
    ),
    "cross-site": ProblemKind(
        403,
        "Cross-site request refused",
        "The request comes from a page of another site.  `CORS_ORIGINS` lists the allowed origins.",
    ),
    "no-raster-image": ProblemKind(
        403,
        "Unsupported image type",
        "The content is not PNG, JPEG, GIF or WebP.  The file's name is not considered.",
    ),
    "not-found": ProblemKind(
        404,
        "Not found",
        "The user has no row or no image, or there is no such file or task.  The detail says "
        "which; if the user's CSV was rejected, it gives the reason.  The record of a task expires "
        "a week after its end.",
    ),
    "unreadable": ProblemKind(
        409,
        "The file cannot be read",
        "The file exists, but the object store refuses to read it, usually because it is "
        "encrypted with a key that Rowdrop does not have.  It can be deleted or replaced.",
    ),
    "too-large": ProblemKind(
        413,
        "Body too large",
        "The body is larger than the limit, `most_bytes` in bytes, or has too many events.",
    ),
    "rejected": ProblemKind(
        422,
        "The file is rejected",
        "The file is stored, but it is not valid, so it makes no row.  `reason` and `line` say why "
        "and where.  `held`: the last valid version stays in use until the file is fixed.",
    ),
    "rebuild-failed": ProblemKind(
        500,
        "The rebuild failed",
        "Every attempt failed; the detail gives the reason, `task_id` the rebuild.",
    ),
    "unavailable": ProblemKind(
        503,
        "Temporarily unavailable",
        "Nothing is published yet, MinIO or Redis does not answer, or too many requests are "
        "running; the detail says which.  Retry after the seconds in `Retry-After`.  "
        "`/health/ready` shows what is out of order.",
    ),
}
"""The problems with a type of their own, by the last part of their `type`."""

STATUS_EXPLANATIONS = {
    400: "The request is not valid HTTP, contradicts itself, or lacks all or part of its body.  In "
    "an address, blanks and characters that are not ASCII must be percent-encoded: "
    "`?q=J%C3%B6rg` for `?q=Jörg`.",
    404: "There is nothing at this address; `GET /` lists the routes.",
    405: "The header `Allow` lists the methods of this route.",
    406: "`Accept` matches no media type of this route; the detail lists them.",
    408: "The client did not send the whole request before the timeout.",
    411: "An upload needs `Content-Length`; chunked uploads are refused.",
    414: "Path and query string may have at most 8 kB.",
    415: "The body of an upload must be the file itself: no form, and no `Content-Encoding`.  The "
    "detail has the command that works.",
    416: "The file does not have the bytes that `Range` requests.",
    417: "`Expect` may only be `100-continue`.",
    421: "`Host` is neither an IP address, nor a loopback name, nor one of `ALLOWED_HOSTS`.",
    429: "This address sent too many wrong tokens.  A valid token is accepted at any time.",
    431: "A request may have at most 64 headers of 8 kB each, and 32 kB of headers in total.",
    500: "An unexpected error occurred; the log of the API has the details.",
    501: "`Transfer-Encoding` may only be `chunked`.",
}
"""The problems of the type `about:blank`, by status."""
