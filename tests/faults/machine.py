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
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from hypothesis.strategies import SearchStrategy

from shared.keys import IMAGE_EXTENSIONS
from shared.output_csv import HEADER
from shared.published import BUNDLES as SHELF
from shared.published import MANIFEST, OUTPUT, REJECTS
from shared.task_queue import BULK_QUEUE, EVENTS_QUEUE
from tests.faults.actors import Actor, Verdict
from tests.faults.drops import BAD, GOOD
from tests.faults.holes import HOLES
from tests.faults.oracle import LOOSE
from tests.faults.steps import CannotStop
from tests.faults.transit import WAYS
from tests.faults.world import World
from worker.backlog import CHUNK

END = "the end"
_UNPACKING = ["PUT .bundles", "CLAIM", "PUT bundles.json", "RELEASE", "COPY", "DELETE"]
STOPS = {
    "listener": ["MARK", "LPUSH"],
    "worker": ["source GET", "STAGE"],
    "bulk": ["source LIST", "HKEYS", "output GET", "COMMIT", "MARK", "source GET", "STAGE", *_UNPACKING],
    "publisher": ["output GET", "BATCH", "output PUT", "rejects", "CLEAN", "PUT manifest"],
    "watch": ["HEAD output", "FIGURES", "LPUSH"],
}
"""Kinds of processes, and the requests before which other actions can matter."""

USERS = st.sampled_from("aaab")
IN_BUNDLES = st.sampled_from(sorted(LOOSE))
BUNDLES = st.sampled_from(["u.zip", "v.tar", "w.tgz"])
MEMBERS = st.dictionaries(IN_BUNDLES, st.sampled_from(GOOD + BAD))
CONTENTS = st.sampled_from(GOOD + GOOD + BAD)
CHANGES = st.sampled_from(
    ["put image", "swap images", "put old image", "delete image", "delete csv", "delete csv", "delete both"]
)
IMAGES = st.sampled_from(IMAGE_EXTENSIONS)
WAY = st.sampled_from(WAYS)
QUEUES = st.sampled_from([EVENTS_QUEUE, BULK_QUEUE])
FLAG = st.booleans()
TOLD = st.booleans()
PLACES = st.integers(0, 3)
ANY_STOP = st.sampled_from([END] * 6 + sorted({stop for stops in STOPS.values() for stop in stops}))
FAILURES = st.sampled_from([Verdict.REFUSED, Verdict.ANSWER_LOST, Verdict.TWICE, Verdict.LATE])
TIMES_S = st.sampled_from([1, 6, 6, 6, 31, 61, 121, 700])
AGES_S = st.sampled_from([0, 1, 100_000])


def _stop(kind: str) -> SearchStrategy[str]:
    return st.sampled_from([END] * len(STOPS[kind]) + STOPS[kind])


ACTIONS: dict[str, tuple[int, tuple[SearchStrategy[Any], ...]]] = {
    "put_csv": (6, (USERS, CONTENTS, TOLD)),
    "change": (4, (USERS, CHANGES, IMAGES, TOLD)),
    "unpack_a_tar": (1, (USERS, st.text(GOOD + BAD, min_size=1, max_size=3), AGES_S)),
    "unpack_further": (1, ()),
    "put_a_bundle": (3, (BUNDLES, MEMBERS, st.sets(IN_BUNDLES), TOLD)),
    "delete_a_bundle": (1, (BUNDLES, TOLD)),
    "change_a_member": (2, (IN_BUNDLES, CONTENTS, CHANGES, IMAGES, TOLD)),
    "deliver": (2, (WAY, PLACES, st.integers(1, 5))),
    "start_listener": (3, (FLAG, _stop("listener"))),
    "start_worker": (6, (st.just(EVENTS_QUEUE), _stop("worker"))),
    "start_bulk_worker": (2, (st.just(BULK_QUEUE), _stop("bulk"))),
    "start_publisher": (5, (st.sampled_from([0, 0, 1]), FLAG, _stop("publisher"))),
    "start_watch": (1, (_stop("watch"),)),
    "step": (4, (PLACES, st.integers(1, 3))),
    "go_on": (6, (PLACES, ANY_STOP)),
    "let_everything_flow": (1, ()),
    "come_to_rest": (2, ()),
    "land_a_late_write": (1, (PLACES,)),
}
"""Actions of every history: name -> weight, and strategies for its arguments."""

FAULTS: dict[str, dict[str, tuple[int, tuple[SearchStrategy[Any], ...]]]] = {
    "deaths": {"kill": (4, (PLACES,))},
    "failures": {"fail_a_request": (4, (PLACES, FAILURES))},
    "events": {"double_an_event": (2, (WAY, PLACES)), "lose_an_event": (3, (WAY, PLACES))},
    "minio": {"lose_a_counted_event": (3, (PLACES,)), "restart_minio": (1, ())},
    "messages": {"lose_a_message": (2, (QUEUES,)), "double_a_message": (3, (QUEUES, ANY_STOP))},
    "time": {"pass_time": (4, (TIMES_S,))},
    "empty": {"empty_redis": (2, ())},
    "fall back": {"save_redis": (2, ()), "restart_redis_with_less": (2, ())},
    "outage": {"cut_off_source": (4, (FLAG,))},
    "by hand": {
        "delete_by_hand": (2, (st.sampled_from([OUTPUT, OUTPUT, REJECTS, MANIFEST, SHELF]),)),
        "edit_by_hand": (2, (st.sampled_from(["empty", "without the first", "reversed", "nonsense", "another name"]),)),
    },
    "sweeps": {"request_a_sweep": (2, ()), "request_a_rebuild": (1, ())},
}
"""Additional actions of histories with this kind of fault."""


@cache
def possible(faults: frozenset[str]) -> SearchStrategy[tuple[Any, ...]]:
    """Return a strategy for the actions of histories with these faults.

    It draws the name of an action, followed by its arguments.
    """
    actions = dict(ACTIONS)
    for fault in faults:
        actions |= FAULTS[fault]
    names = [name for name, (weight, _) in actions.items() for _ in range(weight)]
    with_arguments = {name: st.tuples(st.just(name), *arguments) for name, (_, arguments) in actions.items()}
    return st.sampled_from(names).flatmap(with_arguments.__getitem__)


class Histories(RuleBasedStateMachine):
    """A state machine: one run is one history. The caller sets `new_world`.

    Half of the histories begin with the trace of a fault case, because faults near a known one are
    likely.
    """

    new_world: Callable[[], World]
    beginnings: Sequence[str] = [""] * len(HOLES) + list(HOLES)

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).new_world()
        self.possible: SearchStrategy[tuple[Any, ...]] = st.nothing()
        self.fates = [0]

    @initialize(
        faults=st.lists(st.sampled_from(sorted(FAULTS)), max_size=2),
        new=st.sampled_from([False] * 7 + [True]),
        fates=st.lists(st.integers(0, 2), min_size=1, max_size=4),
        copies=st.booleans(),
        beginning=st.runner().flatmap(lambda machine: st.sampled_from(machine.beginnings)),
    )
    def begin(self, faults: list[str], new: bool, fates: list[int], copies: bool, beginning: str) -> None:
        """Set up the history.

        - `faults`: the kinds of faults.
        - `new`: Rowdrop has never run before.
        - `fates`: what happens to the processes that are paused at the end.
        - `copies`: images are copied.
        - `beginning`: the trace with which the history begins, or empty.
        """
        if copies:
            self.world.copy_images()
        self.fates, self.possible = fates, possible(frozenset(faults))
        if not new:
            self.world.settle()
        if beginning:
            try:
                HOLES[beginning].trace(self.world)
            except CannotStop:  # with a rule removed, some traces do not apply
                reject()

    @rule(action=st.runner().flatmap(lambda machine: machine.possible))
    def act(self, action: tuple[Any, ...]) -> None:
        """Perform one action."""
        name, *arguments = action
        getattr(self, name)(*arguments)

    def teardown(self) -> None:
        """End the history, and check that everything is right."""
        try:
            self.world.end(self.fates)
        finally:
            self.world.close()

    # -- users -------------------------------------------------------------------------------------
    def put_csv(self, user: str, content: str, told: bool) -> None:
        self.world.drops.csv(user, content)
        self._told(told)

    def change(self, user: str, change: str, kind: str, told: bool) -> None:
        drops = self.world.drops
        match change:
            case "put image":
                drops.image(user, kind)
            case "swap images":
                drops.image(user, kind)
                drops.delete_many([f"{user}.{other}" for other in IMAGE_EXTENSIONS if other != kind])
            case "put old image":
                drops.old_image(user, kind, 100_000)
            case "delete image":
                drops.delete(f"{user}.{kind}")
            case "delete csv":
                drops.delete(f"{user}.csv")
            case "delete both":
                drops.delete_many([f"{user}.csv", "ghost.csv", f"{user}.{kind}"])
        self._told(told)

    def put_a_bundle(self, key: str, members: dict[str, str], images: set[str], told: bool) -> None:
        self.world.drops.bundle(key, members, sorted(images))
        self._told(told)

    def delete_a_bundle(self, key: str, told: bool) -> None:
        self.world.drops.delete(key)
        self._told(told)

    def change_a_member(self, user: str, content: str, change: str, kind: str, told: bool) -> None:
        """Drop and change files of a user that may also have files in bundles."""
        self.world.drops.csv(user, content)
        self.change(user, change, kind, told)

    def unpack_a_tar(self, user: str, contents: str, age_s: int) -> None:
        self.world.drops.tar(user, contents, age_s)

    def unpack_further(self) -> None:
        self.world.drops.unpack()

    def _told(self, told: bool) -> None:
        """Deliver all events and let the listener mark their users, if the flag is set."""
        if told:
            self.world.transit.deliver_all()
            self.world.processes.run(self.world.processes.listener())

    # -- processes ---------------------------------------------------------------------------------
    def deliver(self, way: str, place: int, count: int) -> None:
        self.world.transit.deliver(way, place, count)

    def start_listener(self, all_have_come: bool, stop: str) -> None:
        self._go_on(self.world.processes.listener(CHUNK if all_have_come else 1), stop)

    def start_worker(self, queue: str, stop: str) -> None:
        self._go_on(self.world.processes.worker(queue), stop)

    start_bulk_worker = start_worker

    def start_publisher(self, number: int, memo: bool, stop: str) -> None:
        self._go_on(self.world.processes.publisher(number, memo=memo), stop)

    def start_watch(self, stop: str) -> None:
        self._go_on(self.world.processes.watch(), stop)

    def let_everything_flow(self) -> None:
        self.world.transit.deliver_all()
        self.world.processes.pump()

    def come_to_rest(self) -> None:
        self.world.settle()

    def step(self, place: int, count: int) -> None:
        actor = self._living(place)
        for _ in range(count):
            if actor:
                self.world.processes.step(actor)

    def go_on(self, place: int, stop: str) -> None:
        actor = self._living(place)
        if actor:
            self.world.processes.step(actor)
            self._go_on(actor, stop)

    def _living(self, place: int) -> Actor | None:
        living = self.world.processes.living
        return living[place % len(living)] if living else None

    def _go_on(self, actor: Actor | None, stop: str) -> None:
        if actor:
            self.world.processes.until(actor, stop)
            if not actor.over:
                note(f"  {actor.name} is paused before {actor.at}")

    # -- faults ------------------------------------------------------------------------------------
    def kill(self, place: int) -> None:
        self.fail_a_request(place, Verdict.KILLED)

    def fail_a_request(self, place: int, verdict: Verdict) -> None:
        actor = self._living(place)
        if actor:
            note(f"  {actor.name} at {actor.at}: {verdict.value}")
            self.world.processes.step(actor, verdict)

    def land_a_late_write(self, place: int) -> None:
        self.world.land(place)

    def double_an_event(self, way: str, place: int) -> None:
        self.world.transit.double(way, place)

    def lose_an_event(self, way: str, place: int) -> None:
        self.world.lose_event(way, place, traced=False)

    def lose_a_counted_event(self, place: int) -> None:
        for way in WAYS:
            self.world.lose_event(way, place, traced=True)

    def restart_minio(self) -> None:
        self.world.restart_minio()

    def lose_a_message(self, queue: str) -> None:
        self.world.redis.rpop(queue)

    def double_a_message(self, queue: str, stop: str) -> None:
        self._go_on(self.world.processes.worker(queue, twice=True), stop)

    def pass_time(self, seconds: int) -> None:
        self.world.pass_time(seconds)

    def empty_redis(self) -> None:
        self.world.redis_faults.empty()

    def save_redis(self) -> None:
        self.world.redis_faults.save()

    def restart_redis_with_less(self) -> None:
        self.world.restart_redis()

    def cut_off_source(self, cut: bool) -> None:
        self.world.cut_off_source(cut=cut)

    def delete_by_hand(self, key: str) -> None:
        self.world.delete_published(key)

    def edit_by_hand(self, edit: str) -> None:
        self.world.edit_output(EDITS[edit])

    def request_a_sweep(self) -> None:
        self.world.processes.parts.tasks.sweep("hourly")

    def request_a_rebuild(self) -> None:
        self.world.processes.request_rebuild()


@dataclass
class Tally:
    """The number of histories and of acknowledged writes."""

    histories: int = 0
    writes: int = 0

    def __str__(self) -> str:
        return f"{self.histories} histories, {self.writes} acknowledged writes"


def have_histories(
    seed: int, settings: hypothesis.settings, new_world: Callable[[], World], tally: Tally | None = None
) -> Tally:
    """Run histories, and raise the `Divergence` of the first one that fails.

    The same `seed` and `settings` generate the same histories. `tally` counts what happened, also
    in a run that fails.
    """
    counts = tally or Tally()

    class Counted(Histories):
        def teardown(self) -> None:
            counts.histories += 1
            counts.writes += self.world.drops.acknowledged
            super().teardown()

    Counted.new_world = staticmethod(new_world)
    run_state_machine_as_test(hypothesis.seed(seed)(Counted), settings=settings)
    return counts


def _lines(body: bytes) -> list[bytes]:
    return body.splitlines(keepends=True)[1:]


EDITS: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: HEADER,
    "without the first": lambda body: HEADER + b"".join(_lines(body)[1:]),
    "reversed": lambda body: HEADER + b"".join(reversed(_lines(body))),
    "nonsense": lambda _: b"nonsense",
    "another name": lambda body: body.replace(b"Ivanov", b"Evil"),
}
