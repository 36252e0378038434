"""PUBLIC_OUTPUT: anonymous read access to the published files.

The setting adds one statement to the policy of the output bucket and keeps all other statements.
The statement allows GET of output.csv, rejects.csv and image copies by name.  It allows no listing,
and no access to unpacked bundles, other objects or the source bucket.
"""

import json
from typing import Any

from minio import Minio
from minio.error import S3Error

from shared.formats.object_names import IMAGES_FOLDER, OUTPUT_KEY, REJECTS_KEY

STATEMENT_ID = "RowdropPublicOutput"
"""The `Sid` of Rowdrop's statement in the bucket policy."""


def set_public_access(minio: Minio, bucket: str, *, public: bool) -> bool:
    """Add or remove Rowdrop's statement in the bucket policy.  Return whether the policy changed.

    Idempotent.  If `public` is false and the policy may not be read, nothing is changed: without
    that permission Rowdrop cannot have added its statement.  Raises `S3Error` and the other errors
    of the `minio` package.
    """
    try:
        policy = _read_policy(minio, bucket)
    except S3Error as error:
        if public or error.code != "AccessDenied":
            raise
        return False
    other_statements = [
        statement for statement in policy["Statement"] if statement.get("Sid") != STATEMENT_ID
    ]
    new_statements = [*other_statements, _make_statement(bucket)] if public else other_statements
    # None, an outdated statement, equals neither value: the statement is then replaced.
    if _is_public(policy, bucket) == public:
        return False
    if new_statements:
        minio.set_bucket_policy(bucket, json.dumps(policy | {"Statement": new_statements}))
    else:
        # MinIO rejects a policy without statements.
        minio.delete_bucket_policy(bucket)
    return True


def _read_policy(minio: Minio, bucket: str) -> dict[str, Any]:
    try:
        policy: dict[str, Any] = json.loads(minio.get_bucket_policy(bucket))
    except S3Error as error:
        if error.code != "NoSuchBucketPolicy":
            raise
        return {"Version": "2012-10-17", "Statement": []}
    return policy


def _make_statement(bucket: str) -> dict[str, Any]:
    objects = (OUTPUT_KEY, REJECTS_KEY, f"{IMAGES_FOLDER}/*")
    return {
        "Sid": STATEMENT_ID,
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/{name}" for name in objects],
    }


def _is_public(policy: dict[str, Any], bucket: str) -> bool | None:
    """Return whether Rowdrop's statement is present; None if it is one of an earlier version."""
    own_statements = [
        statement for statement in policy["Statement"] if statement.get("Sid") == STATEMENT_ID
    ]
    if not own_statements:
        return False
    resources = {
        resource for statement in own_statements for resource in statement.get("Resource", ())
    }
    return True if resources == set(_make_statement(bucket)["Resource"]) else None
