"""Rowdrop's own parts, built as in `worker/wiring.py`, on ports that pause before each request.

A subclass that builds one part differently removes a protocol rule: see `tests/faults/removals.py`.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, TypeVar

from redis.commands.core import Script

from shared.object_store import ObjectStore
from shared.rebuilds import Rebuilds
from shared.settings import Settings
from shared.unpacks import Unpacks
from tests.fakes import FakeTaskQueue, InlineExecutor
from tests.faults.stepped import LUA, SteppedBacklog, SteppedRedis
from worker.bulk import BulkWork
from worker.bundles import Bundles
from worker.evidence import Watch
from worker.ignored import IgnoredKeys
from worker.images import Copies
from worker.listener import Listener
from worker.publish import Publisher
from worker.rebuild import Rebuild
from worker.refresh import Refresher
from worker.server_figures import ServerFigures
from worker.sweep import Sweep
from worker.unpack import Unpacker

READERS = 8

BacklogT = TypeVar("BacklogT", bound=SteppedBacklog)
Edits = Mapping[str, Sequence[tuple[str, str]]]
"""Name of a Lua script -> replacements in it, as pairs (old, new)."""


@dataclass
class Crew:
    """The objects that belong to one worker process.

    What it caches of bundles is not shared with other processes.
    """

    refresher: Refresher
    bulk: BulkWork
    sweep: Sweep
    rebuild: Rebuild
    unpacker: Unpacker


class Parts:
    """The parts of one history."""

    edits: ClassVar[Edits] = {}

    def __init__(
        self,
        redis: SteppedRedis,
        source: ObjectStore,
        output: ObjectStore,
        figures: ServerFigures,
        clock: Callable[[], float],
    ) -> None:
        self.redis, self.source, self.output, self.figures, self.clock = redis, source, output, figures, clock
        self.settings = Settings("http://not.used", "", "", "", source.bucket, output.bucket)
        self._crews: list[Crew] = []

    def copy_images(self) -> None:
        """Set IMAGES=copy. Call it before any part is built."""
        self.settings = replace(self.settings, copies_images=True)

    # -- Redis -------------------------------------------------------------------------------------
    def new_backlog(self) -> SteppedBacklog:
        """Return a new to-do list, with edited scripts if a rule is removed."""
        return self.edit(SteppedBacklog(self.redis))

    def edit(self, backlog: BacklogT) -> BacklogT:
        """Edit the scripts of a to-do list, and return it."""
        for name, replacements in self.edits.items():
            setattr(backlog, f"_{name}", self.redis.register_script(edited(self.redis, name, replacements)))
        return backlog

    @cached_property
    def backlog(self) -> SteppedBacklog:
        return self.new_backlog()

    @cached_property
    def tasks(self) -> FakeTaskQueue:
        return FakeTaskQueue(self.redis)

    @cached_property
    def rebuilds(self) -> Rebuilds:
        return Rebuilds(self.redis)

    @cached_property
    def ignored(self) -> IgnoredKeys:
        return IgnoredKeys(self.redis)

    def scripts(self) -> list[Script]:
        """Return the Lua scripts that belong to this history."""
        parts = (self.backlog, self.rebuilds, self.unpacks)
        return [value for part in parts for value in vars(part).values() if isinstance(value, Script)]

    # -- the ports of one process each, so that a removal can alter them alone ---------------------
    @cached_property
    def listener_backlog(self) -> SteppedBacklog:
        return self.backlog

    @cached_property
    def refresher_backlog(self) -> SteppedBacklog:
        return self.backlog

    @cached_property
    def refresher_source(self) -> ObjectStore:
        return self.source

    def new_publisher_backlog(self) -> SteppedBacklog:
        return self.backlog

    def new_publisher_output(self) -> ObjectStore:
        return self.output

    @cached_property
    def sweep_backlog(self) -> SteppedBacklog:
        return self.backlog

    @cached_property
    def sweep_source(self) -> ObjectStore:
        return self.source

    @cached_property
    def sweep_output(self) -> ObjectStore:
        return self.output

    @cached_property
    def watch_backlog(self) -> SteppedBacklog:
        return self.backlog

    @cached_property
    def watch_output(self) -> ObjectStore:
        return self.output

    @cached_property
    def watch_figures(self) -> ServerFigures:
        return self.figures

    # -- the processes -----------------------------------------------------------------------------
    @contextmanager
    def crew(self) -> Iterator[Crew]:
        """Provide an idle worker, which is reused afterwards unless it is killed."""
        crew = self._crews.pop() if self._crews else self._new_crew()
        try:
            yield crew
        except Exception:  # a worker survives an error; only `Killed` (a BaseException) ends it
            self._crews.append(crew)
            raise
        self._crews.append(crew)

    def _new_crew(self) -> Crew:
        clock, source, output, backlog = self.clock, self.source, self.output, self.backlog
        bundles = Bundles(output, backlog, clock)
        copies = Copies(source, output, all_images=self.settings.copies_images)
        pool = InlineExecutor()
        refresher = Refresher(
            self.refresher_source, self.refresher_backlog, pool, READERS, bundles=bundles, copies=copies
        )
        bulk = BulkWork(source, refresher, backlog, self.tasks)
        swept = self.sweep_source, self.sweep_output, self.sweep_backlog
        sweep = Sweep(*swept, bulk, self.ignored, self.figures, clock, Bundles(swept[1], swept[2], clock), copies)
        rebuild = Rebuild(output, backlog, bulk, self.tasks, self.rebuilds, clock, bundles)
        unpacker = Unpacker(source, output, backlog, bulk, self.tasks, self.unpacks, pool, clock=clock)
        return Crew(refresher, bulk, sweep, rebuild, unpacker)

    @cached_property
    def unpacks(self) -> Unpacks:
        return Unpacks(self.redis)

    @cached_property
    def rebuild(self) -> Rebuild:
        """Return the publisher's `Rebuild`, which finishes rebuilds."""
        with self.crew() as crew:
            return crew.rebuild

    def new_listener(self) -> Listener:
        return Listener(self.listener_backlog, self.tasks, self.ignored, self.source.bucket, self.clock)

    def new_publisher(self) -> Publisher:
        output, backlog = self.new_publisher_output(), self.new_publisher_backlog()
        return Publisher(output, backlog, self.source.bucket, self.clock)

    def new_watch(self) -> Watch:
        backlog, output, figures = self.watch_backlog, self.watch_output, self.watch_figures
        return Watch(backlog, output, self.tasks, self.rebuilds, figures, self.settings, self.clock)


def edited(redis: SteppedRedis, name: str, replacements: Sequence[tuple[str, str]]) -> str:
    """Return a script with the replacements applied.

    Raises `AssertionError` unless each old text occurs exactly once: the script has changed, so the
    removal must be adapted.
    """
    text = (LUA / f"{name}.lua").read_text()
    for old, new in replacements:
        assert text.count(old) == 1, f"{name}.lua: expected {old!r} exactly once, found it {text.count(old)} times"
        text = text.replace(old, new)
    redis.aliases[hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()] = name.upper()
    return text
