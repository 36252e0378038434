"""Logging configuration of all processes: time, level, logger, message, on standard error."""

import logging
import logging.config

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def configure_logging(level: str) -> None:
    """Write all log records of this process at `level` or above to standard error.

    `level` is a name such as INFO. Raises `ValueError` for an unknown one.
    """
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"line": {"format": LOG_FORMAT}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"level": level, "handlers": ["stderr"]},
            # Celery's two lines per task would be most of the log and 10 % of the time of a drop.
            # urllib3 logs each retry. A request that finally fails is logged by its caller.
            "loggers": {
                "celery.worker.strategy": {"level": "WARNING"},
                "celery.app.trace": {"level": "WARNING"},
                "urllib3.connectionpool": {"level": "ERROR"},
            },
        }
    )
