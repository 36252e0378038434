"""Who is read alone, because a worker died over them or hangs: a trial of bounded length, which ends in a verdict.

    readings   hash   token -> the users of a reading: noted before it, forgotten at its end, whatever end that is
    alone      hash   user -> "attempts|attempt|pardon|etag", see `worker/lua/alone.lua`

Only a kill or a hang leaves a reading behind.  Its users are read one by one from then on, so that the innocent are
acquitted by being read.  Whoever has cost `MOST_ATTEMPTS` workers while being read alone is guilty: its CSV of that
ETag becomes a reject without being read, until there is another version of it, or a sweep pardons it once.

No clock decides whether an attempt is still under way: the watch looks every 15 seconds, and what it has seen often
enough cannot be, as `worker.deadline` ends every reading that takes longer.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from redis import Redis

MOST_ATTEMPTS = 3


class Trial(NamedTuple):
    """One who is read alone: `attempt` is the token of the attempt that may be under way, or empty."""

    attempts: int
    attempt: str

    @property
    def is_guilty(self) -> bool:
        """Whether the verdict is spoken, or due."""
        return self.attempts >= MOST_ATTEMPTS and not self.attempt


class Trials:
    """The trials in Redis.  Every method raises `redis.exceptions.RedisError` when Redis is away."""

    def __init__(self, client: "Redis") -> None:
        self._redis: Any = client
        lua = Path(__file__).parent / "lua"
        self._apart = client.register_script((lua / "apart.lua").read_text())
        self._alone = client.register_script((lua / "alone.lua").read_text())

    # -- readings that were begun ------------------------------------------------------------------------------------
    def readings(self) -> list[str]:
        """The tokens of the readings that are under way, or were broken off."""
        return [token.decode() for token in self._redis.hkeys("readings")]

    def being_read(self, readings: Sequence[str]) -> dict[str, list[str]]:
        """The users of these readings, of those that are still there."""
        if not readings:
            return {}
        found = zip(readings, self._redis.hmget("readings", readings), strict=True)
        return {token: json.loads(users) for token, users in found if users}

    def set_apart(self, reading: str, user_ids: Sequence[str]) -> list[str]:
        """APART: the reading never came to its end.  Its users are to be read alone; those of them who are dirty."""
        return [user.decode() for user in self._apart(["readings", "dirty", "alone"], [reading, *user_ids])]

    # -- users that are read alone -----------------------------------------------------------------------------------
    def users(self) -> set[str]:
        """Everyone who is to be read alone."""
        return {user.decode() for user in self._redis.hkeys("alone")}

    def all(self) -> dict[str, Trial]:
        """Everyone's trial."""
        return {user.decode(): _trial(entry.decode()) for user, entry in self._redis.hgetall("alone").items()}

    def begin(self, user_id: str, attempt: str, etag: str) -> str:
        """Ask for an attempt at the version `etag` (empty without a CSV): "read", and it counts until it is taken back.

        Or "guilty"; "busy" while another is under way; "unknown" if the user need not be read alone.
        """
        return self._ask(user_id, "begin", attempt, etag, MOST_ATTEMPTS)

    def failed(self, user_id: str, attempt: str) -> None:
        """The attempt came to its end, but for reasons that are not the user's nothing was read."""
        self._ask(user_id, "failed", attempt)

    def over(self, user_id: str, attempt: str) -> None:
        """The attempt cannot be under way any more: it cost a worker."""
        self._ask(user_id, "over", attempt)

    def acquit(self, user_ids: Iterable[str]) -> None:
        """These were read, or need not be: together with others from now on."""
        for user_id in user_ids:
            self._ask(user_id, "done")

    def pardon(self, etags: Mapping[str, str]) -> None:
        """Grant one more attempt to each of these users, whose CSV of this ETag is a reject unread."""
        for user_id, etag in etags.items():
            self._ask(user_id, "pardon", etag, MOST_ATTEMPTS)

    def remember(self, etags: Mapping[str, str]) -> None:
        """Of these users it stands in rejects.csv that they were found guilty; Redis may have forgotten it."""
        for user_id, etag in etags.items():
            self._ask(user_id, "remember", etag, MOST_ATTEMPTS)

    def _ask(self, user_id: str, *question: str | int) -> str:
        answer: bytes = self._alone(["alone"], [user_id, *question])
        return answer.decode()


def _trial(entry: str) -> Trial:
    attempts, attempt, _ = entry.split("|", 2)
    return Trial(int(attempts), attempt)
