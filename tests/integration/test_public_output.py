"""PUBLIC_OUTPUT on a real MinIO: which objects are readable without keys."""

import http.client
import json
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from minio import Minio
from minio.error import S3Error

from shared.settings import Settings
from tests.archives import zip_of
from tests.conftest import new_bucket
from tests.integration.stepping import Stepping, csv_of
from worker.init import Init
from worker.public_output import set_public
from worker.wiring import Wiring


def status_of(settings: Settings, path: str, method: str = "GET") -> int:
    address = urlsplit(settings.minio_endpoint)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        connection.request(method, f"/{path}")
        return connection.getresponse().status
    finally:
        connection.close()


def initialised(settings: Settings, *, public: bool) -> None:
    wiring = Wiring(replace(settings, public_output=public))
    Init(wiring, probe_wait_s=0.1).run()
    wiring.close()


def test_what_is_published_can_be_read_by_anybody_and_nothing_else(rowdrop: Stepping, settings: Settings) -> None:
    rowdrop.source.put("u.zip", zip_of({"1.csv": csv_of(), "1.png": b"x"}))
    rowdrop.drop("2", images=["png"])
    rowdrop.land("2")
    rowdrop.land_bundles("u.zip")
    rowdrop.publisher.write_manifest()
    initialised(settings, public=True)
    source, output = settings.source_bucket, settings.output_bucket
    for name in ("output.csv", "rejects.csv", "images/1.png"):
        assert status_of(settings, f"{output}/{name}") == 200
        assert status_of(settings, f"{output}/{name}", "DELETE") == 403
    hidden = next(info.key for page in rowdrop.output.objects(folder=".bundles") for info in page)
    for path in (f"{output}/bundles.json", f"{output}/manifest.parquet", f"{output}/{hidden}", f"{output}/", output):
        assert status_of(settings, path) == 403
    for path in (source, f"{source}/2.csv", f"{source}/2.png", f"{source}/u.zip", f"{source}/nobody.csv"):
        assert status_of(settings, path) == 403


def test_it_is_off_by_default_and_switched_off_again(rowdrop: Stepping, settings: Settings) -> None:
    rowdrop.drop("1")
    rowdrop.land("1")
    path = f"{settings.output_bucket}/output.csv"
    initialised(settings, public=False)
    assert status_of(settings, path) == 403
    initialised(settings, public=True)
    initialised(settings, public=True)
    assert status_of(settings, path) == 200
    initialised(settings, public=False)
    assert status_of(settings, path) == 403


def test_rules_of_others_stay(minio_client: Minio) -> None:
    bucket = new_bucket(minio_client)
    theirs = {
        "Sid": "Theirs",
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/theirs.txt"],
    }
    minio_client.set_bucket_policy(bucket, json.dumps({"Version": "2012-10-17", "Statement": [theirs]}))
    assert set_public(minio_client, bucket, public=True)
    assert not set_public(minio_client, bucket, public=True)
    sids = [statement.get("Sid") for statement in json.loads(minio_client.get_bucket_policy(bucket))["Statement"]]
    assert sorted(sids) == ["RowdropPublicOutput", "Theirs"]
    assert set_public(minio_client, bucket, public=False)
    assert [s["Sid"] for s in json.loads(minio_client.get_bucket_policy(bucket))["Statement"]] == ["Theirs"]


def test_a_bucket_without_rules_has_none_afterwards(minio_client: Minio) -> None:
    bucket = new_bucket(minio_client)
    assert not set_public(minio_client, bucket, public=False)
    set_public(minio_client, bucket, public=True)
    set_public(minio_client, bucket, public=False)
    with pytest.raises(S3Error, match="NoSuchBucketPolicy"):
        minio_client.get_bucket_policy(bucket)
