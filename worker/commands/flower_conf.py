"""Flower's settings: `celery -A worker.scheduler flower --conf=worker/commands/flower_conf.py`.

FLOWER_* sets the address, the port and the credentials. Flower does not start without a password.
"""

from flower.views import BaseHandler
from flower.views.monitor import Metrics
from tornado.web import authenticated

from shared.settings import InvalidSettings, Settings

_settings = Settings.from_environment(minio=False)
if not _settings.flower_password:
    raise InvalidSettings("FLOWER_PASSWORD must be set: Flower can stop and repeat tasks")

basic_auth = [f"{_settings.flower_user}:{_settings.flower_password}"]

# Flower has no options for these. Its metrics name workers and tasks, and its buttons stop them.
Metrics.get = authenticated(Metrics.get)
_set_default_headers = BaseHandler.set_default_headers


def _forbid_framing(handler: BaseHandler) -> None:
    _set_default_headers(handler)
    handler.set_header("X-Frame-Options", "DENY")
    handler.set_header("Content-Security-Policy", "frame-ancestors 'none'")


BaseHandler.set_default_headers = _forbid_framing
