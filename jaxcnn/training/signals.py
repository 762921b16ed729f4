"""What SIGINT (Ctrl-C) and SIGTERM do: before training exit at once, in it stop between two steps.

This module imports nothing heavy, so that its handlers can be installed first of all.
"""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """The run was told to stop; its state is saved.

    Attributes:
        signal_number: the signal that told it.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def exit_on_interrupt() -> None:
    """From now on SIGINT ends the process at once, with status 130, as SIGTERM does anyway.

    Python's own KeyboardInterrupt can be lost in an import that catches it, and unwinding while
    libraries start their threads can crash the interpreter.
    """
    signal.signal(signal.SIGINT, exit_at_once)


def exit_at_once(number: int, frame: FrameType | None = None) -> NoReturn:
    """End the process with 128 + the signal's number, as a handler of SIGINT does."""
    # The signal may have come in the middle of a write, or ended the reader of a pipe too.
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        os.write(2, b"Interrupted.\n")
    os._exit(128 + number)


class StopSignals:
    """Between :meth:`install` and :meth:`restore`, SIGTERM and SIGINT are only noted.

    A second SIGINT exits at once. A second SIGTERM does not: schedulers send several.

    Attributes:
        received: the first signal that was noted; None: none yet.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._interrupted = False
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Start to note signals."""
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)

    def restore(self) -> None:
        """Put back the handlers from before; without :meth:`install` nothing happens."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self._interrupted:
            exit_at_once(number, frame)
        self._interrupted = self._interrupted or number == signal.SIGINT
        self.received = self.received or number
