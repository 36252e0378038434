"""The kinds of problems that answers may tell of, by the last part of their `type`.  Pure."""

from typing import NamedTuple

MEDIA_PROBLEM = "application/problem+json"


class Kind(NamedTuple):
    """A kind of problem: its HTTP status, its title, and for /docs when it comes up."""

    status: int
    title: str
    explanation: str


KINDS = {
    "wrong-request": Kind(400, "Not a request that can be understood", "The request is no HTTP, or says two things."),
    "wrong-parameter": Kind(
        400,
        "Wrong parameter",
        "A parameter of the query string is unknown, given twice, or says what it may not.  `parameter` is its name, "
        "`allowed` what is allowed.",
    ),
    "wrong-name": Kind(
        400, "Not a name that is read", "Rowdrop would ignore a file of this name; the detail says why."
    ),
    "token": Kind(
        401,
        "The token is missing or wrong",
        "Send a token as `Authorization: Bearer <token>`: for a write a write token, for reading either kind.",
    ),
    "read-token": Kind(403, "A token for reading", "A write needs a write token, and a read token was sent."),
    "writes-refused": Kind(
        403, "Writes are refused", "The request is not local, and no write token is set (`API_TOKEN`)."
    ),
    "reads-refused": Kind(
        403,
        "Reads are refused",
        "The request is not local, and no token is set (`API_TOKEN`, `READ_TOKENS`, or `PUBLIC_READ=true`).",
    ),
    "cross-site": Kind(
        403,
        "Refused to another site",
        "A page of another site asked, by somebody's browser.  `CORS_ORIGINS` lists the origins that may.",
    ),
    "no-raster-image": Kind(
        403,
        "Not an image that is shown",
        "The bytes are none of PNG, JPEG, GIF and WebP, whatever the file's name says.",
    ),
    "no-such-route": Kind(404, "No such route", "There is nothing at this address; `GET /` lists what there is."),
    "no-such-user": Kind(
        404, "No such user", "The user has no row.  If there is a reject, the detail gives its reason."
    ),
    "no-such-image": Kind(404, "No such image", "The user has no row, or no image, or it is gone since."),
    "no-such-file": Kind(404, "No such file", "There is no object of this name in the source bucket."),
    "no-such-task": Kind(404, "No such task", "This id was never given, or was finished more than a week ago."),
    "wrong-method": Kind(405, "Not a method of this route", "The header `Allow` lists the methods."),
    "no-such-format": Kind(
        406, "Not a format of this route", "`Accept` names no media type of this route; `allowed` lists them."
    ),
    "unreadable": Kind(
        409,
        "The file cannot be read",
        "The file is there, but the object store refuses to read it, as a rule because it is encrypted with a key "
        "that Rowdrop does not have.  It can be deleted, or put again.",
    ),
    "too-slow": Kind(408, "The request took too long", "The client did not send its request in the time there is."),
    "no-length": Kind(411, "The length is missing", "An upload needs `Content-Length`; chunks are not taken."),
    "too-large": Kind(413, "Too large", "The body is larger than may be sent here; `most_bytes` says how much may."),
    "address-too-long": Kind(414, "The address is too long", "Path and query string may have 8 kB."),
    "wrong-range": Kind(416, "No such range", "The bytes asked for by `Range` are not there."),
    "wrong-expectation": Kind(417, "Not an expectation that is met", "`Expect` may only say `100-continue`."),
    "other-host": Kind(
        421,
        "Not a name of this API",
        "The request's `Host` is neither an address, nor a loopback name, nor one of `ALLOWED_HOSTS`.",
    ),
    "failed-tokens": Kind(
        429, "Too many wrong tokens", "Wrong tokens came from this address; a right one is accepted at any time."
    ),
    "headers-too-long": Kind(431, "The headers are too long", "There may be 64 of 8 kB each, and 32 kB in all."),
    "our-fault": Kind(500, "A fault of Rowdrop", "Something failed that must not; the log says what."),
    "rebuild-failed": Kind(500, "The rebuild failed", "It was tried in vain; the detail says why, `task_id` which."),
    "wrong-coding": Kind(501, "Not a transfer coding that is known", "`Transfer-Encoding` may only say `chunked`."),
    "nothing-published": Kind(
        503, "Nothing is published yet", "No output.csv could be read so far; `/health/ready` says why."
    ),
    "redis-away": Kind(503, "Redis does not answer", "What is published can still be read; try this again later."),
    "store-away": Kind(503, "The object store does not answer", "MinIO is away or refuses its keys; try again later."),
    "busy": Kind(503, "Too many at a time", "As many transfers run in this process as it has room for; try again."),
    "task-lost": Kind(503, "The task was lost", "Redis was emptied meanwhile, and a sweep puts right what that lost."),
}
OF_A_STATUS = {
    400: "wrong-request", 404: "no-such-route", 405: "wrong-method", 408: "too-slow", 414: "address-too-long",
    417: "wrong-expectation", 431: "headers-too-long", 500: "our-fault", 501: "wrong-coding",
}  # fmt: skip
"""The problem of an error that falcon or gunicorn has found."""
