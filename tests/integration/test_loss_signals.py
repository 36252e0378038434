"""Tests of `worker.state.loss_signals` on a real Redis: the trust state and its sweeps."""

from tests.integration.state_steps import publish_pending
from worker.services.state_parts import StateParts
from worker.state.loss_signals import TrustState


def test_loss_signals_during_sweep_fail_its_commit(state: StateParts) -> None:
    state.loss_signals.begin_sweep("one")
    state.loss_signals.add("test")
    assert not state.loss_signals.commit_sweep("one", None, ("e", "r"), "run", {"at": 1})
    assert state.loss_signals.trust_state() is None


def test_loss_signals_commit_sweep_sets_verified_state(state: StateParts) -> None:
    state.loss_signals.begin_sweep("one")
    assert state.loss_signals.commit_sweep("one", None, ("e", "r"), "run", {"at": 1})
    assert state.loss_signals.trust_state() == TrustState("verified", "run")


def test_loss_signals_commit_sweep_records_etags_only_without_publish(state: StateParts) -> None:
    before = state.publish_queue.last_publish().writer_token
    state.loss_signals.begin_sweep("one")
    publish_pending(state)
    state.loss_signals.commit_sweep("one", before, ("orphan", "orphan"), "run", {"at": 1})
    assert state.publish_queue.last_publish().output_etag == "etag"
    by = state.publish_queue.last_publish().writer_token
    state.loss_signals.begin_sweep("two")
    state.loss_signals.commit_sweep("two", by, ("seen", "seen-too"), "run", {"at": 1})
    assert state.publish_queue.last_publish().output_etag == "seen"
