"""The sample data, on a real MinIO."""

import io

from minio import Minio

from shared.object_store import S3ObjectStore
from worker.sample import drop, files, remove


def keys(client: Minio, bucket: str) -> set[str]:
    return {str(entry.object_name) for entry in client.list_objects(bucket)}


def test_the_sample_is_dropped_and_removed_and_the_users_own_files_stay(
    minio_client: Minio, store: S3ObjectStore
) -> None:
    minio_client.put_object(store.bucket, "0001.csv", io.BytesIO(b"x"), 1)
    drop(minio_client, store.bucket)
    assert keys(minio_client, store.bucket) == {"0001.csv", *(key for key, _ in files())}
    remove(minio_client, store.bucket)
    assert keys(minio_client, store.bucket) == {"0001.csv"}
