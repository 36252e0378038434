"""Report to the operator whether the source bucket can be read."""

from shared.object_store import StoreUnavailable
from shared.progress.pipeline_status import OperatorStatus


class SourceHealth:
    """What the reads of one process say about the source bucket.

    All readers of a process share one object: it clears the failure that it has recorded.
    """

    def __init__(self, status: OperatorStatus) -> None:
        self._status = status
        self._has_failed = False

    def report_failure(self, failure: StoreUnavailable) -> None:
        """Record that the source bucket could not be read."""
        self._has_failed = True
        self._status.set_source_failure(str(failure))

    def report_success(self) -> None:
        """Clear the recorded failure, if there is one, after a read that succeeded."""
        if self._has_failed:
            self._has_failed = False
            self._status.clear_source_failure()
