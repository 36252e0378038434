"""Tests of `worker.state.work_queues` on a real Redis: pages of bulk work."""

from worker.services.state_parts import StateParts
from worker.state.user_states import VersionTokens
from worker.state.work_queues import ListedUser, Page


def test_work_queues_return_page_as_added(state: StateParts) -> None:
    listed = Page(
        listed_users=[
            ListedUser("ü", VersionTokens(b"m", b"s"), True, "ü.png"),
            ListedUser("v", VersionTokens(b"m", b"s"), False, None),
        ]
    )
    for page in (Page(user_ids=["😀", 'q"']), listed):
        state.work_queues.add_page(page)
        assert state.work_queues.count_pages() == 1
        assert state.work_queues.take_page() == page
    assert state.work_queues.take_page() is None
