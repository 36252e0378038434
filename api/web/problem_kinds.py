"""The kinds of problem documents (RFC 9457), by the last part of their `type`.  Pure."""

from typing import NamedTuple

PROBLEM_MEDIA_TYPE = "application/problem+json"


class ProblemKind(NamedTuple):
    """A kind of problem: its HTTP status, its title, and the explanation shown at /docs."""

    status: int
    title: str
    explanation: str


PROBLEM_KINDS = {
    "wrong-request": ProblemKind(
        400,
        "Malformed request",
        "The request is not valid HTTP, contradicts itself, or lacks all or part of its body.",
    ),
    "wrong-parameter": ProblemKind(
        400,
        "Invalid parameter",
        "A parameter of the query string is unknown, given twice, or has an invalid value.  "
        "`parameter` is its name, `allowed` describes what is allowed.",
    ),
    "wrong-name": ProblemKind(
        400,
        "Unsupported file name",
        "Rowdrop would ignore a file with this name; the detail gives the reason.",
    ),
    "token": ProblemKind(
        401,
        "Token missing or wrong",
        "Send a token as `Authorization: Bearer <token>`: "
        "a write token to write, any token to read.",
    ),
    "read-token": ProblemKind(
        403,
        "Read token sent with a write",
        "A write needs a write token, but a read token was sent.",
    ),
    "writes-refused": ProblemKind(
        403,
        "Writes are refused",
        "The request is not local, and no write token is set (`API_TOKEN`).",
    ),
    "reads-refused": ProblemKind(
        403,
        "Reads are refused",
        "The request is not local, and none of `API_TOKEN`, `READ_TOKENS`, `PUBLIC_READ=true` "
        "is set.",
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
    "no-such-route": ProblemKind(
        404, "No such route", "There is nothing at this address; `GET /` lists the routes."
    ),
    "no-such-user": ProblemKind(
        404,
        "No such user",
        "The user has no row.  If its CSV was rejected, the detail gives the reason.",
    ),
    "no-such-image": ProblemKind(
        404,
        "No such image",
        "The user has no row, its row has no image, or the image no longer exists.",
    ),
    "no-such-file": ProblemKind(
        404, "No such file", "The source bucket has no object with this name."
    ),
    "no-such-task": ProblemKind(
        404,
        "No such task",
        "No task ever had this ID, or it finished more than a week ago and its record expired.",
    ),
    "wrong-method": ProblemKind(
        405, "Method not allowed", "The header `Allow` lists the methods of this route."
    ),
    "no-such-format": ProblemKind(
        406,
        "Format not available",
        "`Accept` matches no media type of this route; `allowed` lists them.",
    ),
    "unreadable": ProblemKind(
        409,
        "The file cannot be read",
        "The file exists, but the object store refuses to read it, usually because it is "
        "encrypted with a key that Rowdrop does not have.  It can be deleted or replaced.",
    ),
    "too-slow": ProblemKind(
        408, "Request timeout", "The client did not send the whole request before the timeout."
    ),
    "no-length": ProblemKind(
        411,
        "Content-Length missing",
        "An upload needs `Content-Length`; chunked uploads are refused.",
    ),
    "too-large": ProblemKind(
        413,
        "Body too large",
        "The body is larger than the limit; `most_bytes` is the limit in bytes.",
    ),
    "address-too-long": ProblemKind(
        414, "URI too long", "Path and query string may have at most 8 kB."
    ),
    "wrong-range": ProblemKind(
        416, "Range not satisfiable", "The file does not have the bytes that `Range` requests."
    ),
    "wrong-expectation": ProblemKind(
        417, "Unsupported expectation", "`Expect` may only be `100-continue`."
    ),
    "other-host": ProblemKind(
        421,
        "Host not allowed",
        "`Host` is neither an IP address, nor a loopback name, nor one of `ALLOWED_HOSTS`.",
    ),
    "failed-tokens": ProblemKind(
        429,
        "Too many wrong tokens",
        "This address sent too many wrong tokens.  A valid token is accepted at any time.",
    ),
    "headers-too-long": ProblemKind(
        431,
        "Headers too long",
        "A request may have at most 64 headers of 8 kB each, and 32 kB of headers in total.",
    ),
    "our-fault": ProblemKind(
        500, "Internal error", "An unexpected error occurred; the log of the API has the details."
    ),
    "rebuild-failed": ProblemKind(
        500,
        "The rebuild failed",
        "Every attempt failed; the detail gives the reason, `task_id` the rebuild.",
    ),
    "wrong-coding": ProblemKind(
        501, "Unsupported transfer coding", "`Transfer-Encoding` may only be `chunked`."
    ),
    "nothing-published": ProblemKind(
        503,
        "Nothing is published yet",
        "No output.csv has been read so far; `/health/ready` gives the reason.",
    ),
    "redis-away": ProblemKind(
        503, "Redis does not answer", "Published rows can still be read; retry this request later."
    ),
    "store-away": ProblemKind(
        503,
        "The object store does not answer",
        "MinIO is unavailable or refuses Rowdrop's credentials; retry later.",
    ),
    "busy": ProblemKind(
        503,
        "Too many concurrent transfers",
        "This process already runs as many transfers as it may; retry later.",
    ),
    "task-lost": ProblemKind(
        503,
        "The task was lost",
        "Redis was emptied while the task was pending.  A sweep restores what was lost.",
    ),
}
PROBLEM_KIND_BY_STATUS = {
    400: "wrong-request",
    404: "no-such-route",
    405: "wrong-method",
    408: "too-slow",
    414: "address-too-long",
    417: "wrong-expectation",
    431: "headers-too-long",
    500: "our-fault",
    501: "wrong-coding",
}
"""The kind of problem for an error that Falcon or gunicorn raises, by its status."""
