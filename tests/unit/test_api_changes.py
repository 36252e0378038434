"""Streams of changes: what they send, when, and what an idle one costs."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import falcon.asgi
import pytest
from falcon.testing import TestClient

from api.resources.data import ChangesResource
from api.snapshot.changes import ChangeFeed, ViewVersions
from api.snapshot.view import View
from tests.unit.test_api_routes import VIEW, Service


class FeedHarness:
    """A feed with a view and a stop signal that a test sets as plain attributes."""

    def __init__(self, max_streams: int = 10) -> None:
        self.view: View = VIEW
        self.is_stopping = False
        self.look_count = 0
        self.feed = ChangeFeed(
            self._look, lambda view: view.redis_error, lambda: self.is_stopping, max_streams
        )

    def _look(self) -> View:
        self.look_count += 1
        return self.view


def run(test: Callable[[FeedHarness], Awaitable[None]], max_streams: int = 10) -> None:
    async def run_with_timeout() -> None:
        async with asyncio.timeout(10):
            await test(FeedHarness(max_streams))

    asyncio.run(run_with_timeout())


def test_stream_begins_with_the_current_versions() -> None:
    async def check(harness: FeedHarness) -> None:
        assert VIEW.table is not None
        stream = harness.feed.follow()
        first = await anext(stream)
        assert first is not None
        assert first.table == VIEW.table.etag
        await stream.aclose()

    run(check)


def test_stream_without_a_table_says_none() -> None:
    async def check(harness: FeedHarness) -> None:
        harness.view = View()
        stream = harness.feed.follow()
        first = await anext(stream)
        assert first is not None
        assert first.table == "none"
        await stream.aclose()

    run(check)


@pytest.mark.parametrize("changed", ["table", "status"])
def test_stream_sends_the_version_that_changed(changed: str) -> None:
    async def check(harness: FeedHarness) -> None:
        assert VIEW.table is not None
        stream = harness.feed.follow()
        before = await anext(stream)
        assert isinstance(before, ViewVersions)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        if changed == "table":
            table = VIEW.table.build_next_version(VIEW.table.csv, "another-etag")
            harness.view = replace(VIEW, table=table)
        else:
            harness.view = replace(VIEW, redis_error="it is gone")
        after = await waiting
        assert isinstance(after, ViewVersions)
        differing = {
            name for name in before._fields if getattr(before, name) != getattr(after, name)
        }
        assert differing == {changed}
        await stream.aclose()

    run(check)


def test_stream_is_silent_while_only_ages_change() -> None:
    async def check(harness: FeedHarness) -> None:
        stream = harness.feed.follow(heartbeat_s=0.3)
        await anext(stream)
        harness.view = replace(VIEW, store_polled_at=1.0)
        assert await anext(stream) is None
        await stream.aclose()

    run(check)


def test_stream_sees_a_change_between_two_reads() -> None:
    async def check(harness: FeedHarness) -> None:
        stream = harness.feed.follow()
        other = harness.feed.follow()
        await anext(stream)
        await anext(other)
        harness.view = replace(VIEW, redis_error="it is gone")
        # The other stream is awake when the first one, which was not waiting, asks again.
        assert await anext(other) == await anext(stream)
        await stream.aclose()
        await other.aclose()

    run(check)


def test_streams_end_when_the_process_stops() -> None:
    async def check(harness: FeedHarness) -> None:
        streams = [harness.feed.follow() for _ in range(3)]
        for stream in streams:
            await anext(stream)
        waiting = [asyncio.ensure_future(anext(stream, "the end")) for stream in streams]
        await asyncio.sleep(0)
        harness.is_stopping = True
        assert await asyncio.gather(*waiting) == ["the end"] * 3

    run(check)


def test_streams_share_one_comparison_which_ends_with_them() -> None:
    async def count_looks(harness: FeedHarness) -> int:
        before = harness.look_count
        await asyncio.sleep(0.5)
        return harness.look_count - before

    async def check(harness: FeedHarness) -> None:
        streams = [harness.feed.follow() for _ in range(10)]
        for stream in streams:
            await anext(stream)
        assert 1 <= await count_looks(harness) <= 0.5 / 0.02 + 2
        for stream in streams:
            await stream.aclose()
        await asyncio.sleep(0.1)
        assert await count_looks(harness) == 0
        # The next stream starts it again.
        stream = harness.feed.follow()
        await anext(stream)
        assert await count_looks(harness) > 0
        await stream.aclose()

    run(check)


def test_feed_is_full_until_a_stream_ends() -> None:
    async def check(harness: FeedHarness) -> None:
        streams = [harness.feed.follow() for _ in range(2)]
        await anext(streams[0])
        assert not harness.feed.is_full
        await anext(streams[1])
        assert harness.feed.is_full
        await streams[0].aclose()
        assert not harness.feed.is_full
        await streams[1].aclose()

    run(check, max_streams=2)


def test_changes_route_refuses_more_streams_than_fit() -> None:
    feed = ChangeFeed(lambda: VIEW, lambda _: None, lambda: True, max_streams=0)
    app = falcon.asgi.App()
    app.add_route("/changes", ChangesResource(feed))
    refused = TestClient(app).simulate_get("/changes")
    assert (refused.status_code, refused.json["title"]) == (503, "Temporarily unavailable")
    assert refused.headers["retry-after"]


def test_rows_have_the_version_that_the_stream_sends() -> None:
    assert VIEW.table is not None
    service = Service()
    for path in ("/data", "/data?limit=1", "/data?format=csv&min_age=1"):
        assert service.get(path).headers["x-table-version"] == VIEW.table.etag
    service.redis.close()


def test_changes_route_is_an_event_stream() -> None:
    service = Service()
    for send in (service.client.simulate_get, service.client.simulate_head):
        response = send("/changes", headers={"Host": "localhost"})
        assert response.headers["content-type"] == "text/event-stream"
        assert response.headers["cache-control"] == "no-store"
    service.redis.close()
