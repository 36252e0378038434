"""The fault cases that the state protocol covers, each with its shortest trace.

A trace must do no lasting harm. `tests/faults/test_traces.py` runs each trace on real servers.
`tests/faults/test_rules.py` runs it without the rule that covers the case, and the oracle must
report a divergence. A trace leaves its processes paused: `World.end` brings them to rest and checks
the oracle. The numbers are those of the table in `tests/faults/test_traces.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from shared.formats.object_names import MANIFEST_KEY, OUTPUT_KEY, REJECTS_KEY
from shared.redis_keys import WAKE_BULK, WAKE_LIVE
from shared.task_queue import EVENTS_QUEUE
from tests.faults.drops import VALID_CONTENTS
from tests.faults.trace_steps import (
    defer_write_and_kill,
    deliver_and_mark,
    expire_lease,
    kill_process,
    publish_csv,
    put_csv,
    put_with_event,
    put_without_event,
    read_next_message,
    run_publisher,
    run_to_end,
    run_watchdog,
    start_listener,
    start_publisher,
    start_reader,
    start_sweep,
    start_sweep_past_list,
    submit_csv,
)
from tests.faults.world import World


@dataclass(frozen=True)
class ProtocolTrace:
    """A fault case.

    `rules`: the protocol rules, by their sentences in `tests/faults/removals.py`. If one of them is
    removed, the trace does harm.
    """

    number: int
    trace: Callable[[World], None]
    rules: tuple[str, ...]


TRACES: dict[str, ProtocolTrace] = {}
"""Fault cases by the name of their trace."""


def register_trace(
    number: int, *rules: str
) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Register a trace, with the number of its fault case and the rules that cover it."""

    def register(trace: Callable[[World], None]) -> Callable[[World], None]:
        TRACES[trace.__name__] = ProtocolTrace(number, trace, rules)
        return trace

    return register


# -- 1, 2, 3, 16: the writer -----------------------------------------------------------------------
@register_trace(1, "a refused write discards the batch too", "writes are conditional")
def refused_publisher_discards_its_batch(world: World) -> None:
    publish_csv(world, "C")
    submit_csv(world, "A")
    first_publisher = start_publisher(world, "PUT output")
    expire_lease(world)
    submit_csv(world, "B")
    run_publisher(world, 1)
    run_to_end(world, first_publisher)
    run_publisher(world)


@register_trace(2, "a writer without the lease makes no user clean")
def stalled_publisher_with_matching_etag_signals_loss(world: World) -> None:
    # output.csv still has the bytes and the ETag that the first publisher read: the second one had
    # nothing to change, because the CSV is A again.
    publish_csv(world, "A")
    submit_csv(world, "B")
    first_publisher = start_publisher(world, "PUT output")
    expire_lease(world)
    submit_csv(world, "A")
    run_publisher(world, 1)
    run_to_end(world, first_publisher)


@register_trace(2, "the batch is read after the published files")
def publisher_replaced_before_reading_files_writes_nothing(world: World) -> None:
    submit_csv(world, "A")
    first_publisher = start_publisher(world, "output GET", 1)
    expire_lease(world)
    submit_csv(world, "B")
    run_publisher(world)
    run_to_end(world, first_publisher)


@register_trace(2, "a writer verifies its lease at each chunk")
def replaced_publisher_reads_no_pending_results(world: World) -> None:
    submit_csv(world, "A")
    first_publisher = start_publisher(world, "READ_PENDING", 1)
    expire_lease(world)
    submit_csv(world, "B")
    run_to_end(world, first_publisher)


@register_trace(3, "an unchanged file is verified by its ETag")
def unchanged_table_is_verified_in_bucket(world: World) -> None:
    publish_csv(world, "A")
    submit_csv(world, "B")
    defer_write_and_kill(world, start_publisher(world, "PUT output", 1))
    expire_lease(world)
    submit_csv(world, "A")
    world.apply_late_write()
    run_publisher(world)


@register_trace(16, "there is one writer at a time")
def two_publishers_do_not_alternate_in_one_write(world: World) -> None:
    publish_csv(world, "A")
    submit_csv(world, "B")
    first_publisher = start_publisher(world, "PUT output")
    for content in "CA":
        submit_csv(world, content)
        run_publisher(world, 1)
    run_to_end(world, first_publisher)


# -- 4, 5: the order of reads ----------------------------------------------------------------------
@register_trace(4, "a result is refused if another was accepted since its tokens were read")
def slow_reader_does_not_replace_newer_result(world: World) -> None:
    put_csv(world, "A")
    slow_actor = start_reader(world, "SUBMIT_RESULTS", keep_message=True)
    world.user_actions.put_csv("a", "B")
    read_next_message(world)
    writing_publisher = start_publisher(world, "COMMIT_PUBLISH")
    run_to_end(world, slow_actor, writing_publisher)
    run_publisher(world)


@register_trace(4, "version tokens are read before the files")
def version_tokens_are_read_before_files(world: World) -> None:
    put_csv(world, "A")
    slow_actor = start_reader(world, "source EXISTS")
    submit_csv(world, "B")
    run_to_end(world, slow_actor)
    run_publisher(world)


@register_trace(
    4, "a user marked after it was read stays dirty", "every mark renews the change version"
)
def change_after_read_is_read_again(world: World) -> None:
    submit_csv(world, "A")
    put_csv(world, "B")
    run_publisher(world)


@register_trace(5, "a result of a user that is not dirty is refused")
def result_from_before_redis_was_emptied_is_refused(world: World) -> None:
    publish_csv(world, "A")
    put_csv(world, "B")
    slow_actor = start_reader(world, "SUBMIT_RESULTS")
    put_csv(world, "A")
    world.redis_faults.flush()
    run_watchdog(world)
    world.processes.run_pending_work()
    run_to_end(world, slow_actor)


@register_trace(4, "a user stays dirty until published")
def killed_reader_leaves_user_dirty(world: World) -> None:
    put_csv(world, "A")
    kill_process(world, start_reader(world, "source EXISTS"))


@register_trace(4, "absent means NoSuchKey and nothing else")
def source_outage_removes_no_row(world: World) -> None:
    publish_csv(world, "A")
    put_csv(world, "B")
    world.set_source_unreachable(is_unreachable=True)
    read_next_message(world)
    run_publisher(world)


# -- 6: events -------------------------------------------------------------------------------------
@register_trace(6, "only what was peeked is popped")
def event_after_emptied_redis_is_not_popped_for_another(world: World) -> None:
    put_with_event(world, "A")
    slow_actor = start_listener(world, "MARK")
    world.redis_faults.flush()
    run_watchdog(world)
    running_sweep = start_sweep_past_list(world)
    put_with_event(world, "B", "b")
    run_to_end(world, slow_actor, running_sweep)


@register_trace(6, "only what was peeked is popped")
def two_listeners_with_same_entries_lose_nothing(world: World) -> None:
    put_with_event(world, "A")
    listeners = [start_listener(world, "MARK") for _ in range(2)]
    put_with_event(world, "B", "b")
    run_to_end(world, *listeners)


@register_trace(6, "events are popped in the step that marks")
def killed_listener_loses_no_event(world: World) -> None:
    put_with_event(world, "A")
    killed_listener = world.processes.start_listener()
    for _ in range(2):
        world.processes.step_actor(killed_listener)
    kill_process(world, killed_listener)


# -- 7, 8, 17: the sweep ---------------------------------------------------------------------------
@register_trace(7, "a sweep marks dirty users again")
def sweep_marks_dirty_users_again(world: World) -> None:
    publish_csv(world, "A")
    submit_csv(world, "B")
    put_without_event(world, "A")
    run_to_end(world, start_sweep(world, "COMMIT_SWEEP"))
    run_publisher(world)


@register_trace(7, "a sweep reads the dirty users after the LIST")
def sweep_reads_dirty_users_after_list(world: World) -> None:
    publish_csv(world, "A")
    early_sweep = start_sweep(world, "source LIST")
    submit_csv(world, "B")
    put_without_event(world, "A")
    run_to_end(world, early_sweep)


@register_trace(7, "a sweep reads the dirty users before the published files")
def publish_during_sweep_is_seen_by_sweep(world: World) -> None:
    publish_csv(world, "A")
    submit_csv(world, "B")
    put_without_event(world, "A")
    sweep_between = start_sweep_past_list(world)
    run_publisher(world)
    run_to_end(world, sweep_between)


@register_trace(8, "a sweep commits only while the trust state holds its token")
def loss_signal_during_sweep_causes_another_sweep(world: World) -> None:
    publish_csv(world, "A")
    publish_csv(world, "B", "b")
    running_sweep = start_sweep(world, "COMMIT_SWEEP")
    _delete_rows_with_files(world)
    run_to_end(world, running_sweep)


@register_trace(8)
def redis_emptied_during_sweep_causes_another_sweep(world: World) -> None:
    running_sweep = start_sweep_past_list(world)
    put_csv(world, "A")
    world.redis_faults.flush()
    run_to_end(world, running_sweep)


def _delete_rows_with_files(world: World) -> None:
    """Delete row b together with output.csv and the manifest, and let a publisher write row a.

    That publisher has no cached state. It must report the files that it finds as a loss signal.
    """
    for key in (OUTPUT_KEY, MANIFEST_KEY):
        world.delete_published_file(key)
    submit_csv(world, "C")
    run_publisher(world, 1)


@register_trace(8, "the trust state becomes verified at the end of the sweep")
def killed_sweep_keeps_loss_signals(world: World) -> None:
    publish_csv(world, "A")
    publish_csv(world, "B", "b")
    _delete_rows_with_files(world)
    run_watchdog(world)
    kill_process(world, start_sweep_past_list(world))


@register_trace(8, "a restart of Redis is a loss signal")
def redis_restored_from_older_state_causes_sweep(world: World) -> None:
    world.redis_faults.save_state()
    put_csv(world, "A")
    world.restart_redis()


@register_trace(17, "MinIO's metrics are read before the LIST")
def event_lost_during_sweep_causes_another_sweep(world: World) -> None:
    running_sweep = start_sweep_past_list(world)
    put_without_event(world, "A", counted=True)
    run_to_end(world, running_sweep)


@register_trace(17, "MinIO's restart and its lost events are loss signals")
def event_lost_by_minio_is_found(world: World) -> None:
    put_without_event(world, "A", counted=True)


@register_trace(7, "a fact counts only if its ETag is that of the CSV")
def change_without_event_is_found_by_etag(world: World) -> None:
    publish_csv(world, "A")
    put_without_event(world, "B", counted=True)


# -- 9, 10, 11, 13: the published files ------------------------------------------------------------
@register_trace(9, "rejects.csv is written before any user becomes clean")
def publisher_killed_after_commit_has_written_reject(world: World) -> None:
    publish_csv(world, "A")
    submit_csv(world, "x")
    writing_publisher = start_publisher(world, "COMMIT_PUBLISH")
    world.processes.step_actor(writing_publisher)
    kill_process(world, writing_publisher)


@register_trace(10, "loading a file that no publisher recorded is a loss signal")
def rows_deleted_with_file_are_restored(world: World) -> None:
    publish_csv(world, "A")
    publish_csv(world, "B", "b")
    _delete_rows_with_files(world)


@register_trace(
    10,
    "a fact counts only if its fields are those of the published row",
    "files that no publisher recorded are a loss signal",
)
def edited_row_is_repaired(world: World) -> None:
    publish_csv(world, "A")
    world.edit_output_file(lambda body: body.replace(b"Ivanov", b"Evil"))


@register_trace(10, "a sweep records the compared files as published")
def watchdog_and_sweep_do_not_repeat_forever(world: World) -> None:
    publish_csv(world, "A")
    world.redis_faults.flush()


@register_trace(10)
def deleted_file_is_restored_without_pending_results(world: World) -> None:
    publish_csv(world, "A")
    world.delete_published_file(REJECTS_KEY)


@register_trace(10)
def deleted_output_without_rows_is_restored(world: World) -> None:
    world.user_actions.delete_many(["ghost.csv"])
    deliver_and_mark(world)
    read_next_message(world)
    run_publisher(world)
    world.delete_published_file(OUTPUT_KEY)


@register_trace(11, "files that no publisher recorded are a loss signal")
def late_write_of_killed_publisher_is_repaired(world: World) -> None:
    publish_csv(world, "A")
    submit_csv(world, "B")
    defer_write_and_kill(world, start_publisher(world, "PUT output", 1))
    expire_lease(world)
    submit_csv(world, "A")
    run_publisher(world)
    world.apply_late_write()


@register_trace(11, "… but only if no publisher recorded anything since the LIST")
def sweep_does_not_verify_late_write(world: World) -> None:
    # The sweep listed B. Then A is published, and the write of B lands late: LIST, manifest and
    # output.csv agree, although the current CSV is A.
    publish_csv(world, "A")
    submit_csv(world, "B")
    defer_write_and_kill(world, start_publisher(world, "PUT output", 1))
    expire_lease(world)
    run_publisher(world)
    running_sweep = start_sweep_past_list(world)
    publish_csv(world, "A", with_manifest=False)
    world.apply_late_write()
    run_to_end(world, running_sweep)


@register_trace(12)
def pending_results_with_lost_wake_up_are_published(world: World) -> None:
    submit_csv(world, "A")
    world.redis.delete(WAKE_LIVE, WAKE_BULK)


@register_trace(12, "overdue users are enqueued again")
def lost_messages_are_sent_again(world: World) -> None:
    for content, user in zip(VALID_CONTENTS, "abc", strict=True):
        put_csv(world, content, user)
    world.redis.delete(EVENTS_QUEUE)


@register_trace(13, "a lost output.csv is restored from the manifest")
def held_row_survives_loss_of_output(world: World) -> None:
    publish_csv(world, "A")
    publish_csv(world, "x")
    world.delete_published_file(OUTPUT_KEY)
    world.processes.restart_publisher()
    publish_csv(world, "B", "b")
