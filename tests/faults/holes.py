"""The fault cases that the state protocol covers, each with its shortest trace.

A trace must do no lasting harm. `tests/faults/test_holes.py` runs each trace on real servers.
`tests/faults/test_rules.py` runs it without the rule that covers the case, and the oracle must
report a divergence. A trace leaves its processes paused: `World.end` brings them to rest and checks
the oracle. The numbers are those of the table in `tests/faults/test_holes.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from shared.published import MANIFEST, OUTPUT, REJECTS
from shared.task_queue import EVENTS_QUEUE
from tests.faults.drops import GOOD
from tests.faults.steps import (
    go_on,
    kill,
    land,
    lease_ends,
    listener,
    look,
    publish,
    publisher,
    put,
    put_fast_only,
    put_unheard,
    read,
    reader,
    staged,
    sweep,
    sweep_that_has_listed,
    told,
    written_later,
)
from tests.faults.world import World
from worker.backlog import FAST, WAKE_BULK, WAKE_LIVE


@dataclass(frozen=True)
class Hole:
    """A fault case.

    `rules`: the protocol rules, by their sentences in `tests/faults/removals.py`. If one of them is
    removed, the trace does harm.
    """

    number: int
    trace: Callable[[World], None]
    rules: tuple[str, ...]


HOLES: dict[str, Hole] = {}
"""Fault cases by the name of their trace."""


def hole(number: int, *rules: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Register a trace, with the number of its fault case and the rules that cover it."""

    def register(trace: Callable[[World], None]) -> Callable[[World], None]:
        HOLES[trace.__name__] = Hole(number, trace, rules)
        return trace

    return register


# -- 1, 2, 3, 16: the writer -----------------------------------------------------------------------
@hole(1, "a refused write discards the batch too", "writes are conditional")
def a_refused_publisher_does_not_put_its_old_batch_back(world: World) -> None:
    land(world, "C")
    staged(world, "A")
    first = publisher(world, "PUT output")
    lease_ends(world)
    staged(world, "B")
    publish(world, 1)
    go_on(world, first)
    publish(world)


@hole(2, "a writer without the lease makes no user clean")
def a_sleeping_publisher_whose_if_match_passes_is_evidence(world: World) -> None:
    # output.csv still has the bytes and the ETag that the first publisher read: the second one had
    # nothing to change, because the CSV is A again.
    land(world, "A")
    staged(world, "B")
    first = publisher(world, "PUT output")
    lease_ends(world)
    staged(world, "A")
    publish(world, 1)
    go_on(world, first)


@hole(2, "the batch is read after the published files")
def a_publisher_replaced_before_it_has_read_the_files_writes_nothing(world: World) -> None:
    staged(world, "A")
    first = publisher(world, "output GET", 1)
    lease_ends(world)
    staged(world, "B")
    publish(world)
    go_on(world, first)


@hole(2, "a writer verifies its lease at each chunk")
def a_replaced_publisher_does_not_read_what_is_staged_for_its_successor(world: World) -> None:
    staged(world, "A")
    first = publisher(world, "BATCH", 1)
    lease_ends(world)
    staged(world, "B")
    go_on(world, first)


@hole(3, "an unchanged file is verified by its ETag")
def no_change_by_the_table_in_memory_is_looked_at(world: World) -> None:
    land(world, "A")
    staged(world, "B")
    written_later(world, publisher(world, "PUT output", 1))
    lease_ends(world)
    staged(world, "A")
    world.land()
    publish(world)


@hole(16, "there is one writer at a time")
def two_publishers_do_not_take_turns_in_one_write(world: World) -> None:
    land(world, "A")
    staged(world, "B")
    first = publisher(world, "PUT output")
    for content in "CA":
        staged(world, content)
        publish(world, 1)
    go_on(world, first)


# -- 4, 5: the order of reads ----------------------------------------------------------------------
@hole(4, "a result is refused if another was accepted since its tokens were read")
def a_slow_reader_does_not_replace_a_newer_reading(world: World) -> None:
    put(world, "A")
    slow = reader(world, "STAGE", twice=True)
    world.drops.csv("a", "B")
    read(world)
    writer = publisher(world, "CLEAN")
    go_on(world, slow, writer)
    publish(world)


@hole(4, "version tokens are read before the files")
def tokens_are_older_than_what_was_read(world: World) -> None:
    put(world, "A")
    slow = reader(world, "source EXISTS")
    staged(world, "B")
    go_on(world, slow)
    publish(world)


@hole(4, "a user marked after it was read stays dirty", "every mark renews the change version")
def what_changes_after_it_was_read_is_read_again(world: World) -> None:
    staged(world, "A")
    put(world, "B")
    publish(world)


@hole(5, "a result of a user that is not dirty is refused")
def a_reading_from_before_redis_was_emptied_is_refused(world: World) -> None:
    land(world, "A")
    put(world, "B")
    slow = reader(world, "STAGE")
    put(world, "A")
    world.redis_faults.empty()
    look(world)
    world.processes.pump()
    go_on(world, slow)


@hole(4, "a user stays dirty until published")
def a_reader_that_dies_leaves_its_user_dirty(world: World) -> None:
    put(world, "A")
    kill(world, reader(world, "source EXISTS"))


@hole(4, "absent means NoSuchKey and nothing else")
def an_outage_of_the_source_removes_nobody(world: World) -> None:
    land(world, "A")
    put(world, "B")
    world.cut_off_source(cut=True)
    read(world)
    publish(world)


# -- 6, 18: events ---------------------------------------------------------------------------------
@hole(6, "only what was peeked is popped")
def an_event_that_came_when_redis_had_been_emptied_is_not_popped_for_another(world: World) -> None:
    put_fast_only(world, "A")
    slow = listener(world, "MARK")
    world.redis_faults.empty()
    look(world)
    under_way = sweep_that_has_listed(world)
    put_fast_only(world, "B", "b")
    go_on(world, slow, under_way)


@hole(6, "only what was peeked is popped")
def two_listeners_that_peeked_the_same_lose_nothing(world: World) -> None:
    put_fast_only(world, "A")
    both = [listener(world, "MARK") for _ in range(2)]
    put_fast_only(world, "B", "b")
    go_on(world, *both)


@hole(6, "events are popped in the step that marks")
def a_listener_that_dies_after_its_second_request_loses_nothing(world: World) -> None:
    put_fast_only(world, "A")
    mortal = world.processes.listener()
    for _ in range(2):
        world.processes.step(mortal)
    kill(world, mortal)


@hole(18, "safe copies are counted")
def a_change_does_not_hide_behind_the_copy_of_an_event_that_is_its_twin(world: World) -> None:
    # A, B, A in one tar: the first and the last event are identical, and the fast copy of the last
    # one is lost.
    world.drops.tar("a", "ABA", 0)
    for _ in range(2):
        world.transit.deliver(FAST)
        world.processes.pump()
        world.drops.unpack()
    world.lose_event(FAST, 0, traced=False)


# -- 7, 8, 17: the sweep ---------------------------------------------------------------------------
@hole(7, "a sweep marks dirty users again")
def what_is_on_its_way_is_read_again_by_a_sweep_that_finds_all_fine(world: World) -> None:
    land(world, "A")
    staged(world, "B")
    put_unheard(world, "A")
    go_on(world, sweep(world, "COMMIT"))
    publish(world)


@hole(7, "a sweep reads the dirty users after the LIST")
def who_becomes_dirty_before_the_list_is_asked_for(world: World) -> None:
    land(world, "A")
    early = sweep(world, "source LIST")
    staged(world, "B")
    put_unheard(world, "A")
    go_on(world, early)


@hole(7, "a sweep reads the dirty users before the published files")
def what_is_published_between_two_looks_of_a_sweep_is_seen_by_one_of_them(world: World) -> None:
    land(world, "A")
    staged(world, "B")
    put_unheard(world, "A")
    between = sweep_that_has_listed(world)
    publish(world)
    go_on(world, between)


@hole(8, "a sweep commits only while the trust state holds its token")
def evidence_in_the_middle_of_a_sweep_means_another_sweep(world: World) -> None:
    land(world, "A")
    land(world, "B", "b")
    under_way = sweep(world, "COMMIT")
    _lose_rows(world)
    go_on(world, under_way)


@hole(8)
def redis_emptied_in_the_middle_of_a_sweep_means_another_sweep(world: World) -> None:
    under_way = sweep_that_has_listed(world)
    put(world, "A")
    world.redis_faults.empty()
    go_on(world, under_way)


def _lose_rows(world: World) -> None:
    """Delete row b together with output.csv and the manifest, and let a publisher write row a.

    That publisher has no cached state. It must report the files that it finds as a loss signal.
    """
    for key in (OUTPUT, MANIFEST):
        world.delete_published(key)
    staged(world, "C")
    publish(world, 1)


@hole(8, "the trust state becomes verified at the end of the sweep")
def a_sweep_that_dies_leaves_the_evidence(world: World) -> None:
    land(world, "A")
    land(world, "B", "b")
    _lose_rows(world)
    look(world)
    kill(world, sweep_that_has_listed(world))


@hole(8, "a restart of Redis is a loss signal")
def redis_restarted_with_less_in_it_means_a_sweep(world: World) -> None:
    world.redis_faults.save()
    put(world, "A")
    world.restart_redis()


@hole(17, "MinIO's metrics are read before the LIST")
def what_minio_loses_during_a_sweep_means_another_sweep(world: World) -> None:
    under_way = sweep_that_has_listed(world)
    put_unheard(world, "A", counted=True)
    go_on(world, under_way)


@hole(17, "MinIO's restart and its lost events are loss signals")
def what_minio_loses_is_found(world: World) -> None:
    put_unheard(world, "A", counted=True)


@hole(7, "a fact counts only if its ETag is that of the CSV")
def what_changed_without_an_event_is_found_by_its_etag(world: World) -> None:
    land(world, "A")
    put_unheard(world, "B", counted=True)


# -- 9, 10, 11, 13: the published files ------------------------------------------------------------
@hole(9, "rejects.csv is written before any user becomes clean")
def a_publisher_that_dies_after_its_clean_has_listed_the_reject(world: World) -> None:
    land(world, "A")
    staged(world, "x")
    writer = publisher(world, "CLEAN")
    world.processes.step(writer)
    kill(world, writer)


@hole(10, "loading a file that no publisher recorded is a loss signal")
def rows_that_were_deleted_with_the_file_are_missed(world: World) -> None:
    land(world, "A")
    land(world, "B", "b")
    _lose_rows(world)


@hole(
    10,
    "a fact counts only if its fields are those of the published row",
    "files that no publisher recorded are a loss signal",
)
def an_edited_row_is_put_right(world: World) -> None:
    land(world, "A")
    world.edit_output(lambda body: body.replace(b"Ivanov", b"Evil"))


@hole(10, "a sweep records the compared files as published")
def watch_and_sweep_do_not_call_each_other_for_ever(world: World) -> None:
    land(world, "A")
    world.redis_faults.empty()


@hole(10)
def a_published_file_deleted_when_nothing_is_to_be_published_comes_back(world: World) -> None:
    land(world, "A")
    world.delete_published(REJECTS)


@hole(10)
def an_output_csv_without_rows_that_was_deleted_comes_back(world: World) -> None:
    world.drops.delete_many(["ghost.csv"])
    told(world)
    read(world)
    publish(world)
    world.delete_published(OUTPUT)


@hole(11, "files that no publisher recorded are a loss signal")
def a_write_that_lands_after_its_publishers_death_is_put_right(world: World) -> None:
    land(world, "A")
    staged(world, "B")
    written_later(world, publisher(world, "PUT output", 1))
    lease_ends(world)
    staged(world, "A")
    publish(world)
    world.land()


@hole(11, "… but only if no publisher recorded anything since the LIST")
def a_sweep_does_not_vouch_for_a_write_that_landed_late(world: World) -> None:
    # The sweep listed B. Then A is published, and the write of B lands late: LIST, manifest and
    # output.csv agree, although the current CSV is A.
    land(world, "A")
    staged(world, "B")
    written_later(world, publisher(world, "PUT output", 1))
    lease_ends(world)
    publish(world)
    under_way = sweep_that_has_listed(world)
    land(world, "A", memo=False)
    world.land()
    go_on(world, under_way)


@hole(12)
def staged_rows_whose_wake_up_was_lost_are_published(world: World) -> None:
    staged(world, "A")
    world.redis.delete(WAKE_LIVE, WAKE_BULK)


@hole(12, "overdue users are enqueued again")
def messages_that_were_lost_are_sent_again(world: World) -> None:
    for content, user in zip(GOOD, "abc", strict=True):
        put(world, content, user)
    world.redis.delete(EVENTS_QUEUE)


@hole(13, "a lost output.csv is restored from the manifest")
def a_held_row_survives_the_loss_of_output_csv(world: World) -> None:
    land(world, "A")
    land(world, "x")
    world.delete_published(OUTPUT)
    world.processes.restart_publisher()
    land(world, "B", "b")
