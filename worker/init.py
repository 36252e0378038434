"""Prepare the servers: `python -m worker.init`.  Makes the buckets, has MinIO send its events to Redis, and proves it.

It adds its notification rules to those it finds and changes nothing else.  Where MinIO has no Redis target of ours it
prints the lines to set, and Rowdrop goes on with sweeps alone.  May be run as often as one likes.

With `--sample yes` the invented users of `worker/sample.py` go into a source bucket that it has just made, never into
another.
"""

import argparse
import io
import logging
import secrets
import sys
import time
from urllib.parse import urlsplit

from minio.error import S3Error, ServerError
from redis.exceptions import RedisError
from urllib3.exceptions import HTTPError

from shared.settings import InvalidSettings, Settings
from worker import sample
from worker.notifications import TARGETS, Notifications, Rules
from worker.public_output import set_public
from worker.wiring import Wiring

logger = logging.getLogger(__name__)

PROBE_PREFIX = ".rowdrop-probe-"
PROBE_WAIT_S = 10.0


class Init:
    """Prepares the servers of `wiring`; waits `probe_wait_s` seconds for the event that proves it."""

    def __init__(self, wiring: Wiring, probe_wait_s: float = PROBE_WAIT_S, *, with_sample: bool = False) -> None:
        self._wiring, self._settings, self._probe_wait_s = wiring, wiring.settings, probe_wait_s
        self._with_sample = with_sample
        self._minio = wiring.init_client()

    def run(self) -> None:
        """Make everything ready.  Raises what an unreachable server raises."""
        source, output = self._settings.source_bucket, self._settings.output_bucket
        is_new = self._make_bucket(source)
        self._make_bucket(output)
        public = self._settings.public_output
        if set_public(self._minio, output, public=public):
            print(f"{output} can be read {'by anybody, without keys' if public else 'with keys only'}", flush=True)
        notifications = Notifications(self._minio, source)
        events_come = notifications.mend() is not Rules.NO_TARGET and self._probe()
        self._wiring.backlog.note_notifications(come=events_come)
        if not events_come:
            print(_lines_to_set(self._settings), flush=True)
        if is_new and self._with_sample:
            sample.drop(self._minio, source)

    def wait_for_servers(self, wait_s: float) -> None:
        """Return once MinIO and Redis answer.  After `wait_s` seconds, or at once if MinIO refuses the keys, raises."""
        until = time.monotonic() + wait_s
        told = False
        while (error := self._unavailable()) is not None:
            if time.monotonic() > until or _is_refusal(error):
                raise error
            if not told:
                print(f"waiting for MinIO and Redis: {error}", flush=True)
                told = True
            time.sleep(0.5)

    def _unavailable(self) -> Exception | None:
        """What MinIO or Redis says instead of an answer."""
        try:
            self._minio.bucket_exists(self._settings.source_bucket)
            self._wiring.redis.ping()
        except (HTTPError, RedisError, S3Error, ServerError) as error:
            return error
        return None

    def _make_bucket(self, bucket: str) -> bool:
        """Whether it had to be made."""
        if self._minio.bucket_exists(bucket):
            return False
        self._minio.make_bucket(bucket, self._settings.region)
        print(f"created {bucket}", flush=True)
        return True

    def _probe(self) -> bool:
        """Put a key of our own and wait until its event is in Redis; the listener passes such keys over."""
        key = PROBE_PREFIX + secrets.token_hex(6)
        bucket = self._settings.source_bucket
        self._minio.put_object(bucket, key, io.BytesIO(b""), 0)
        try:
            until = time.monotonic() + self._probe_wait_s
            while time.monotonic() < until:
                if self._wiring.backlog.probe_came(key):
                    return True
                time.sleep(0.05)
            return False
        finally:
            self._minio.remove_object(bucket, key)


def _is_refusal(error: Exception) -> bool:
    """Whether waiting would not help: MinIO does not know the key, or not with this secret, or forbids it."""
    return isinstance(error, S3Error) and error.code in {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}


def _lines_to_set(settings: Settings) -> str:
    url = urlsplit(settings.redis_url)
    lines = [
        "MinIO does not send its events to this Redis, so that changes show only after a sweep.",
        "For rows within milliseconds start MinIO with these variables, then run `python -m worker.init` again:",
    ]
    for target, key in TARGETS.items():
        lines += [
            f"  MINIO_NOTIFY_REDIS_ENABLE_{target}=on",
            f"  MINIO_NOTIFY_REDIS_ADDRESS_{target}={url.hostname}:{url.port or 6379}",
            *([f"  MINIO_NOTIFY_REDIS_USER_{target}={url.username}"] if url.username else []),
            f"  MINIO_NOTIFY_REDIS_PASSWORD_{target}=<the password in REDIS_URL>",
            f"  MINIO_NOTIFY_REDIS_FORMAT_{target}=access",
            f"  MINIO_NOTIFY_REDIS_KEY_{target}={key}",
        ]
    lines += [
        "  MINIO_NOTIFY_REDIS_QUEUE_DIR_SAFE=<a folder of its own on MinIO's disk>",
        "  MINIO_NOTIFY_REDIS_QUEUE_LIMIT_SAFE=1000000",
        "  MINIO_SYNC_BOOT=on",
        "  MINIO_PROMETHEUS_AUTH_TYPE=public   (or give Rowdrop a MINIO_PROMETHEUS_TOKEN)",
        "  GOMAXPROCS=8   (more senders of events than cores: they starve in a burst else)",
    ]
    return "\n".join(lines)


def main() -> None:
    """Prepare the servers that the environment names; exit 1 with the reason if they cannot be."""
    parser = argparse.ArgumentParser(prog="python -m worker.init", description="Prepare buckets and notifications.")
    parser.add_argument(
        "--sample", choices=("yes", "no"), default="no", help="drop a sample into a source bucket that is new"
    )
    parser.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="wait so long for the servers")
    arguments = parser.parse_args()
    try:
        init = Init(Wiring.from_environment(), with_sample=arguments.sample == "yes")
        init.wait_for_servers(arguments.wait)
        init.run()
    except InvalidSettings as error:
        sys.exit(str(error))
    except (HTTPError, RedisError, S3Error, ServerError) as error:
        sys.exit(f"the servers cannot be prepared: {error}")


if __name__ == "__main__":
    main()
