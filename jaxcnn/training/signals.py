"""What SIGINT (Ctrl-C), SIGTERM and SIGUSR1 (Slurm's ``--signal``) do to a run.

Where there is nothing to save they end the process at once; while a network trains, the first one
is noted, to stop between two steps, and a second one ends the process at once. Checkpoints and
metrics are written so that this leaves them whole.

This module imports nothing heavy, so that its handlers can be installed first of all.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

SIGNALS = tuple(  # Windows has no SIGUSR1
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)
# In a terminal Ctrl-C reaches a launcher and its processes, to which the launcher passes it on.
_SAME = 0.1  # seconds in which two signals of one kind are one
_ending = threading.Lock()


class Stopped(Exception):
    """The run was told to stop; its state is saved.

    Attributes:
        signal_number: the signal that told it.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


def exit_on_signals() -> None:
    """From now on each of ``SIGNALS`` ends the process at once, with status 128 + its number.

    Python's own KeyboardInterrupt can be lost in an import that catches it, and unwinding while
    libraries start their threads can crash the interpreter. May be called again, to take back a
    signal that a library has taken for itself.
    """
    for number in SIGNALS:
        signal.signal(number, exit_at_once)
    if not _exiting:
        _exiting.append(_Watch(exit_at_once))


def exit_at_once(number: int, frame: FrameType | None = None) -> NoReturn:
    """End the process with 128 + the signal's number, as a handler of a signal does."""
    if not _ending.acquire(blocking=False):  # already called, in the other thread or in this one
        time.sleep(0.1)
        os._exit(128 + number)
    # What stdout holds back; not from another thread, which could wait for the main one's lock.
    if threading.current_thread() is threading.main_thread():
        with contextlib.suppress(Exception):
            sys.stdout.flush()
    name = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    with contextlib.suppress(OSError):
        os.write(2, f"Interrupted{name}.\n".encode())
    os._exit(128 + number)


class StopSignals:
    """Between :meth:`install` and :meth:`restore` the first of ``SIGNALS`` is only noted.

    A second one ends the process at once, even if the main thread is within a long computation.

    Attributes:
        received: the signal that was noted; None: none yet.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._first: tuple[int, float] | None = None  # as the thread has seen it
        self._previous: dict[int, Any] = {}
        self._watch: _Watch | None = None

    def install(self) -> None:
        """Start to note signals; in another than the main thread, which gets none, do nothing."""
        if self._previous or threading.current_thread() is not threading.main_thread():
            return
        for number in SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        self._watch = _Watch(self._exit_on_second)

    def restore(self) -> None:
        """Put back the handlers from before; without :meth:`install` nothing happens."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        for number, handler in self._previous.items():
            # None: a handler that was not installed from Python.
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._previous.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = self.received or number

    def _exit_on_second(self, number: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = number, now
        elif number != self._first[0] or now - self._first[1] > _SAME:
            exit_at_once(number)


class _Watch:
    """Calls a function with the number of each of ``SIGNALS`` at once, from a thread.

    Python runs the handlers of signals in the main thread, when it is back from a compilation of
    minutes. Only what has a handler is watched.
    """

    def __init__(self, act: Callable[[int], Any]):
        self._act = act
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._previous = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._run, name="signals", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        signal.set_wakeup_fd(self._previous)
        self._writer.close()
        self._thread.join()
        self._reader.close()

    def _run(self) -> None:
        while numbers := self._reader.recv(64):
            for number in numbers:
                if number in SIGNALS:
                    self._act(number)


_exiting: list[_Watch] = []  # the one that lives as long as the process
