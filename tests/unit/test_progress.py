"""Tests of `worker.progress`: the heartbeat file that liveness checks read."""

from pathlib import Path

from celery import Celery
from celery.signals import heartbeat_sent

from worker.progress import Progress, WatchedScheduler


def test_a_turn_is_seen_by_the_time_of_the_file(tmp_path: Path) -> None:
    Progress(str(tmp_path / "sign")).made()
    assert (tmp_path / "sign").exists()


def test_it_is_touched_at_most_once_a_second(tmp_path: Path) -> None:
    sign, now = tmp_path / "sign", [10.0]
    progress = Progress(str(sign), lambda: now[0])
    progress.made()
    sign.unlink()
    now[0] = 10.9
    progress.made()
    assert not sign.exists()
    now[0] = 11.0
    progress.made()
    assert sign.exists()


def test_without_a_file_nothing_is_done() -> None:
    Progress("").made()


def test_a_heartbeat_of_a_worker_counts(tmp_path: Path) -> None:
    Progress(str(tmp_path / "sign")).made_by_heartbeats()
    heartbeat_sent.send(sender=None)
    assert (tmp_path / "sign").exists()


def test_each_look_of_beat_at_its_schedule_counts(tmp_path: Path) -> None:
    celery = Celery(broker="memory://")
    celery.conf.progress = Progress(str(tmp_path / "sign"))
    celery.conf.beat_max_loop_interval = 15
    assert WatchedScheduler(celery, schedule={}).tick() <= 15
    assert (tmp_path / "sign").exists()
