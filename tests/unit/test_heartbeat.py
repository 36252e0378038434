"""Tests of `worker.heartbeat`: the heartbeat file that liveness checks read."""

import os
from pathlib import Path

import pytest
from celery.signals import heartbeat_sent

from worker.heartbeat import Heartbeat


def test_heartbeat_touches_its_file(tmp_path: Path) -> None:
    Heartbeat(str(tmp_path / "sign")).beat()
    assert (tmp_path / "sign").exists()


def test_heartbeat_touches_at_most_once_a_second(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    now = [10.0]
    progress = Heartbeat(str(sign), lambda: now[0])
    progress.beat()
    sign.unlink()
    now[0] = 10.9
    progress.beat()
    assert not sign.exists()
    now[0] = 11.0
    progress.beat()
    assert sign.exists()


def test_heartbeat_without_file_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty path is not the current folder, which `Path("")` is."""
    monkeypatch.chdir(tmp_path)
    os.utime(tmp_path, (0, 0))
    Heartbeat("").beat()
    assert tmp_path.stat().st_mtime == 0


def test_heartbeat_follows_celery_heartbeats(tmp_path: Path) -> None:
    Heartbeat(str(tmp_path / "sign")).follow_celery()
    heartbeat_sent.send(sender=None)
    assert (tmp_path / "sign").exists()
