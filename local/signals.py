"""Convert SIGINT, SIGTERM and SIGHUP into one exception, so that `finally` blocks always run."""

import signal

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_received_signals: list[int] = []


class StopRequested(BaseException):
    """SIGINT, SIGTERM or SIGHUP was received.

    It derives from `BaseException`, so that `except Exception` does not catch it.
    """


def raise_on_stop_signal() -> None:
    """Make the first of the signals raise `StopRequested` in the main thread.

    All later ones are ignored.  A signal that is already ignored stays ignored: `nohup` and a
    shell's `&` rely on that.
    """
    for signal_number in _STOP_SIGNALS:
        if signal.getsignal(signal_number) is not signal.SIG_IGN:
            signal.signal(signal_number, _raise_stop_requested)


def ignore_stop_signals() -> None:
    """Ignore SIGINT, SIGTERM and SIGHUP until this process ends.

    A second Ctrl-C then does not interrupt the shutdown of run.sh. It is short, and without it
    processes would be left running.
    """
    for signal_number in _STOP_SIGNALS:
        signal.signal(signal_number, signal.SIG_IGN)


def raise_if_stop_requested() -> None:
    """Raise `StopRequested` if one of the signals was received.

    Loops that wait call it, because the first exception can be lost: Python discards an exception
    that a signal handler raises while a finalizer runs.
    """
    if _received_signals:
        raise StopRequested


def _raise_stop_requested(number: int, _frame: object) -> None:
    _received_signals.append(number)
    # A further signal must not interrupt the cleanup in `finally` blocks.
    ignore_stop_signals()
    raise StopRequested
