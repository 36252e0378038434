"""Convert SIGINT, SIGTERM and SIGHUP into one exception, so that `finally` blocks always run."""

import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP was received.

    It derives from `BaseException`, so that `except Exception` does not catch it.
    """


def raise_when_stopped() -> None:
    """Make the first of the signals raise `Stopped` in the main thread, and ignore all later ones.

    A signal that is already ignored stays ignored: `nohup` and a shell's `&` rely on that.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def ignore_signals() -> None:
    """Ignore the signals, so that a second Ctrl-C does not interrupt the shutdown.

    The shutdown is short, and skipping it would leave orphan processes.
    """
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop(_number: int, _frame: object) -> None:
    # A further signal must not interrupt the cleanup in `finally` blocks.
    ignore_signals()
    raise Stopped
