"""The sample data, on a real MinIO."""

import io

from minio import Minio

from shared.s3.objects import S3ObjectStore
from worker.commands.sample import drop_sample, generate_files, remove_sample


def keys(client: Minio, bucket: str) -> set[str]:
    return {str(entry.object_name) for entry in client.list_objects(bucket)}


def test_drop_sample_and_remove_sample_keep_other_files(
    minio_client: Minio, store: S3ObjectStore
) -> None:
    minio_client.put_object(store.bucket, "0001.csv", io.BytesIO(b"x"), 1)
    drop_sample(minio_client, store.bucket)
    assert keys(minio_client, store.bucket) == {"0001.csv", *(key for key, _ in generate_files())}
    remove_sample(minio_client, store.bucket)
    assert keys(minio_client, store.bucket) == {"0001.csv"}
