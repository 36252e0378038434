"""PUBLIC_OUTPUT: whether anybody may read what is published, without keys.

One statement of our own in the policy of the output bucket; others that are there stay.  It opens the results by name:
output.csv, rejects.csv and copied images.  It lists nothing, and opens neither what was unpacked of bundles nor
anything of the source bucket.
"""

import json
from typing import Any

from minio import Minio
from minio.error import S3Error

from shared.published import IMAGES, OUTPUT, REJECTS

STATEMENT = "RowdropPublicOutput"


def set_public(minio: Minio, bucket: str, *, public: bool) -> bool:
    """Have the bucket's policy say so; whether it had to be changed.  Raises what minio raises.

    Whoever may not read the policy of a bucket cannot have opened it: not public is then as good as done.
    """
    try:
        policy = _policy(minio, bucket)
    except S3Error as error:
        if public or error.code != "AccessDenied":
            raise
        return False
    others = [statement for statement in policy["Statement"] if statement.get("Sid") != STATEMENT]
    wanted = [*others, _statement(bucket)] if public else others
    if _is_public(policy, bucket) == public:
        return False
    if wanted:
        minio.set_bucket_policy(bucket, json.dumps(policy | {"Statement": wanted}))
    else:
        minio.delete_bucket_policy(bucket)
    return True


def _policy(minio: Minio, bucket: str) -> dict[str, Any]:
    try:
        policy: dict[str, Any] = json.loads(minio.get_bucket_policy(bucket))
    except S3Error as error:
        if error.code != "NoSuchBucketPolicy":
            raise
        return {"Version": "2012-10-17", "Statement": []}
    return policy


def _statement(bucket: str) -> dict[str, Any]:
    objects = (OUTPUT, REJECTS, f"{IMAGES}/*")
    return {
        "Sid": STATEMENT,
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/{name}" for name in objects],
    }


def _is_public(policy: dict[str, Any], bucket: str) -> bool | None:
    """Whether our statement is there as we write it; None for an older one of ours."""
    ours = [statement for statement in policy["Statement"] if statement.get("Sid") == STATEMENT]
    if not ours:
        return False
    resources = {resource for statement in ours for resource in statement.get("Resource", ())}
    return True if resources == set(_statement(bucket)["Resource"]) else None
