"""Read the current files of users and submit the results: the only way into output.csv.

Events, sweeps and rebuilds only name users. This module first takes the users' version tokens,
then reads what is in the buckets now. The verb, order and ETag of an event decide nothing, so a
refresh is idempotent: one or a hundred refreshes of a user end in the same row.
"""

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace

from redis.exceptions import RedisError

from shared.formats.records import ReadResult
from shared.formats.source_keys import parse_bundle_id
from shared.progress.pipeline_status import OperatorStatus
from shared.scripts import new_token
from worker.reading.source_health import SourceHealth
from worker.reading.user_reader import BatchResults, UserReader
from worker.state.user_states import ReadBatch, UserStates, VersionTokens
from worker.state.work_queues import ListedUser

logger = logging.getLogger(__name__)

MAX_READ_ROUNDS = 5
"""Attempts per call to read users that concurrent changes overtake; then they stay dirty."""


class Refresher:
    """Reads dirty users and submits the results.

    `deadline` is entered for each read and may kill the process.
    """

    def __init__(
        self,
        states: UserStates,
        status: OperatorStatus,
        reader: UserReader,
        health: SourceHealth,
        deadline: AbstractContextManager[None] | None = None,
    ) -> None:
        self._states = states
        self._status = status
        self._reader = reader
        self._health = health
        self._deadline = deadline or nullcontext()

    def refresh(self, user_ids: Sequence[str]) -> None:
        """Read the current files of these users and submit the results.

        Skips IDs of bundles, users that are no longer dirty, and users that were read since their
        last mark. A user that a concurrent change overtakes is read again, `MAX_READ_ROUNDS` times
        in all. Raises `StoreUnavailable` if some users could not be read: they stay dirty, the
        results of the others are submitted.
        """
        user_ids = [
            user_id for user_id in dict.fromkeys(user_ids) if parse_bundle_id(user_id) is None
        ]
        for _ in range(MAX_READ_ROUNDS):
            if not user_ids:
                return
            with self._open_batch(user_ids) as (read_id, batch):
                batch_results = self._reader.read_users(list(batch), batch.catalog_version)
                user_ids = self.submit_results(batch, batch_results, read_id, batch.suspect_users)
        if user_ids:
            logger.info(
                "%d users stay dirty: concurrent changes overtook all %d attempts; "
                "the watchdog retries",
                len(user_ids),
                MAX_READ_ROUNDS,
            )

    def refresh_listed(self, users: Sequence[ListedUser]) -> None:
        """Read users of which a LIST has shown the files, and submit the results.

        Like `refresh`, but takes from the LIST whether a user has a CSV and which image counts: one
        request per user instead of four. The LIST started after the version tokens were taken. A
        user with a read version that has changed since then is read by `refresh`.
        """
        with self._open_batch([user.user_id for user in users]) as (read_id, batch):
            current_users = [
                user
                for user in users
                if user.user_id in batch
                and batch[user.user_id].read_version == user.version_tokens.read_version
            ]
            # The read version of the page: SUBMIT RESULTS refuses a result that a newer one
            # overtook; but `pending` of now, which names the copies to supersede.
            version_tokens = {
                user.user_id: user.version_tokens._replace(pending=batch[user.user_id].pending)
                for user in current_users
            }
            batch_results = self._reader.read_listed_users(current_users, batch.catalog_version)
            to_reread = self.submit_results(
                version_tokens, batch_results, read_id, batch.suspect_users
            )
        self.refresh([*to_reread, *(batch.keys() - version_tokens.keys())])

    def submit_results(
        self,
        version_tokens: Mapping[str, VersionTokens],
        batch_results: BatchResults,
        read_id: str = "",
        suspect_users: Collection[str] = (),
    ) -> list[str]:
        """Submit the results of a read and return the users to read again.

        `suspect_users`: suspect users, which may have stray image copies. Their results name the
        existing copies as superseded, so that the publisher deletes them. Raises the failure of
        `batch_results`.
        """
        existing_copies = self._reader.find_suspect_copies(
            [result.user_id for result in batch_results.results if result.user_id in suspect_users]
        )
        submissions = [
            (
                version_tokens[result.user_id],
                _add_superseded_copies(
                    result, version_tokens[result.user_id], existing_copies.get(result.user_id, ())
                ),
            )
            for result in batch_results.results
        ]
        # Before SUBMIT RESULTS, which removes the record of the read: a kill in between must not
        # lose track of copies that this read may have made.
        self._states.add_suspects(batch_results.suspect_users)
        to_reread = self._states.submit_results(
            submissions, read_id, batch_results.users_with_new_copy
        )
        # After SUBMIT RESULTS: from now on the accepted results name these copies.
        self._states.clear_suspects(existing_copies.keys() - set(to_reread))
        self._status.increment("results_refused", len(to_reread))
        if batch_results.failure:
            self._health.report_failure(batch_results.failure)
            raise batch_results.failure
        self._health.report_success()
        return to_reread + batch_results.users_to_reread

    @contextmanager
    def _open_batch(self, user_ids: Sequence[str]) -> Iterator[tuple[str, ReadBatch]]:
        """Take the version tokens (BEGIN READ) and record the read in Redis while the block runs.

        A kill or a hang leaves the record behind, for the watchdog. An exception removes it here;
        without one, the block passes the read ID to `UserStates.submit_results`, which
        removes it.
        """
        read_id = new_token()
        with self._deadline:
            try:
                yield read_id, self._states.begin_read(user_ids, read_id)
            except BaseException:
                with suppress(RedisError):
                    self._states.end_read(read_id)
                raise


def _add_superseded_copies(
    result: ReadResult, version_tokens: VersionTokens, copies: tuple[str, ...]
) -> ReadResult:
    """Return the result with the image copies that it supersedes.

    These are the copies which the pending result (`version_tokens.pending`) names, and the stray
    `copies`.
    """
    if version_tokens.pending:
        pending = ReadResult.from_json(result.user_id, version_tokens.pending.decode())
        copies += (
            *pending.superseded_copies,
            *((pending.image,) if pending.image and pending.image_source else ()),
        )
    superseded = tuple(image for image in dict.fromkeys(copies) if image != result.image)
    return replace(result, superseded_copies=superseded) if superseded else result
