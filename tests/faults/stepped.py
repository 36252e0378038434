"""The ports through which an actor reaches its servers: the actor pauses before each request.

`tests/faults/actors.py` explains the pauses.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from redis import Redis
from redis.client import Pipeline
from redis.commands.core import Script
from redis.exceptions import ConnectionError as RedisConnectionError

import worker.backlog
from shared.object_store import ObjectInfo, ObjectStore, StoredObject, StoreUnavailable
from tests.faults.actors import perform
from worker.backlog import CHUNK, FAST, Backlog
from worker.server_figures import ServerFigures

LUA = Path(worker.backlog.__file__).parent / "lua"
_TEXTS = {path.stem.upper(): path.read_text() for path in LUA.glob("*.lua")}
_SCRIPTS = {hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(): name for name, text in _TEXTS.items()}


def load_scripts(redis: "Redis", others: Iterable[Script]) -> None:
    """Load all Lua scripts into Redis, so that a first call makes no additional requests."""
    wanted = {**{sha: _TEXTS[name] for sha, name in _SCRIPTS.items()}, **{s.sha: s.script for s in others}}
    known: Any = redis.script_exists(*wanted)
    for is_known, script in zip(known, wanted.values(), strict=True):
        if not is_known:
            redis.script_load(script)


def _unavailable() -> Exception:
    return StoreUnavailable("no response within the timeout (injected fault)")


def _cut() -> Exception:
    return RedisConnectionError("connection lost (injected fault)")


class SteppedStore(ObjectStore):
    """A bucket that is called `name` in the names of requests.

    `reachable` is False during an outage. `writing` is called before each write, with the key and
    the ETag that the writer expects, and returns a function that is called after the write. `late`
    receives the writes that land late. `listing` is called at each LIST.
    """

    def __init__(
        self,
        inner: ObjectStore,
        name: str,
        writing: Callable[[str, str | None], Callable[[], None]],
        late: Callable[[Callable[[], object]], None],
        listing: Callable[[], None] = lambda: None,
    ) -> None:
        self.inner, self.name, self.bucket, self.reachable = inner, name, inner.bucket, True
        self._writing, self._late, self._listing = writing, late, listing

    def _reached(self) -> ObjectStore:
        if not self.reachable:
            raise _unavailable()
        return self.inner

    def get(self, key: str, if_none_match: str | None = None, most: int | None = None) -> StoredObject:
        return perform(f"{self.name} GET {key}", lambda: self._reached().get(key, if_none_match, most), _unavailable)

    def exists(self, key: str) -> bool:
        return perform(f"{self.name} EXISTS {key}", lambda: self._reached().exists(key), _unavailable)

    def check_readable(self, key: str) -> None:
        perform(f"{self.name} GET {key}", lambda: self._reached().check_readable(key), _unavailable)

    def listed(self, key: str) -> ObjectInfo | None:
        return perform(f"{self.name} LIST {key}", lambda: self._reached().listed(key), _unavailable)

    def last_modified(self, key: str) -> int:
        return perform(f"{self.name} HEAD {key}", lambda: self._reached().last_modified(key), _unavailable)

    def etag(self, key: str) -> str | None:
        return perform(f"{self.name} HEAD {key}", lambda: self._reached().etag(key), _unavailable)

    def info(self, key: str) -> ObjectInfo | None:
        return perform(f"{self.name} HEAD {key}", lambda: self._reached().info(key), _unavailable)

    def get_range(self, key: str, etag: str, start: int, end: int) -> bytes:
        def read() -> bytes:
            return self._reached().get_range(key, etag, start, end)

        return perform(f"{self.name} GET {key}", read, _unavailable)

    def put(self, key: str, body: bytes) -> str:
        return self._write(key, lambda: self.inner.put(key, body), self.inner.etag(key))

    def replace(self, key: str, body: bytes, expected: str | None) -> str:
        return self._write(key, lambda: self.inner.replace(key, body, expected), expected)

    def _write(self, key: str, write: Callable[[], str], expected: str | None) -> str:
        def written() -> str:
            after = self._writing(key, expected)
            etag = write()
            after()
            return etag

        return perform(f"{self.name} PUT {key}", written, _unavailable, self._late)

    def copy_from(self, bucket: str, key: str, to: str) -> None:
        perform(f"{self.name} COPY {to}", lambda: self._reached().copy_from(bucket, key, to), _unavailable, self._late)

    def delete(self, key: str) -> None:
        perform(f"{self.name} DELETE {key}", lambda: self.inner.delete(key), _unavailable)

    def delete_many(self, keys: Sequence[str]) -> None:
        perform(f"{self.name} DELETE {' '.join(keys)}", lambda: self.inner.delete_many(keys), _unavailable)

    def objects(self, after: str = "", folder: str = "") -> Iterator[list[ObjectInfo]]:
        def listed() -> list[list[ObjectInfo]]:
            self._listing()
            return list(self._reached().objects(after, folder))

        yield from perform(f"{self.name} LIST {folder}".rstrip(), listed, _unavailable)

    def folders(self, folder: str) -> list[str]:
        return perform(f"{self.name} LIST {folder}/", lambda: self._reached().folders(folder), _unavailable)


class _SteppedPipeline(Pipeline):
    def execute(self, raise_on_error: bool = True) -> Any:  # noqa: ANN401
        commands = list(self.command_stack)
        names = " ".join(str(command[0][0]) for command in commands)

        def execute() -> Any:  # noqa: ANN401
            self.command_stack = list(commands)
            return super(_SteppedPipeline, self).execute(raise_on_error)

        return perform(f"redis {names}", execute, _cut)


class SteppedRedis(Redis):
    """A Redis client that pauses before each round trip.

    `run_id` returns the server's run ID. `seen` is called before each command, with its name and
    arguments, and returns a function that is called with the server's reply.
    """

    run_id: Callable[[], str] = staticmethod(lambda: "run")
    seen: Callable[[str, tuple[Any, ...]], Callable[[Any], None]] = staticmethod(lambda _, __: lambda _: None)
    aliases: ClassVar[dict[str, str]] = {}
    """SHA-1 digest of an edited script -> name of the script that it replaces."""

    def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        name = self._name_of(args)

        def execute() -> Any:  # noqa: ANN401
            after = self.seen(name, args)
            answer = super(SteppedRedis, self).execute_command(*args, **options)  # type: ignore[no-untyped-call]
            after(answer)
            return answer

        return perform(f"redis {name}", execute, _cut)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:  # noqa: ANN401
        return _SteppedPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    def info(self, *args: Any, **options: Any) -> dict[str, str]:  # noqa: ANN401
        return perform("redis INFO", lambda: {"run_id": self.run_id()}, _cut)

    def _name_of(self, args: tuple[Any, ...]) -> str:
        match args:
            case ["EVALSHA", sha, *_]:
                return self.aliases.get(sha) or _SCRIPTS.get(sha, "SCRIPT")
            case ["EVAL", script, *_]:
                return "RENEW" if "PEXPIRE" in script else "RELEASE"
        return " ".join(str(argument) for argument in args[:2] if isinstance(argument, str))


class SteppedBacklog(Backlog):
    """The to-do list without blocking waits, which would only delay a test.

    `most_peeked`: how many events the listener finds at most.
    """

    most_peeked = CHUNK

    def wait_for_event(self, seconds: float) -> bytes | None:
        return None

    def waiting(self, source: str, queue: str) -> tuple[int, int]:
        return CHUNK, 0

    def peek(self, count: int) -> tuple[list[bytes], list[bytes]]:
        return super().peek(min(count, self.most_peeked))


class SteppedFigures(ServerFigures):
    """MinIO's metrics, with a pause before each read."""

    def __init__(self, inner: ServerFigures) -> None:
        self._inner = inner

    def read(self) -> str | None:
        return perform("minio FIGURES", self._inner.read, _unavailable)

    @property
    def safe_queue(self) -> int:  # type: ignore[override]
        return self._inner.safe_queue


__all__ = ["FAST", "SteppedBacklog", "SteppedFigures", "SteppedRedis", "SteppedStore"]
