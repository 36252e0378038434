"""Describe the errors of MinIO, Redis and the API in words, without the text of the libraries."""

import re
from enum import Enum
from typing import NamedTuple

from kombu.exceptions import OperationalError
from minio.error import MinioAdminException, MinioException, S3Error
from redis.exceptions import RedisError
from urllib3.exceptions import HTTPError

from shared.object_store import StoreUnavailable

REDIS_ERRORS = (RedisError, OperationalError)
SERVER_ERRORS = (
    *REDIS_ERRORS,
    StoreUnavailable,
    MinioException,
    MinioAdminException,
    HTTPError,
)
"""The errors of the clients of Redis and MinIO."""
NO_REDIS_PERMISSION = "NOPERM"
"""The cause if the ACL rules of Redis deny a command."""
_MAX_CAUSE_CHARS = 200


class Failure(Enum):
    """What a server did: its value is the sentence about it."""

    NO_ANSWER = "{server} does not answer at {address} ({cause})."
    WRONG_CREDENTIALS = "{server} at {address} refuses the credentials ({cause})."
    NO_PERMISSION = "{server} at {address} denies access ({cause})."
    NO_BUCKET = "{server} at {address} lacks a bucket ({cause})."
    ERROR = "{server} at {address} answers with an error: {cause}."


_PATTERNS = (
    (Failure.WRONG_CREDENTIALS, "InvalidAccessKeyId|SignatureDoesNotMatch", ""),
    (
        Failure.WRONG_CREDENTIALS,
        "WRONGPASS|NOAUTH|AuthenticationError",
        "wrong user or password",
    ),
    (Failure.NO_PERMISSION, "AccessDenied|AllAccessDisabled", ""),
    (Failure.NO_PERMISSION, "Access Denied", "AccessDenied"),
    (Failure.NO_PERMISSION, "NOPERM|NoPermissionError", NO_REDIS_PERMISSION),
    (Failure.NO_BUCKET, "NoSuchBucket", ""),
    (Failure.NO_ANSWER, "(?i)connection ?refused", "connection refused"),
    (
        Failure.NO_ANSWER,
        "Name or service not known|nodename nor servname|No address associated with"
        "|Temporary failure in name resolution|NameResolutionError|failed to lookup address",
        "unknown host name",
    ),
    (Failure.NO_ANSWER, "(?i)no route to host|network is unreachable", "no route to the host"),
    (Failure.NO_ANSWER, "ServerNotInitialized|BusyLoadingError", "it is starting"),
    (Failure.NO_ANSWER, "timed out|TimedOut|kind: Timeout|TimeoutError", "timeout"),
    (
        Failure.NO_ANSWER,
        "(?i)connection ?(?:reset|closed|aborted)|broken pipe|IncompleteMessage"
        "|IncompleteRead|without response",
        "connection closed",
    ),
)
"""Sign of a failure in the text of an error, and its cause; an empty one is the sign itself.

The order matters: the text about a refused connection may contain the configured timeout.
"""


class ServerError(NamedTuple):
    """An error of one server, `MinIO` or `Redis`, with its cause in a few words."""

    server: str
    failure: Failure
    cause: str

    def describe(self, address: str) -> str:
        """Return the sentence about the server at this address."""
        values = {"server": self.server, "address": address, "cause": self.cause.rstrip(".")}
        return self.failure.value.format(**values)


def classify_error(error: Exception) -> ServerError:
    """Return what failed. `error` is one of `SERVER_ERRORS`, or another error of a connection."""
    server = "Redis" if isinstance(error, REDIS_ERRORS) else "MinIO"
    text = "\n".join(f"{type(cause).__name__}: {cause}" for cause in _list_causes(error))
    for failure, pattern, cause in _PATTERNS:
        found = re.search(pattern, text)
        if found:
            return ServerError(server, failure, cause or found[0])
    return ServerError(server, Failure.ERROR, _shorten(error))


def describe_cause(error: Exception) -> str:
    """Return the cause of an error of a connection in a few words, such as `timeout`."""
    return classify_error(error).cause


def _list_causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in causes:
        causes.append(cause)
        cause = cause.__cause__ or cause.__context__
    return causes


def _shorten(error: Exception) -> str:
    if isinstance(error, S3Error):
        return f"{error.code}: {error.message}"[:_MAX_CAUSE_CHARS]
    return str(error).split("\n", 1)[0][:_MAX_CAUSE_CHARS] or type(error).__name__
