"""Flower's settings: `celery -A worker.scheduler flower --conf=worker/commands/flower_conf.py`.

FLOWER_* sets the address, the port and the credentials. Flower does not start without a password.
"""

from shared.settings import InvalidSettings, Settings

_settings = Settings.from_environment(minio=False)
if not _settings.flower_password:
    raise InvalidSettings("FLOWER_PASSWORD must be set: Flower can stop and repeat tasks")

basic_auth = [f"{_settings.flower_user}:{_settings.flower_password}"]
