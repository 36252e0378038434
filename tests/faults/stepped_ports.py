"""The ports through which an actor reaches its servers: the actor pauses before each request.

`tests/faults/actors.py` explains the pauses.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

from redis import Redis
from redis.client import Pipeline
from redis.commands.core import Script
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.lock import Lock

from shared.object_store import ObjectInfo, ObjectStore, StoredObject, StoreUnavailable
from shared.redis_keys import FAST_EVENTS
from shared.scripts import CHUNK_SIZE, SCRIPTS_FOLDER
from tests.faults.actors import perform_request
from worker.source.metrics import MinioMetrics
from worker.state.event_inbox import EventInbox

_SCRIPT_TEXTS = {
    **{path.stem.upper(): path.read_text() for path in SCRIPTS_FOLDER.glob("*.lua")},
    "RENEW_LEASE": Lock.LUA_REACQUIRE_SCRIPT,
    "END_LEASE": Lock.LUA_RELEASE_SCRIPT,
}
_SCRIPT_NAMES = {
    hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(): name
    for name, text in _SCRIPT_TEXTS.items()
}


def load_scripts(redis: "Redis", other_scripts: Iterable[Script]) -> None:
    """Load all Lua scripts into Redis, so that a first call makes no additional requests."""
    scripts_by_sha = {
        **{sha: _SCRIPT_TEXTS[name] for sha, name in _SCRIPT_NAMES.items()},
        **{s.sha: s.script for s in other_scripts},
    }
    known: Any = redis.script_exists(*scripts_by_sha)
    for is_known, script in zip(known, scripts_by_sha.values(), strict=True):
        if not is_known:
            redis.script_load(script)


def _make_store_error() -> Exception:
    return StoreUnavailable("no response within the timeout (injected fault)")


def _make_connection_error() -> Exception:
    return RedisConnectionError("connection lost (injected fault)")


class SteppedStore(ObjectStore):
    """A bucket that is called `name` in the names of requests.

    `is_reachable` is False during an outage. `on_write` is called before each write, with the key
    and the ETag that the writer expects, and returns a function that is called after the write.
    `defer` receives the writes that land late. `on_list` is called at each LIST.
    """

    def __init__(
        self,
        inner: ObjectStore,
        name: str,
        on_write: Callable[[str, str | None], Callable[[], None]],
        defer: Callable[[Callable[[], object]], None],
        on_list: Callable[[], None] = lambda: None,
    ) -> None:
        self.inner = inner
        self.name = name
        self.bucket = inner.bucket
        self.is_reachable = True
        self._on_write = on_write
        self._defer = defer
        self._on_list = on_list

    def _get_inner(self) -> ObjectStore:
        if not self.is_reachable:
            raise _make_store_error()
        return self.inner

    def get(
        self, key: str, if_none_match: str | None = None, max_bytes: int | None = None
    ) -> StoredObject:
        return perform_request(
            f"{self.name} GET {key}",
            lambda: self._get_inner().get(key, if_none_match, max_bytes),
            _make_store_error,
        )

    def exists(self, key: str) -> bool:
        return perform_request(
            f"{self.name} EXISTS {key}", lambda: self._get_inner().exists(key), _make_store_error
        )

    def check_readable(self, key: str) -> None:
        perform_request(
            f"{self.name} GET {key}",
            lambda: self._get_inner().check_readable(key),
            _make_store_error,
        )

    def get_list_entry(self, key: str) -> ObjectInfo | None:
        return perform_request(
            f"{self.name} LIST {key}",
            lambda: self._get_inner().get_list_entry(key),
            _make_store_error,
        )

    def get_etag(self, key: str) -> str | None:
        return perform_request(
            f"{self.name} HEAD {key}", lambda: self._get_inner().get_etag(key), _make_store_error
        )

    def get_info(self, key: str) -> ObjectInfo | None:
        return perform_request(
            f"{self.name} HEAD {key}", lambda: self._get_inner().get_info(key), _make_store_error
        )

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        def read() -> bytes:
            return self._get_inner().get_range(key, etag, start, end)

        return perform_request(f"{self.name} GET {key}", read, _make_store_error)

    def put(self, key: str, body: bytes) -> str:
        return self._write(key, lambda: self.inner.put(key, body), self.inner.get_etag(key))

    def put_if_unchanged(self, key: str, body: bytes, expected: str | None) -> str:
        return self._write(key, lambda: self.inner.put_if_unchanged(key, body, expected), expected)

    def _write(self, key: str, write: Callable[[], str], expected: str | None) -> str:
        def write_and_report() -> str:
            after = self._on_write(key, expected)
            etag = write()
            after()
            return etag

        return perform_request(
            f"{self.name} PUT {key}", write_and_report, _make_store_error, self._defer
        )

    def copy_from(
        self, bucket: str, key: str, to: str, source_etag: str = "", *, if_match: bool = False
    ) -> str:
        return perform_request(
            f"{self.name} COPY {to}",
            lambda: self._get_inner().copy_from(bucket, key, to, source_etag, if_match=if_match),
            _make_store_error,
            self._defer,
        )

    def delete(self, key: str) -> None:
        perform_request(
            f"{self.name} DELETE {key}", lambda: self.inner.delete(key), _make_store_error
        )

    def delete_many(self, keys: Sequence[str]) -> None:
        perform_request(
            f"{self.name} DELETE {' '.join(keys)}",
            lambda: self.inner.delete_many(keys),
            _make_store_error,
        )

    def list_objects(
        self, after: str = "", folder: str = "", *, with_source_etags: bool = False
    ) -> Iterator[list[ObjectInfo]]:
        def listed() -> list[list[ObjectInfo]]:
            self._on_list()
            store = self._get_inner()
            return list(store.list_objects(after, folder, with_source_etags=with_source_etags))

        yield from perform_request(f"{self.name} LIST {folder}".rstrip(), listed, _make_store_error)

    def list_folders(self, folder: str) -> list[str]:
        return perform_request(
            f"{self.name} LIST {folder}/",
            lambda: self._get_inner().list_folders(folder),
            _make_store_error,
        )


class _SteppedPipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> Any:  # noqa: ANN401
        commands = list(self.command_stack)
        names = " ".join(str(command[0][0]) for command in commands)

        def execute() -> Any:  # noqa: ANN401
            self.command_stack = list(commands)
            return super(_SteppedPipeline, self).execute(raise_on_error)

        return perform_request(f"redis {names}", execute, _make_connection_error)


class SteppedRedis(Redis):
    """A Redis client that pauses before each round trip.

    `run_id` returns the server's run ID. `on_command` is called before each command, with its name
    and arguments, and returns a function that is called with the server's reply.
    """

    run_id: Callable[[], str] = staticmethod(lambda: "run")
    on_command: Callable[[str, tuple[Any, ...]], Callable[[Any], None]] = staticmethod(
        lambda _, __: lambda _: None
    )
    aliases: ClassVar[dict[str, str]] = {}
    """SHA-1 digest of an edited script -> name of the script that it replaces."""

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        name = self._name_command(args)

        def execute() -> Any:  # noqa: ANN401
            after = self.on_command(name, args)
            answer = super(SteppedRedis, self).execute_command(*args, **options)  # type: ignore[no-untyped-call]
            after(answer)
            return answer

        return perform_request(f"redis {name}", execute, _make_connection_error)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:  # noqa: ANN401
        return _SteppedPipeline(
            self.connection_pool, self.response_callbacks, transaction, shard_hint
        )

    def info(self, *args: Any, **options: Any) -> dict[str, str]:  # noqa: ANN401
        return perform_request(
            "redis INFO", lambda: {"run_id": self.run_id()}, _make_connection_error
        )

    def _name_command(self, args: tuple[Any, ...]) -> str:
        match args:
            case ["EVALSHA", sha, *_]:
                return self.aliases.get(sha) or _SCRIPT_NAMES.get(sha, "SCRIPT")
        return " ".join(str(argument) for argument in args[:2] if isinstance(argument, str))


class SteppedEventInbox(EventInbox):
    """The event inbox without blocking waits, which would only delay a test.

    `max_peeked`: how many events the listener finds at most.
    """

    max_peeked = CHUNK_SIZE

    def wait_for_event(self, seconds: float) -> bytes | None:
        return None

    def measure_lengths(self, message_queue: str) -> tuple[int, int]:
        return CHUNK_SIZE, 0

    def peek(self, max_entries: int) -> list[bytes]:
        return super().peek(min(max_entries, self.max_peeked))


class SteppedMinioMetrics(MinioMetrics):
    """MinIO's metrics, with a pause before each read."""

    def __init__(self, inner: MinioMetrics) -> None:
        self._inner = inner

    def read(self) -> str | None:
        return perform_request("minio METRICS", self._inner.read, _make_store_error)


__all__ = [
    "FAST_EVENTS",
    "SteppedEventInbox",
    "SteppedMinioMetrics",
    "SteppedRedis",
    "SteppedStore",
]
