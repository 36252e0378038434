"""One log format for every process: time, level, where, the Celery task if any, and the message."""

import logging
import logging.config

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure(level: str) -> None:
    """Send every log line of this process to standard error, from `level` upwards."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": FORMAT}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"level": level, "handlers": ["stderr"]},
            # A line for every message received and done would be most of the log, and a tenth of a drop's time.
            # And of each try that is made again; what cannot be done in the end is told by whoever wanted it.
            "loggers": {
                "celery.worker.strategy": {"level": "WARNING"},
                "celery.app.trace": {"level": "WARNING"},
                "urllib3.connectionpool": {"level": "ERROR"},
            },
        }
    )
