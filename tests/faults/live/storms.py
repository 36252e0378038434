"""Scenarios: events duplicated, out of order and lost, with poison messages; and a backlog."""

import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from minio.notificationconfig import NotificationConfig

from tests.factories import notification
from tests.faults.live.rowdrop import Live, until
from tests.faults.live.scenario import Scenario, Stage
from worker.backlog import FAST

HEALED_S = 120.0
RATIO = 1.5
BACKLOG_S = 60


def storm(stage: Stage) -> None:
    """Send 10,000 events of overwrites, each doubled, shuffled, 5 % of them dropped.

    Every second run also sends 500 poison messages. MinIO's own events are switched off, so only
    the events written here arrive. Neighbours are single drops during the storm, each with one
    event in order. Their latency with poison is compared with their latency without it, in pairs of
    runs. The short form is a tenth of that, in one pair.
    """
    pairs, events, poison = (3, 10_000, 500) if stage.long else (1, 1_000, 50)
    ratios, times = [], {True: list[float](), False: list[float]()}
    with stage.rowdrop() as live:
        live.minio.set_bucket_notification(live.source.bucket, NotificationConfig())
        until(lambda: not live.redis.llen(FAST), 30, "MinIO's last events are read")
        live.redis.hset("counters", "safe_events", 0)
        for number in range(pairs):
            for with_poison in (False, True) if number % 2 else (True, False):
                stage.seed += 1
                times[with_poison] += _one_storm(stage, live, events, poison if with_poison else 0)
            ratios.append(_p99(times[True]) / _p99(times[False]))
        letters = live.redis.llen("dead_letters")
        stage.rest(live)
    ratio = _p99(times[True]) / _p99(times[False])
    stage.finding.expect(
        f"neighbours' p99 latency: expected within the limit, found {ratio:.2f} times that without poison",
        holds=ratio <= RATIO,
    )
    stage.finding.figures |= {
        "events": f"{2 * pairs * events}, each doubled, 5 % dropped, shuffled",
        "poison": f"{pairs * poison} messages, {letters} dead letters kept",
        "neighbours' p99": f"{1000 * _p99(times[True]):.0f} ms with poison, {1000 * _p99(times[False]):.0f} ms without",
        "ratio": f"{ratio:.2f}",
    }


def _p99(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


def _one_storm(stage: Stage, live: Live, events: int, poison: int) -> list[float]:
    dice = random.Random(stage.seed)
    with stage.traffic(live, users=2_000, writers=8, per_second=4_000, bundles=0) as (traffic, _):
        until(lambda: traffic.acknowledged >= events, 300, "the writes are acknowledged")
        traffic.stop()
        traffic.settle()
        raws = [notification(f"{user}.csv") for user in dice.choices(list(traffic.users), k=events)] * 2
        raws = dice.sample(raws, int(len(raws) * 0.95)) + _poison(dice, poison)
        dice.shuffle(raws)
        pusher = threading.Thread(target=_push, args=(live, raws))
        pusher.start()
        taken = _neighbours(live, f"n{stage.seed}", pusher)
        pusher.join()
        begun = time.monotonic()
        live.sweep()  # in place of the hourly sweep
        stage.converge(live, traffic, HEALED_S, begun)
    return taken


def _push(live: Live, raws: Sequence[bytes]) -> None:
    """Push the events over 20 seconds."""
    for start in range(0, len(raws), 100):
        live.redis.rpush(FAST, *raws[start : start + 100])
        time.sleep(20 * 100 / len(raws))


def _neighbours(live: Live, name: str, storm: threading.Thread) -> list[float]:
    """Return the seconds from the event to the row in output.csv, for each neighbour."""
    taken = list[float]()
    while storm.is_alive() or len(taken) < 100:
        user = f"{name}-{len(taken):05}"
        live.put(f"{user}.csv", f"first_name,last_name,birthts\n{user},x,1\n".encode())
        live.redis.rpush(FAST, notification(f"{user}.csv"))
        began = time.monotonic()
        while user not in live.rows() and time.monotonic() < began + 60:
            time.sleep(0.005)
        taken.append(time.monotonic() - began)
        if taken[-1] > 60:
            return taken * 2  # rows no longer arrive; doubled because `_p99` needs two values
        time.sleep(0.02)
    return taken


def _poison(dice: random.Random, number: int) -> list[bytes]:
    good = notification("poison.csv")
    kinds: list[Callable[[], bytes]] = [
        lambda: good[: dice.randrange(1, len(good))],
        lambda: b"[" * 100_000,
        lambda: b'[{"Event": {"s3": [1, 2]}}]',
        lambda: b'{"Event": null}',
        lambda: b'[{"Event":[{"s3":{"bucket":{"name":7},"object":{"key":[]}}}]}]',
        lambda: notification("poison.csv", bucket="another"),
        lambda: good.replace(b"poison.csv", b"%ff%fe.csv"),
        lambda: b"",
        lambda: dice.randbytes(1000),
    ]
    large = max(1, number // 50)
    return [b'[{"Event":"' + b"x" * 10_000_000 + b'"}]'] * large + [dice.choice(kinds)() for _ in range(number - large)]


def backlog(stage: Stage) -> None:
    """Stop the event workers for a minute while files are overwritten repeatedly."""
    seconds = BACKLOG_S if stage.long else 10
    with stage.rowdrop() as live, stage.traffic(live, users=300, per_second=100, bundles=0) as (traffic, _):
        time.sleep(3)
        for name in ("worker", "worker-2"):
            live.signal(name, signal.SIGSTOP)
        time.sleep(seconds)
        traffic.stop()
        time.sleep(5)  # until the listener has processed the last events and their copies
        written = traffic.acknowledged
        before = len(live.read())
        for name in ("worker", "worker-2"):
            live.signal(name, signal.SIGCONT)
        stage.converge(live, traffic, HEALED_S)
        times = Counter(user for users in live.read()[before:] for user in users)
    most = max(times.values())
    stage.finding.expect(f"expected at most 2 reads of each user, found {most} reads of one", holds=most <= 2)
    stage.finding.figures |= {
        "writes": str(written),
        "users read": f"{len(times)}, {sum(times.values())} times in total, each at most {most} times",
    }


SCENARIOS = {
    "events doubled, shuffled, lost, and poison": Scenario(
        storm,
        f"every row is right after a sweep, and neighbours' p99 at most {RATIO} times that without poison",
        ("dead letters",),
    ),
    f"a backlog of {BACKLOG_S} s": Scenario(backlog, "no user is read more than twice", ("read marks",)),
}
