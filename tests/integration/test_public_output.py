"""PUBLIC_OUTPUT on a real MinIO: which objects are readable without keys."""

import http.client
import json
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from minio import Minio
from minio.error import S3Error

from shared.settings import Settings
from tests.archives import make_zip
from tests.conftest import create_bucket
from tests.integration.stepping import RowdropHarness, make_csv
from worker.commands.init import Initializer
from worker.commands.provisioning.public_output import set_public_access
from worker.services.clients import ServerClients
from worker.services.container import Services


def status_of(settings: Settings, path: str, method: str = "GET") -> int:
    address = urlsplit(settings.minio_endpoint)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        connection.request(method, f"/{path}")
        return connection.getresponse().status
    finally:
        connection.close()


def run_init(settings: Settings, *, public: bool) -> None:
    services = Services(ServerClients(replace(settings, public_output=public)))
    Initializer(services, probe_timeout_s=0.1).run()
    services.close()


def test_public_output_allows_reading_published_objects_only(
    rowdrop: RowdropHarness, settings: Settings
) -> None:
    rowdrop.source.put("u.zip", make_zip({"1.csv": make_csv(), "1.png": b"x"}))
    rowdrop.put_files("2", images=["png"])
    rowdrop.process_users("2")
    rowdrop.process_bundles("u.zip")
    rowdrop.publisher.write_manifest()
    run_init(settings, public=True)
    source = settings.source_bucket
    output = settings.output_bucket
    for name in ("output.csv", "rejects.csv", "images/1.png"):
        assert status_of(settings, f"{output}/{name}") == 200
        assert status_of(settings, f"{output}/{name}", "DELETE") == 403
    private_key = next(
        info.key for page in rowdrop.output.list_objects(folder=".bundles") for info in page
    )
    for path in (
        f"{output}/bundles.json",
        f"{output}/manifest.parquet",
        f"{output}/{private_key}",
        f"{output}/",
        output,
    ):
        assert status_of(settings, path) == 403
    for path in (
        source,
        f"{source}/2.csv",
        f"{source}/2.png",
        f"{source}/u.zip",
        f"{source}/nobody.csv",
    ):
        assert status_of(settings, path) == 403


def test_public_output_is_off_by_default_and_reversible(
    rowdrop: RowdropHarness, settings: Settings
) -> None:
    rowdrop.put_files("1")
    rowdrop.process_users("1")
    path = f"{settings.output_bucket}/output.csv"
    run_init(settings, public=False)
    assert status_of(settings, path) == 403
    run_init(settings, public=True)
    run_init(settings, public=True)
    assert status_of(settings, path) == 200
    run_init(settings, public=False)
    assert status_of(settings, path) == 403


def test_public_output_keeps_other_policy_statements(minio_client: Minio) -> None:
    bucket = create_bucket(minio_client)
    other_statement = {
        "Sid": "Theirs",
        "Effect": "Allow",
        "Principal": {"AWS": ["*"]},
        "Action": ["s3:GetObject"],
        "Resource": [f"arn:aws:s3:::{bucket}/theirs.txt"],
    }
    minio_client.set_bucket_policy(
        bucket, json.dumps({"Version": "2012-10-17", "Statement": [other_statement]})
    )
    assert set_public_access(minio_client, bucket, public=True)
    assert not set_public_access(minio_client, bucket, public=True)
    sids = [
        statement.get("Sid")
        for statement in json.loads(minio_client.get_bucket_policy(bucket))["Statement"]
    ]
    assert sorted(sids) == ["RowdropPublicOutput", "Theirs"]
    assert set_public_access(minio_client, bucket, public=False)
    assert [s["Sid"] for s in json.loads(minio_client.get_bucket_policy(bucket))["Statement"]] == [
        "Theirs"
    ]


def test_public_output_leaves_no_empty_policy(minio_client: Minio) -> None:
    bucket = create_bucket(minio_client)
    assert not set_public_access(minio_client, bucket, public=False)
    set_public_access(minio_client, bucket, public=True)
    set_public_access(minio_client, bucket, public=False)
    with pytest.raises(S3Error, match="NoSuchBucketPolicy"):
        minio_client.get_bucket_policy(bucket)
