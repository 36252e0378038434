"""Tests how the tasks handle messages that no client sends."""

import logging

import pytest
from redis.exceptions import LockNotOwnedError

from shared.settings import Settings
from worker.services.container import Services
from worker.tasks import RETRY_OPTIONS, create_app


@pytest.mark.parametrize("user_id", ["../../etc", "a/b", "", "x" * 300, "a\tb"])
def test_refresh_requested_task_ignores_and_logs_invalid_user(
    user_id: str, caplog: pytest.LogCaptureFixture
) -> None:
    def get_services() -> Services:
        raise AssertionError("the user must not be marked")

    app = create_app(Settings("http://not.used", "", "", "redis://not.used:6379/0"), get_services)
    with caplog.at_level(logging.WARNING):
        app.tasks["refresh_asked"].run(user_id, "request")
    assert "a user ID that no file can have" in caplog.text


def test_tasks_are_retried_after_a_lost_lease() -> None:
    assert issubclass(LockNotOwnedError, RETRY_OPTIONS["autoretry_for"])
