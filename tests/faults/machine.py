"""Random histories as a state machine test: all actions and faults, in any order.

An action can happen between any two requests of Rowdrop's processes. It names a process by a
number, modulo the number of processes, so that a history can be replayed and shrunk. A history has
at most two kinds of faults. Most kinds lead to a sweep, which would repair, and so hide, other
errors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import hypothesis
from hypothesis import note, reject
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)
from hypothesis.strategies import SearchStrategy

from shared.formats.object_names import CATALOG_KEY, MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.formats.output_csv import OUTPUT_HEADER
from shared.formats.source_keys import IMAGE_EXTENSIONS
from shared.scripts import CHUNK_SIZE
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.faults.actors import Actor, RequestFate
from tests.faults.drops import INVALID_CONTENTS, VALID_CONTENTS
from tests.faults.oracle import BUNDLED_USER_IDS
from tests.faults.trace_steps import StopNotReached
from tests.faults.traces import TRACES
from tests.faults.world import World

NO_STOP = "the end"
_UNPACK_STOPS = [
    "PUT .bundles",
    "TAKE_OWNERSHIP",
    "PUT bundles.json",
    "RENEW_CATALOG_VERSION",
    "COPY",
    "DELETE",
]
STOP_REQUESTS = {
    "listener": ["MARK", "LPUSH"],
    "worker": ["source GET", "SUBMIT_RESULTS"],
    "bulk": [
        "source LIST",
        "HKEYS",
        "output GET",
        "COMMIT_SWEEP",
        "MARK",
        "source GET",
        "SUBMIT_RESULTS",
        *_UNPACK_STOPS,
    ],
    "publisher": [
        "output GET",
        "READ_PENDING",
        "output PUT",
        "rejects",
        "COMMIT_PUBLISH",
        "PUT manifest",
    ],
    "watchdog": ["HEAD output", "METRICS", "LPUSH"],
}
"""Kinds of processes, and the requests before which other actions can matter."""

USERS = st.sampled_from("aaab")
BUNDLED_USERS = st.sampled_from(sorted(BUNDLED_USER_IDS))
BUNDLE_KEYS = st.sampled_from(["u.zip", "v.tar", "w.tgz"])
MEMBERS = st.dictionaries(BUNDLED_USERS, st.sampled_from(VALID_CONTENTS + INVALID_CONTENTS))
CONTENTS = st.sampled_from(VALID_CONTENTS + VALID_CONTENTS + INVALID_CONTENTS)
CHANGES = st.sampled_from(
    [
        "put image",
        "swap images",
        "put old image",
        "delete image",
        "delete csv",
        "delete csv",
        "delete both",
    ]
)
IMAGE_KINDS = st.sampled_from(IMAGE_EXTENSIONS)
QUEUES = st.sampled_from([EVENTS_QUEUE, BULK_QUEUE])
FLAG = st.booleans()
DELIVER_FLAGS = st.booleans()
POSITIONS = st.integers(0, 3)
ANY_STOP = st.sampled_from(
    [NO_STOP] * 6 + sorted({stop for stops in STOP_REQUESTS.values() for stop in stops})
)
FAILURE_FATES = st.sampled_from(
    [RequestFate.REFUSED, RequestFate.RESPONSE_LOST, RequestFate.DUPLICATED, RequestFate.LATE]
)
TIMES_S = st.sampled_from([1, 6, 6, 6, 31, 61, 121, 700])
AGES_S = st.sampled_from([0, 1, 100_000])
MAX_ACTIONS = st.sampled_from([2, 10, 100, 100])
"""Limits of a history. In a long history, later actions often repair the harm of earlier ones."""


def _build_stop_strategy(kind: str) -> SearchStrategy[str]:
    return st.sampled_from([NO_STOP] * len(STOP_REQUESTS[kind]) + STOP_REQUESTS[kind])


ACTIONS: dict[str, tuple[int, tuple[SearchStrategy[Any], ...]]] = {
    "put_csv": (6, (USERS, CONTENTS, DELIVER_FLAGS)),
    "change_files": (4, (USERS, CHANGES, IMAGE_KINDS, DELIVER_FLAGS)),
    "upload_tar": (
        1,
        (USERS, st.text(VALID_CONTENTS + INVALID_CONTENTS, min_size=1, max_size=3), AGES_S),
    ),
    "unpack_next_member": (1, ()),
    "put_bundle": (3, (BUNDLE_KEYS, MEMBERS, st.sets(BUNDLED_USERS), DELIVER_FLAGS)),
    "delete_bundle": (1, (BUNDLE_KEYS, DELIVER_FLAGS)),
    "change_member": (2, (BUNDLED_USERS, CONTENTS, CHANGES, IMAGE_KINDS, DELIVER_FLAGS)),
    "deliver_events": (2, (POSITIONS, st.integers(1, 5))),
    "start_listener": (3, (FLAG, _build_stop_strategy("listener"))),
    "start_worker": (6, (st.just(EVENTS_QUEUE), _build_stop_strategy("worker"))),
    "start_bulk_worker": (2, (st.just(BULK_QUEUE), _build_stop_strategy("bulk"))),
    "start_publisher": (5, (st.sampled_from([0, 0, 1]), FLAG, _build_stop_strategy("publisher"))),
    "start_watchdog": (1, (_build_stop_strategy("watchdog"),)),
    "step": (4, (POSITIONS, st.integers(1, 3))),
    "continue_actor": (6, (POSITIONS, ANY_STOP)),
    "deliver_and_run": (1, ()),
    "quiesce": (2, ()),
    "apply_late_write": (1, (POSITIONS,)),
}
"""Actions of every history: name -> weight, and strategies for its arguments."""

FAULTS: dict[str, dict[str, tuple[int, tuple[SearchStrategy[Any], ...]]]] = {
    "deaths": {"kill_actor": (4, (POSITIONS,))},
    "failures": {"fail_request": (4, (POSITIONS, FAILURE_FATES))},
    "events": {
        "duplicate_event": (2, (POSITIONS,)),
        "lose_event": (3, (POSITIONS,)),
    },
    "minio": {"lose_counted_event": (3, (POSITIONS,)), "restart_minio": (1, ())},
    "messages": {"lose_message": (2, (QUEUES,)), "duplicate_message": (3, (QUEUES, ANY_STOP))},
    "time": {"pass_time": (4, (TIMES_S,))},
    "empty": {"empty_redis": (2, ())},
    "fall back": {"save_redis": (2, ()), "restore_older_redis": (2, ())},
    "outage": {"set_source_unreachable": (4, (FLAG,))},
    "by hand": {
        "delete_published_file": (
            2,
            (st.sampled_from([OUTPUT_KEY, OUTPUT_KEY, REJECTS_KEY, MANIFEST_KEY, CATALOG_KEY]),),
        ),
        "edit_output": (
            2,
            (
                st.sampled_from(
                    ["empty", "without the first", "reversed", "nonsense", "another name"]
                ),
            ),
        ),
    },
    "sweeps": {"request_sweep": (2, ()), "request_rebuild": (1, ())},
}
"""Additional actions of histories with this kind of fault."""


@cache
def build_action_strategy(faults: frozenset[str]) -> SearchStrategy[tuple[Any, ...]]:
    """Return a strategy for the actions of histories with these faults.

    It draws the name of an action, followed by its arguments.
    """
    actions = dict(ACTIONS)
    for fault in faults:
        actions |= FAULTS[fault]
    names = [name for name, (weight, _) in actions.items() for _ in range(weight)]
    with_arguments = {
        name: st.tuples(st.just(name), *arguments) for name, (_, arguments) in actions.items()
    }
    return st.sampled_from(names).flatmap(with_arguments.__getitem__)


class Histories(RuleBasedStateMachine):
    """A state machine: one run is one history. The caller sets `new_world`.

    Half of the histories begin with the trace of a fault case, because faults near a known one are
    likely.
    """

    new_world: Callable[[], World]
    first_traces: Sequence[str] = [""] * len(TRACES) + list(TRACES)

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).new_world()
        self.action_strategy: SearchStrategy[tuple[Any, ...]] = st.nothing()
        self.fates = [0]
        self.actions_left = 0

    @initialize(
        faults=st.lists(st.sampled_from(sorted(FAULTS)), max_size=2),
        is_new=st.sampled_from([False] * 7 + [True]),
        fates=st.lists(st.integers(0, 2), min_size=1, max_size=4),
        copy_images=st.booleans(),
        max_actions=MAX_ACTIONS,
        first_trace=st.runner().flatmap(lambda machine: st.sampled_from(machine.first_traces)),
    )
    def begin(
        self,
        faults: list[str],
        is_new: bool,
        fates: list[int],
        copy_images: bool,
        max_actions: int,
        first_trace: str,
    ) -> None:
        """Set up the history.

        - `faults`: the kinds of faults.
        - `is_new`: Rowdrop has never run before.
        - `fates`: what happens to the processes that are paused at the end.
        - `copy_images`: images are copied.
        - `max_actions`: the number of actions after which nothing more happens.
        - `first_trace`: the trace with which the history begins, or empty.
        """
        if copy_images:
            self.world.enable_image_copies()
        self.fates = fates
        self.actions_left = max_actions
        self.action_strategy = build_action_strategy(frozenset(faults))
        if not is_new:
            self.world.quiesce_and_check()
        if first_trace:
            try:
                TRACES[first_trace].trace(self.world)
            except StopNotReached:  # with a rule removed, some traces do not apply
                reject()

    @rule(action=st.runner().flatmap(lambda machine: machine.action_strategy))
    def act(self, action: tuple[Any, ...]) -> None:
        """Perform one action, unless the history has had all its actions."""
        if self.actions_left:
            self.actions_left -= 1
            name, *arguments = action
            getattr(self, name)(*arguments)

    def teardown(self) -> None:
        """End the history, and check that everything is right."""
        try:
            self.world.finish_and_check(self.fates)
        finally:
            self.world.close()

    # -- users -------------------------------------------------------------------------------------
    def put_csv(self, user: str, content: str, deliver: bool) -> None:
        self.world.user_actions.put_csv(user, content)
        self._deliver_and_mark(deliver)

    def change_files(self, user: str, change: str, kind: str, deliver: bool) -> None:
        drops = self.world.user_actions
        match change:
            case "put image":
                drops.put_image(user, kind)
            case "swap images":
                drops.put_image(user, kind)
                drops.delete_many(
                    [f"{user}.{other}" for other in IMAGE_EXTENSIONS if other != kind]
                )
            case "put old image":
                drops.put_old_image(user, kind, 100_000)
            case "delete image":
                drops.delete(f"{user}.{kind}")
            case "delete csv":
                drops.delete(f"{user}.csv")
            case "delete both":
                drops.delete_many([f"{user}.csv", "ghost.csv", f"{user}.{kind}"])
        self._deliver_and_mark(deliver)

    def put_bundle(
        self, key: str, members: dict[str, str], images: set[str], deliver: bool
    ) -> None:
        self.world.user_actions.put_bundle(key, members, sorted(images))
        self._deliver_and_mark(deliver)

    def delete_bundle(self, key: str, deliver: bool) -> None:
        self.world.user_actions.delete(key)
        self._deliver_and_mark(deliver)

    def change_member(self, user: str, content: str, change: str, kind: str, deliver: bool) -> None:
        """Drop and change files of a user that may also have files in bundles."""
        self.world.user_actions.put_csv(user, content)
        self.change_files(user, change, kind, deliver)

    def upload_tar(self, user: str, contents: str, age_s: int) -> None:
        self.world.user_actions.upload_tar(user, contents, age_s)

    def unpack_next_member(self) -> None:
        self.world.user_actions.unpack_next_member()

    def _deliver_and_mark(self, deliver: bool) -> None:
        """Deliver all events and let the listener mark their users, if the flag is set."""
        if deliver:
            self.world.events.deliver_all()
            self.world.processes.run_to_end(self.world.processes.start_listener())

    # -- processes ---------------------------------------------------------------------------------
    def deliver_events(self, position: int, count: int) -> None:
        self.world.events.deliver(position, count)

    def start_listener(self, peek_all: bool, stop: str) -> None:
        self._run_until(self.world.processes.start_listener(CHUNK_SIZE if peek_all else 1), stop)

    def start_worker(self, queue: str, stop: str) -> None:
        self._run_until(self.world.processes.start_worker(queue), stop)

    start_bulk_worker = start_worker

    def start_publisher(self, number: int, with_manifest: bool, stop: str) -> None:
        self._run_until(
            self.world.processes.start_publisher(number, with_manifest=with_manifest), stop
        )

    def start_watchdog(self, stop: str) -> None:
        self._run_until(self.world.processes.start_watchdog(), stop)

    def deliver_and_run(self) -> None:
        self.world.events.deliver_all()
        self.world.processes.run_pending_work()

    def quiesce(self) -> None:
        self.world.quiesce_and_check()

    def step(self, position: int, count: int) -> None:
        actor = self._select_actor(position)
        for _ in range(count):
            if actor:
                self.world.processes.step_actor(actor)

    def continue_actor(self, position: int, stop: str) -> None:
        actor = self._select_actor(position)
        if actor:
            self.world.processes.step_actor(actor)
            self._run_until(actor, stop)

    def _select_actor(self, position: int) -> Actor | None:
        actors = self.world.processes.running_actors
        return actors[position % len(actors)] if actors else None

    def _run_until(self, actor: Actor | None, stop: str) -> None:
        if actor:
            self.world.processes.run_until(actor, stop)
            if not actor.is_finished:
                note(f"  {actor.name} is paused before {actor.pending_request}")

    # -- faults ------------------------------------------------------------------------------------
    def kill_actor(self, position: int) -> None:
        self.fail_request(position, RequestFate.KILLED)

    def fail_request(self, position: int, fate: RequestFate) -> None:
        actor = self._select_actor(position)
        if actor:
            note(f"  {actor.name} at {actor.pending_request}: {fate.value}")
            self.world.processes.step_actor(actor, fate)

    def apply_late_write(self, position: int) -> None:
        self.world.apply_late_write(position)

    def duplicate_event(self, position: int) -> None:
        self.world.events.duplicate(position)

    def lose_event(self, position: int) -> None:
        self.world.lose_event(position, is_counted=False)

    def lose_counted_event(self, position: int) -> None:
        self.world.lose_event(position, is_counted=True)

    def restart_minio(self) -> None:
        self.world.restart_minio()

    def lose_message(self, queue: str) -> None:
        self.world.redis.rpop(queue)

    def duplicate_message(self, queue: str, stop: str) -> None:
        self._run_until(self.world.processes.start_worker(queue, keep_message=True), stop)

    def pass_time(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    def empty_redis(self) -> None:
        self.world.redis_faults.flush()

    def save_redis(self) -> None:
        self.world.redis_faults.save_state()

    def restore_older_redis(self) -> None:
        self.world.restart_redis()

    def set_source_unreachable(self, is_unreachable: bool) -> None:
        self.world.set_source_unreachable(is_unreachable=is_unreachable)

    def delete_published_file(self, key: str) -> None:
        self.world.delete_published_file(key)

    def edit_output(self, edit: str) -> None:
        self.world.edit_output_file(EDITS[edit])

    def request_sweep(self) -> None:
        self.world.processes.components.tasks.sweep("hourly")

    def request_rebuild(self) -> None:
        self.world.processes.request_rebuild()


@dataclass
class Tally:
    """The number of histories and of acknowledged writes."""

    histories: int = 0
    writes: int = 0

    def __str__(self) -> str:
        return f"{self.histories} histories, {self.writes} acknowledged writes"


def run_histories(
    seed: int,
    settings: hypothesis.settings,
    new_world: Callable[[], World],
    tally: Tally | None = None,
) -> Tally:
    """Run histories, and raise the `OracleFailure` of the first one that fails.

    The same `seed` and `settings` generate the same histories. `tally` counts what happened, also
    in a run that fails.
    """
    counts = tally or Tally()

    class Counted(Histories):
        def teardown(self) -> None:
            counts.histories += 1
            counts.writes += self.world.user_actions.acknowledged
            super().teardown()

    Counted.new_world = staticmethod(new_world)
    run_state_machine_as_test(hypothesis.seed(seed)(Counted), settings=settings)
    return counts


def _split_rows(body: bytes) -> list[bytes]:
    return body.splitlines(keepends=True)[1:]


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: OUTPUT_HEADER,
    "without the first": lambda body: OUTPUT_HEADER + b"".join(_split_rows(body)[1:]),
    "reversed": lambda body: OUTPUT_HEADER + b"".join(reversed(_split_rows(body))),
    "nonsense": lambda _: b"nonsense",
    "another name": lambda body: body.replace(b"Ivanov", b"Evil"),
}
