"""The floors: the bare requests that the work cannot do without, sent by the fastest S3 client.

That client is obstore.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import obstore
import pyarrow as pa
from obstore.store import S3Store

from bench.rowdrop import Rowdrop
from bench.users import IMAGE
from bench.watch import ObjectWatch
from shared.object_store import LIST_PAGE
from shared.published import OUTPUT
from shared.settings import Settings

READERS = 32


class BareDrop:
    """The bare requests of one drop, in a bucket without notifications."""

    def __init__(self, rowdrop: Rowdrop) -> None:
        self._store = rowdrop.new_bucket()
        self._image = "image.png"
        self._store.put(self._image, IMAGE)
        self._watch = ObjectWatch(rowdrop.objects_on_disk, self._store.bucket, OUTPUT)
        self._writer = ThreadPoolExecutor(1)

    def run(self, key: str, csv: bytes, output: bytes, etag: str) -> float:
        """PUT the CSV, GET it, HEAD an image, PUT output.csv, in sequence; return the seconds.

        `etag` is the ETag of `output`. The clock stops when the object is replaced on disk, as it
        does for a drop: MinIO's response comes up to a millisecond later.
        """
        began = time.perf_counter()
        self._store.put(key, csv)
        self._store.get(key)
        self._store.last_modified(self._image)
        # In a thread, so that the watch can detect the replacement before the response arrives.
        written = self._writer.submit(self._store.put, OUTPUT, output)
        took = self._watch.wait(etag) - began
        written.result()
        return took


class BareReads:
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

    def list_all(self) -> float:
        """LIST all objects; return the seconds."""
        began = time.perf_counter()
        for _ in self._keys():
            pass
        return time.perf_counter() - began

    def list_and_get(self) -> float:
        """LIST all objects, then GET every CSV with 32 concurrent requests; return the seconds."""
        began = time.perf_counter()
        csvs = [key for keys in self._keys() for key in keys if key.endswith(".csv")]
        with ThreadPoolExecutor(READERS) as pool:
            for _ in pool.map(self._get, csvs):  # raises the errors of the threads
                pass
        return time.perf_counter() - began

    def _keys(self) -> Iterator[list[str]]:
        for batch in self._store.list(chunk_size=LIST_PAGE, return_arrow=True):
            yield pa.array(batch["path"]).to_pylist()

    def _get(self, key: str) -> bytes:
        return bytes(obstore.get(self._store, key).bytes())
