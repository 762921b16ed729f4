"""What SIGINT (Ctrl-C) and SIGTERM do: exit at once before training, stop between two steps in it.

This module imports nothing heavy, so that its handlers can be installed first of all.
"""

import contextlib
import os
import signal
import sys
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """The run was told to stop; its state is saved.

    Attributes:
        signal_number: the signal that told it.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def exit_on_signals() -> None:
    """From now on SIGINT and SIGTERM end the process at once, with 128 + the signal's number.

    Python's own KeyboardInterrupt can be lost in an import that catches it, and unwinding while
    libraries start their threads can crash the interpreter.
    """
    for number in SIGNALS:
        signal.signal(number, _exit_at_once)


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    with contextlib.suppress(RuntimeError):  # the signal came in the middle of a write
        sys.stdout.flush()
    os.write(2, b"Interrupted.\n" if number == signal.SIGINT else b"Terminated.\n")
    os._exit(128 + number)


class StopSignals:
    """Within this context SIGTERM and SIGINT are only noted; a second SIGINT exits at once.

    A second SIGTERM does not: schedulers send several.

    Attributes:
        received: the first signal that was noted; None: none yet.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == number:
            _exit_at_once(number, frame)
        self.received = self.received or number
