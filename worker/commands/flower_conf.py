"""Flower's application and settings.

`celery -A worker.commands.flower_conf flower --conf=worker/commands/flower_conf.py` starts it.
FLOWER_* sets the address, the port and the credentials. Flower does not start without a password.
"""

from flower.views import BaseHandler
from flower.views.monitor import Metrics
from tornado.web import authenticated

from shared import logs
from shared.settings import InvalidSettings, Settings
from shared.task_queue import create_celery

_settings = Settings.from_environment(minio=False)
if not _settings.flower_password:
    raise InvalidSettings("FLOWER_PASSWORD must be set: Flower can stop and repeat tasks")

logs.configure_logging(_settings.log_level)
app = create_celery(_settings.redis_url)
# Flower consumes the workers' events. Separate keys keep its unacknowledged messages apart from
# those of the workers.
app.conf.broker_transport_options |= {
    name: f"flower:{name}" for name in ("unacked_key", "unacked_index_key", "unacked_mutex_key")
}

basic_auth = [f"{_settings.flower_user}:{_settings.flower_password}"]

# Flower has no options for these. Its metrics name workers and tasks, and its buttons stop them.
Metrics.get = authenticated(Metrics.get)
_set_default_headers = BaseHandler.set_default_headers


def _forbid_framing(handler: BaseHandler) -> None:
    _set_default_headers(handler)
    handler.set_header("X-Frame-Options", "DENY")
    handler.set_header("Content-Security-Policy", "frame-ancestors 'none'")


BaseHandler.set_default_headers = _forbid_framing
