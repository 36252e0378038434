"""Drop users from inside the containers' network, for tests/compose.sh.

Usage: `python - FIRST LAST PER_SECOND < tests/compose_drops.py`.  Each user gets a CSV, and every
third one an image.  Every fifth CSV is overwritten later, and every tenth user is deleted.  Like a
real client, the script retries each request until MinIO acknowledges it.
"""

import io
import sys
import time
from collections.abc import Callable

from minio.error import MinioException
from urllib3.exceptions import HTTPError

from worker.services.clients import ServerClients

clients = ServerClients.from_environment(redis=False)
client = clients.create_minio_client()
bucket = clients.settings.source_bucket


def retry_until_done(request: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            request()
        except (HTTPError, MinioException):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def put_object(key: str, body: bytes) -> None:
    retry_until_done(lambda: client.put_object(bucket, key, io.BytesIO(body), len(body)))


def remove_object(key: str) -> None:
    retry_until_done(lambda: client.remove_object(bucket, key))


def make_csv(name: str, number: int) -> bytes:
    return f"first_name,last_name,birthts\n{name},Number {number},{number * 86_400_000}\n".encode()


def main(first: int, last: int, per_second: float) -> None:
    started_at = time.monotonic()
    for count, number in enumerate(range(first, last)):
        time.sleep(max(0.0, started_at + count / per_second - time.monotonic()))
        put_object(f"drop-{number:06}.csv", make_csv("First", number))
        if number % 3 == 0:
            put_object(f"drop-{number:06}.png", b"image")
        if count >= 20 and number % 5 == 0:
            put_object(f"drop-{number - 20:06}.csv", make_csv("Second", number - 20))
        if count >= 20 and number % 10 == 3:
            remove_object(f"drop-{number - 20:06}.csv")
    print(f"dropped {last - first} users in {time.monotonic() - started_at:.0f} s")


main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
