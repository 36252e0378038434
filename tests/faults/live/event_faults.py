"""Scenarios: events duplicated, out of order and lost, with poison messages; and a backlog."""

import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from minio.notificationconfig import NotificationConfig

from shared.redis_keys import DEAD_LETTERS, FAST_EVENTS
from tests.factories import make_notification
from tests.faults.live.rowdrop import LiveRowdrop, wait_until
from tests.faults.live.scenario import Scenario, ScenarioRun

RECOVERY_LIMIT_S = 120.0
MAX_P99_RATIO = 1.5
BACKLOG_DURATION_S = 60


def run_event_flood(run: ScenarioRun) -> None:
    """Send 10,000 events of overwrites, each doubled, shuffled, 5 % of them dropped.

    Every second run also sends 500 poison messages. MinIO's own events are switched off, so only
    the events written here arrive. Neighbours are single drops during the storm, each with one
    event in order. Their latency with poison is compared with their latency without it, in pairs of
    runs. The short form is a tenth of that, in one pair.
    """
    pairs, events, poison = (3, 10_000, 500) if run.long else (1, 1_000, 50)
    ratios = []
    times = {True: list[float](), False: list[float]()}
    with run.start_rowdrop() as live:
        live.minio.set_bucket_notification(live.source.bucket, NotificationConfig())
        wait_until(lambda: not live.redis.llen(FAST_EVENTS), 30, "MinIO's last events are read")
        for number in range(pairs):
            order = (False, True) if number % 2 else (True, False)
            for with_poison in order:
                run.seed += 1
                invalid_count = poison if with_poison else 0
                times[with_poison] += _run_flood(run, live, events, invalid_count)
            ratios.append(_compute_p99(times[True]) / _compute_p99(times[False]))
        dead_letter_count = live.redis.llen(DEAD_LETTERS)
        run.wait_until_quiet(live)
    p99_with_poison = _compute_p99(times[True])
    p99_without_poison = _compute_p99(times[False])
    ratio = p99_with_poison / p99_without_poison
    run.finding.check(
        "neighbours' p99 latency: expected within the limit, "
        f"found {ratio:.2f} times that without poison",
        holds=ratio <= MAX_P99_RATIO,
    )
    run.finding.figures |= {
        "events": f"{2 * pairs * events}, each doubled, 5 % dropped, shuffled",
        "poison": f"{pairs * poison} messages, {dead_letter_count} dead letters kept",
        "neighbours' p99": (
            f"{1000 * p99_with_poison:.0f} ms with poison, "
            f"{1000 * p99_without_poison:.0f} ms without"
        ),
        "ratio": f"{ratio:.2f}",
    }


def _compute_p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def _run_flood(run: ScenarioRun, live: LiveRowdrop, events: int, poison: int) -> list[float]:
    rng = random.Random(run.seed)
    running = run.start_traffic(live, users=2_000, writers=8, per_second=4_000, bundles=0)
    with running as (traffic, _):
        wait_until(lambda: traffic.acknowledged >= events, 300, "the writes are acknowledged")
        traffic.stop()
        traffic.confirm_uncertain()
        overwritten_users = rng.choices(list(traffic.users), k=events)
        entries = [make_notification(f"{user}.csv") for user in overwritten_users] * 2
        entries = rng.sample(entries, int(len(entries) * 0.95)) + _make_invalid_entries(rng, poison)
        rng.shuffle(entries)
        pusher = threading.Thread(target=_push_events, args=(live, entries))
        pusher.start()
        elapsed_times = _measure_single_drops(live, f"n{run.seed}", pusher)
        pusher.join()
        started_at = time.monotonic()
        live.request_sweep()  # in place of the hourly sweep
        run.wait_until_correct(live, traffic, RECOVERY_LIMIT_S, started_at)
    return elapsed_times


def _push_events(live: LiveRowdrop, entries: Sequence[bytes]) -> None:
    """Push the events over 20 seconds."""
    for start in range(0, len(entries), 100):
        live.redis.rpush(FAST_EVENTS, *entries[start : start + 100])
        time.sleep(20 * 100 / len(entries))


def _measure_single_drops(live: LiveRowdrop, name: str, pusher: threading.Thread) -> list[float]:
    """Return the seconds from the event to the row in output.csv, for each neighbour."""
    elapsed_times = list[float]()
    while pusher.is_alive() or len(elapsed_times) < 100:
        user = f"{name}-{len(elapsed_times):05}"
        live.put_object(f"{user}.csv", f"first_name,last_name,birthts\n{user},x,1\n".encode())
        live.redis.rpush(FAST_EVENTS, make_notification(f"{user}.csv"))
        started_at = time.monotonic()
        while user not in live.read_rows() and time.monotonic() < started_at + 60:
            time.sleep(0.005)
        elapsed_times.append(time.monotonic() - started_at)
        if elapsed_times[-1] > 60:
            # Rows no longer arrive. The list is doubled because `_compute_p99` needs two values.
            return elapsed_times * 2
        time.sleep(0.02)
    return elapsed_times


def _make_invalid_entries(rng: random.Random, number: int) -> list[bytes]:
    valid = make_notification("poison.csv")
    kinds: list[Callable[[], bytes]] = [
        lambda: valid[: rng.randrange(1, len(valid))],
        lambda: b"[" * 100_000,
        lambda: b'[{"Event": {"s3": [1, 2]}}]',
        lambda: b'{"Event": null}',
        lambda: b'[{"Event":[{"s3":{"bucket":{"name":7},"object":{"key":[]}}}]}]',
        lambda: make_notification("poison.csv", bucket="another"),
        lambda: valid.replace(b"poison.csv", b"%ff%fe.csv"),
        lambda: b"",
        lambda: rng.randbytes(1000),
    ]
    large = max(1, number // 50)
    return [b'[{"Event":"' + b"x" * 10_000_000 + b'"}]'] * large + [
        rng.choice(kinds)() for _ in range(number - large)
    ]


def run_backlog(run: ScenarioRun) -> None:
    """Stop the event workers for a minute while files are overwritten repeatedly."""
    seconds = BACKLOG_DURATION_S if run.long else 10
    with (
        run.start_rowdrop() as live,
        run.start_traffic(live, users=300, per_second=100, bundles=0) as (traffic, _),
    ):
        time.sleep(3)
        for name in ("worker", "worker-2"):
            live.send_signal(name, signal.SIGSTOP)
        time.sleep(seconds)
        traffic.stop()
        wait_until(lambda: not live.redis.llen(FAST_EVENTS), 30, "the last events are read")
        written = traffic.acknowledged
        before = len(live.list_reads())
        for name in ("worker", "worker-2"):
            live.send_signal(name, signal.SIGCONT)
        run.wait_until_correct(live, traffic, RECOVERY_LIMIT_S)
        times = Counter(user for users in live.list_reads()[before:] for user in users)
    max_reads = max(times.values())
    run.finding.check(
        f"expected at most 2 reads of each user, found {max_reads} reads of one",
        holds=max_reads <= 2,
    )
    run.finding.figures |= {
        "writes": str(written),
        "users read": (
            f"{len(times)}, {sum(times.values())} times in total, each at most {max_reads} times"
        ),
    }


SCENARIOS = {
    "events doubled, shuffled, lost, and poison": Scenario(
        run_event_flood,
        ("dead letters",),
    ),
    f"a backlog of {BACKLOG_DURATION_S} s": Scenario(run_backlog, ("read marks",)),
}
