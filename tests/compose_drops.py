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

from worker.wiring import Wiring

wiring = Wiring.from_environment(redis=False)
client, bucket = wiring.init_client(), wiring.settings.source_bucket


def insist(request: Callable[[], object]) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            request()
        except (HTTPError, MinioException):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


def put(key: str, body: bytes) -> None:
    insist(lambda: client.put_object(bucket, key, io.BytesIO(body), len(body)))


def remove(key: str) -> None:
    insist(lambda: client.remove_object(bucket, key))


def csv(name: str, number: int) -> bytes:
    return f"first_name,last_name,birthts\n{name},Number {number},{number * 86_400_000}\n".encode()


def main(first: int, last: int, per_second: float) -> None:
    began = time.monotonic()
    for count, number in enumerate(range(first, last)):
        time.sleep(max(0.0, began + count / per_second - time.monotonic()))
        put(f"drop-{number:06}.csv", csv("First", number))
        if number % 3 == 0:
            put(f"drop-{number:06}.png", b"image")
        if count >= 20 and number % 5 == 0:
            put(f"drop-{number - 20:06}.csv", csv("Second", number - 20))
        if count >= 20 and number % 10 == 3:
            remove(f"drop-{number - 20:06}.csv")
    print(f"dropped {last - first} users in {time.monotonic() - began:.0f} s")


main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
