"""All records of jobs, on one Redis client."""

from typing import NamedTuple

from redis import Redis

from shared.progress.leases import Lease
from shared.progress.rebuilds import Rebuilds, RefreshRequests
from shared.progress.sweep_record import SweepRecord
from shared.progress.unpacks import PreviousVersions, Unpacks
from shared.redis_keys import UNPACK_LEASE


class JobRecords(NamedTuple):
    """The records of jobs: what runs, what waits, and what became of it.

    `unpack_lease`: the lease without which no process unpacks a bundle.
    """

    rebuilds: Rebuilds
    unpacks: Unpacks
    unpack_lease: Lease
    previous_versions: PreviousVersions
    refresh_requests: RefreshRequests
    sweeps: SweepRecord


def build_records(client: "Redis") -> JobRecords:
    """Return the records of jobs on this client."""
    return JobRecords(
        rebuilds=Rebuilds(client),
        unpacks=Unpacks(client),
        unpack_lease=Lease(client, UNPACK_LEASE),
        previous_versions=PreviousVersions(client),
        refresh_requests=RefreshRequests(client),
        sweeps=SweepRecord(client),
    )
