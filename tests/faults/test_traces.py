"""The fault cases of the state protocol, each as its shortest trace on a real MinIO and Redis.

Most are traces of `tests/faults/traces.py`. A name that begins with `test_` is a test that covers
the case, here or elsewhere.

  1  412: the table is read again, but the old batch is merged
        refused_publisher_discards_its_batch
  2  If-Match gives no order: the ETag is the MD5 of the bytes
        stalled_publisher_with_matching_etag_signals_loss
        publisher_replaced_before_reading_files_writes_nothing
        replaced_publisher_reads_no_pending_results
        test_store_put_gives_same_bytes_the_same_etag
  3  "no change" is decided by the cached table, without a HEAD
        unchanged_table_is_verified_in_bucket
  4  counters as versions: their order is not the order of the reads
        slow_reader_does_not_replace_newer_result
        version_tokens_are_read_before_files
        change_after_read_is_read_again
        killed_reader_leaves_user_dirty
        source_outage_removes_no_row
  5  FLUSHALL: counters restart, and old results are accepted
        result_from_before_redis_was_emptied_is_refused
        test_user_states_submit_refuses_result_after_redis_was_emptied
  6  events are popped by count, not by content
        event_after_emptied_redis_is_not_popped_for_another
        two_listeners_with_same_entries_lose_nothing
        killed_listener_loses_no_event
  7  the sweep skips dirty users
        sweep_marks_dirty_users_again
        sweep_reads_dirty_users_after_list
        publish_during_sweep_is_seen_by_sweep
        change_without_event_is_found_by_etag
  8  the trust state is verified too early, or in spite of a loss signal
        loss_signal_during_sweep_causes_another_sweep
        redis_emptied_during_sweep_causes_another_sweep
        killed_sweep_keeps_loss_signals
        redis_restored_from_older_state_causes_sweep
  9  a reject that is not listed
        publisher_killed_after_commit_has_written_reject
 10  published files are deleted or edited by hand
        rows_deleted_with_file_are_restored
        edited_row_is_repaired
        watchdog_and_sweep_do_not_repeat_forever
        deleted_file_is_restored_without_pending_results
        deleted_output_without_rows_is_restored
 11  a write lands after its sender died
        late_write_of_killed_publisher_is_repaired
        sweep_does_not_verify_late_write
 12  wake-ups and messages are lost
        pending_results_with_lost_wake_up_are_published
        lost_messages_are_sent_again
 13  held rows are only in output.csv
        held_row_survives_loss_of_output
        test_publisher_keeps_edited_held_row_until_csv_changes
        test_rebuild_keeps_held_rows
        test_sweep_removes_rows_of_deleted_users
 14  LIST returns milliseconds, HEAD returns seconds
        test_refresher_selects_newest_image_then_extension_order
 15  a release has other rules, so "nothing changed" is wrong
        test_sweep_ignores_cache_of_other_rules_version
 16  there are as many publishers as workers
        two_publishers_do_not_alternate_in_one_write
        test_publish_queue_allows_one_writer_at_a_time
 17  metrics are read after the LIST, which hides losses during it
        event_lost_during_sweep_causes_another_sweep
        event_lost_by_minio_is_found
        test_loss_signals_during_sweep_fail_its_commit
"""

import re
from pathlib import Path

import pytest

from tests.faults.conftest import WorldFactory
from tests.faults.parts import Components
from tests.faults.trace_steps import publish_csv
from tests.faults.traces import TRACES

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("trace", TRACES)
def test_protocol_trace_is_harmless_on_real_servers(
    make_real_world: WorldFactory, trace: str
) -> None:
    world = make_real_world(Components)
    world.quiesce_and_check()
    TRACES[trace].trace(world)
    world.finish_and_check([0])


def test_publisher_keeps_edited_held_row_until_csv_changes(make_real_world: WorldFactory) -> None:
    """Nothing proves the edit.

    The CSV of the row no longer exists, and the manifest may be older than the row.
    """
    world = make_real_world(Components)
    world.quiesce_and_check()
    publish_csv(world, "A")
    publish_csv(world, "x")
    world.edit_output_file(lambda body: body.replace(b"Ivanov", b"Evil"))
    world.finish_and_check([0])
    assert b"a,A,Evil," in world.output_bucket.get("output.csv").body
    publish_csv(world, "B")
    world.finish_and_check([0])
    assert b"a,B,Ivanov," in world.output_bucket.get("output.csv").body


def test_protocol_trace_table_names_every_trace_and_test() -> None:
    table = re.findall(r"(?m)^ *(\d+)  |^ {8}(\w+)$", str(__doc__))
    assert [int(number) for number, _ in table if number] == list(range(1, 18))
    named = {name for _, name in table if name}
    sources = "".join(path.read_text(encoding="utf-8") for path in TESTS.glob("*/test_*.py"))
    tests = set(re.findall(r"(?m)^def (test_\w+)\(", sources))
    assert {name for name in named if name.startswith("test_")} <= tests
    assert {name for name in named if not name.startswith("test_")} == TRACES.keys()
