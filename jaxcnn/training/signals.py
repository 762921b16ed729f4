"""Stopping between two steps when told to."""

import signal
from types import FrameType, TracebackType

from jaxcnn.training import distributed


class Stopped(Exception):
    """The run was told to stop; its state is saved.

    Attributes:
        signal_number: of the signal that told it.
    """

    def __init__(self, signal_number: int):
        super().__init__(signal.Signals(signal_number).name)
        self.signal_number = signal_number


class StopSignals:
    """Within this context SIGTERM and SIGINT only leave a note; a second SIGINT acts at once.

    (A second SIGTERM does not: schedulers send several.)
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received == number:
            raise KeyboardInterrupt
        self.received = number

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def agreed(self, may_ask: bool) -> int | None:
        """The signal that any process got, which all learn of together.

        Args:
            may_ask: whether to ask the other processes now; equal on all of them.
        """
        if distributed.is_alone():
            return self.received
        if may_ask and distributed.any_process(self.received is not None):
            return self.received or signal.SIGTERM
        return None
