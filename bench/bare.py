"""The floors: the bare requests that the work cannot do without, sent by the fastest S3 client.

That client is obstore.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import obstore
import pyarrow as pa
from obstore.store import S3Store

from bench.rowdrop import RowdropInstance
from bench.users import IMAGE_BYTES
from bench.watch import ObjectWatcher
from shared.formats.object_names import OUTPUT_KEY
from shared.object_store import LIST_PAGE_SIZE
from shared.settings import Settings

FLOOR_READERS = 32


class DropFloor:
    """The bare requests of one drop, in a bucket without notifications."""

    def __init__(self, rowdrop: RowdropInstance) -> None:
        self._store = rowdrop.create_bucket()
        self._image_key = "image.png"
        self._store.put(self._image_key, IMAGE_BYTES)
        self._watcher = ObjectWatcher(rowdrop.objects_on_disk, self._store.bucket, OUTPUT_KEY)
        self._writer = ThreadPoolExecutor(1)

    def measure(self, key: str, csv: bytes, output: bytes, etag: str) -> float:
        """PUT the CSV, GET it, HEAD an image, PUT output.csv, in sequence; return the seconds.

        `etag` is the ETag of `output`. The clock stops when the object is replaced on disk, as it
        does for a drop: MinIO's response comes up to a millisecond later.
        """
        started_at = time.perf_counter()
        self._store.put(key, csv)
        self._store.get(key)
        self._store.get_info(self._image_key)
        # In a thread, so that the watcher can detect the replacement before the response arrives.
        pending_put = self._writer.submit(self._store.put, OUTPUT_KEY, output)
        elapsed_s = self._watcher.wait_for_etag(etag) - started_at
        pending_put.result()
        return elapsed_s


class ReadFloor:
    """Bare requests that read the whole source bucket."""

    def __init__(self, settings: Settings) -> None:
        self._store = S3Store(
            settings.source_bucket,
            endpoint=settings.minio_endpoint,
            access_key_id=settings.minio_access_key,
            secret_access_key=settings.minio_secret_key,
            region=settings.region,
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )

    def measure_list(self) -> float:
        """LIST all objects; return the seconds."""
        started_at = time.perf_counter()
        for _ in self._list_keys():
            pass
        return time.perf_counter() - started_at

    def measure_list_and_get(self) -> float:
        """LIST all objects, then GET every CSV with 32 concurrent requests; return the seconds."""
        started_at = time.perf_counter()
        csvs = [key for keys in self._list_keys() for key in keys if key.endswith(".csv")]
        with ThreadPoolExecutor(FLOOR_READERS) as pool:
            for _ in pool.map(self._get_body, csvs):  # raises the errors of the threads
                pass
        return time.perf_counter() - started_at

    def _list_keys(self) -> Iterator[list[str]]:
        for batch in self._store.list(chunk_size=LIST_PAGE_SIZE, return_arrow=True):
            yield pa.array(batch["path"]).to_pylist()

    def _get_body(self, key: str) -> bytes:
        return bytes(obstore.get(self._store, key).bytes())
