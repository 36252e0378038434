"""The fault cases of the state protocol, each as its shortest trace on a real MinIO and Redis.

Most are traces of `tests/faults/holes.py`. A name that begins with `test_` is a test that covers
the case, here or elsewhere.

  1  412: the table is read again, but the old batch is merged
        a_refused_publisher_does_not_put_its_old_batch_back
  2  If-Match gives no order: the ETag is the MD5 of the bytes
        a_sleeping_publisher_whose_if_match_passes_is_evidence
        a_publisher_replaced_before_it_has_read_the_files_writes_nothing
        a_replaced_publisher_does_not_read_what_is_staged_for_its_successor
        test_the_same_bytes_have_the_same_etag
  3  "no change" is decided by the cached table, without a HEAD
        no_change_by_the_table_in_memory_is_looked_at
  4  counters as versions: their order is not the order of the reads
        a_slow_reader_does_not_replace_a_newer_reading
        tokens_are_older_than_what_was_read
        what_changes_after_it_was_read_is_read_again
        a_reader_that_dies_leaves_its_user_dirty
        an_outage_of_the_source_removes_nobody
  5  FLUSHALL: counters restart, and old results are accepted
        a_reading_from_before_redis_was_emptied_is_refused
        test_a_reading_is_refused_when_redis_was_emptied_meanwhile
  6  events are popped by count, not by content
        an_event_that_came_when_redis_had_been_emptied_is_not_popped_for_another
        two_listeners_that_peeked_the_same_lose_nothing
        a_listener_that_dies_after_its_second_request_loses_nothing
  7  the sweep skips dirty users
        what_is_on_its_way_is_read_again_by_a_sweep_that_finds_all_fine
        who_becomes_dirty_before_the_list_is_asked_for
        what_is_published_between_two_looks_of_a_sweep_is_seen_by_one_of_them
        what_changed_without_an_event_is_found_by_its_etag
  8  the trust state is verified too early, or in spite of a loss signal
        evidence_in_the_middle_of_a_sweep_means_another_sweep
        redis_emptied_in_the_middle_of_a_sweep_means_another_sweep
        a_sweep_that_dies_leaves_the_evidence
        redis_restarted_with_less_in_it_means_a_sweep
  9  a reject that is not listed
        a_publisher_that_dies_after_its_clean_has_listed_the_reject
 10  published files are deleted or edited by hand
        rows_that_were_deleted_with_the_file_are_missed
        an_edited_row_is_put_right
        watch_and_sweep_do_not_call_each_other_for_ever
        a_published_file_deleted_when_nothing_is_to_be_published_comes_back
        an_output_csv_without_rows_that_was_deleted_comes_back
 11  a write lands after its sender died
        a_write_that_lands_after_its_publishers_death_is_put_right
        a_sweep_does_not_vouch_for_a_write_that_landed_late
 12  wake-ups and messages are lost
        staged_rows_whose_wake_up_was_lost_are_published
        messages_that_were_lost_are_sent_again
 13  held rows are only in output.csv
        a_held_row_survives_the_loss_of_output_csv
        test_a_held_row_edited_by_hand_stays_as_edited_until_its_file_is_mended
        test_a_rebuild_keeps_held_rows
        test_rows_of_users_long_gone_are_removed_although_nobody_names_them
 14  LIST returns milliseconds, HEAD returns seconds
        test_of_several_images_the_newest_by_the_second_counts_then_png_jpg_jpeg
 15  a release has other rules, so "nothing changed" is wrong
        test_after_a_release_with_other_rules_nothing_that_was_remembered_is_believed
 16  there are as many publishers as workers
        two_publishers_do_not_take_turns_in_one_write
        test_there_is_one_writer_at_a_time
 17  metrics are read after the LIST, which hides losses during it
        what_minio_loses_during_a_sweep_means_another_sweep
        what_minio_loses_is_found
        test_evidence_during_a_sweep_makes_its_commit_fail
 18  durable copies are recorded as seen, but not counted
        a_change_does_not_hide_behind_the_copy_of_an_event_that_is_its_twin
        test_safe_copies_are_counted_so_that_no_change_hides_behind_one
"""

import re
from pathlib import Path

import pytest

from tests.faults.conftest import NewWorld
from tests.faults.holes import HOLES
from tests.faults.parts import Parts
from tests.faults.steps import land

TESTS = Path(__file__).parents[1]


@pytest.mark.parametrize("trace", HOLES)
def test_a_hole_is_closed(new_real_world: NewWorld, trace: str) -> None:
    world = new_real_world(Parts)
    world.settle()
    HOLES[trace].trace(world)
    world.end([0])


def test_a_held_row_edited_by_hand_stays_as_edited_until_its_file_is_mended(new_real_world: NewWorld) -> None:
    # Nothing proves the edit: the CSV of the row no longer exists, and the manifest may be older
    # than the row.
    world = new_real_world(Parts)
    world.settle()
    land(world, "A")
    land(world, "x")
    world.edit_output(lambda body: body.replace(b"Ivanov", b"Evil"))
    world.end([0])
    assert b"a,A,Evil," in world.published.get("output.csv").body
    land(world, "B")
    world.end([0])
    assert b"a,B,Ivanov," in world.published.get("output.csv").body


def test_the_table_of_holes_is_whole_and_each_test_is_there() -> None:
    table = re.findall(r"(?m)^ *(\d+)  |^ {8}(\w+)$", str(__doc__))
    assert [int(number) for number, _ in table if number] == list(range(1, 19))
    named = {name for _, name in table if name}
    sources = "".join(path.read_text(encoding="utf-8") for path in TESTS.glob("*/test_*.py"))
    tests = set(re.findall(r"(?m)^def (test_\w+)\(", sources))
    assert {name for name in named if name.startswith("test_")} <= tests
    assert {name for name in named if not name.startswith("test_")} == HOLES.keys()
