"""Steps of the state protocol, for the tests of its parts."""

from redis import Redis

from shared.formats.records import CsvVersion, Person, ReadResult, ValidCsv
from shared.scripts import new_token
from worker.services.state_parts import StateParts
from worker.state.publish_queue import PendingResult

NOW = 1_795_000_000.0


def make_result(user_id: str, name: str = "Ada") -> ReadResult:
    return ReadResult(
        user_id, ValidCsv(CsvVersion(f"{user_id}.csv", "e", 1), Person(name, "B", 1)), None
    )


def push_entries(redis: "Redis", source: str, *raws: bytes) -> None:
    for raw in raws:
        redis.rpush(source, raw)


def mark_users(state: StateParts, *users: str) -> None:
    state.users.mark(users, "event", NOW)


def publish_pending(state: StateParts) -> int:
    token = new_token()
    publish_input = state.publish_queue.acquire_writer(token)
    assert publish_input is not None
    return state.publish_queue.commit_publish(token, "etag", "rej", 1, publish_input.pending, NOW)


def read_pending(state: StateParts, token: str) -> dict[str, PendingResult]:
    publish_input = state.publish_queue.acquire_writer(token)
    assert publish_input is not None
    return publish_input.pending
