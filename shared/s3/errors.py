"""Translate the errors of obstore, minio-py and urllib3 into those of the port; no I/O.

Call the functions as attributes of this module (`errors.translate_error(...)`): the fault suite
replaces `translate_error` here, and a name imported before that would not be replaced.
"""

import html
import re

from shared.object_store import ObjectNotFound, ObjectUnreadable, StoreUnavailable

_S3_ERROR_BODY = re.compile(r"<Code>([^<]*)</Code>\s*<Message>([^<]*)</Message>")

_CLIENT_ERROR_STATUS = re.compile(r"status code: 4\d\d\b")

# Error codes of 4xx responses that concern the request or the server. Any other code of a 4xx
# response means that this one object is unreadable.
_REQUEST_ERROR_CODES = re.compile(
    # credentials, permissions and clock skew
    "AccessDenied|AccessForbidden|AllAccessDisabled|AccountProblem|AuthorizationHeaderMalformed"
    "|ExpiredToken|Invalid.*Token|InvalidAccessKeyId|InvalidClientTokenId|MissingSecurityHeader"
    "|NotSignedUp|RequestExpired|RequestTimeTooSkewed|SignatureDoesNotMatch|TokenRefreshRequired"
    "|XAmzContentSHA256Mismatch|XMinioServerNotInitialized"
    # the bucket
    "|NoSuchBucket|InvalidBucketName|IllegalLocationConstraintException|PermanentRedirect"
    # load, and invalid requests
    "|RequestTimeout|SlowDown.*|TooManyRequests|OperationAborted|PreconditionFailed"
    "|ConditionalRequestConflict|InvalidRange|InvalidArgument|InvalidURI|KeyTooLongError"
    "|MalformedXML|MethodNotAllowed|NoSuchKey|NoSuchVersion|XMinioInvalidObjectName|XMinioParentIsObject"
)

_DECRYPTION_ERROR = re.compile(
    "XMinioObjectTampered: .*|XMinioEncryptionError: .*|kms:.*|NotImplemented: .*encrypt.*"
)
"""MinIO's decryption errors, which may come with a status other than 4xx.

The status is 206 in some LIST responses, and 501 where no key server (KMS) is configured.
"""

_LIST_DECRYPTION_ERROR = re.compile("<Code>(XMinioEncryptionError|kms:[^<]*)</Code>")
"""Part of obstore's error text when a LIST fails because of one object in it."""


def translate_error(bucket: str, key: str, error: Exception) -> ObjectNotFound | StoreUnavailable:
    """Return the port's error for an error of obstore that concerns one object."""
    if isinstance(error, FileNotFoundError) and "<Code>NoSuchKey</Code>" in str(error):
        return ObjectNotFound(key)
    error_match = _S3_ERROR_BODY.search(str(error))
    if error_match:
        code, message = error_match.groups()
        if code == "XMinioInvalidResourceName":  # no object can have this key
            return ObjectNotFound(key)
        if _is_object_error(code, message, is_client_error=has_client_error_status(error)):
            return ObjectUnreadable(bucket, key, code, html.unescape(message))
    return StoreUnavailable(f"{bucket}/{key}: {format_error(error)}")


def translate_list_error(bucket: str, error: Exception) -> StoreUnavailable:
    """Return the port's error for an error of a LIST by minio-py.

    MinIO sends one error as a 206. minio-py parses it as a list and fails with `ValueError`.
    """
    if isinstance(error, ValueError):
        message = "no list of objects in the answer"
        return ObjectUnreadable(bucket, "", "XMinioObjectTampered", message)
    from minio.error import S3Error  # noqa: PLC0415

    if isinstance(error, S3Error) and _DECRYPTION_ERROR.fullmatch(f"{error.code}: {error.message}"):
        return ObjectUnreadable(bucket, "", error.code or "", error.message or "")
    return StoreUnavailable(f"{bucket}: {format_error(error)}")


def has_client_error_status(error: Exception) -> bool:
    """Return whether obstore reports a response with a status of 4xx."""
    return bool(_CLIENT_ERROR_STATUS.search(str(error)))


def is_list_decryption_error(error: Exception) -> bool:
    """Return whether a LIST by obstore failed because of one object in it."""
    return bool(_LIST_DECRYPTION_ERROR.search(str(error)))


def is_range_error(error: Exception) -> bool:
    """Return whether the requested range starts beyond the end of the object."""
    return "<Code>InvalidRange</Code>" in str(error)


def format_error(error: Exception) -> str:
    """Return S3's error code and message, or the first line of the error, cut to 300 characters."""
    text = str(error)
    match = _S3_ERROR_BODY.search(text)
    return ": ".join(match.groups()) if match else text.split("\n", 1)[0][:300]


def _is_object_error(code: str, message: str, *, is_client_error: bool) -> bool:
    """Return whether an error means that only this object cannot be read."""
    if _DECRYPTION_ERROR.fullmatch(f"{code}: {message}"):
        return True
    return is_client_error and not _REQUEST_ERROR_CODES.fullmatch(code)
