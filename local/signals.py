"""Ctrl-C, SIGTERM and SIGHUP as one exception, so that `finally` cleans up whichever of them comes."""

import signal

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """Somebody wants us to end."""


def raise_when_stopped() -> None:
    """From now on the first of the signals raises `Stopped` in the main thread, and further ones do nothing.

    One that is ignored stays so: `nohup` and a shell's `&` ask for that.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def ignore_signals() -> None:
    """From now on nothing interrupts us, whoever is impatient: what follows is short and must be done."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _stop(_number: int, _frame: object) -> None:
    ignore_signals()
    raise Stopped
