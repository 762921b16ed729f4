"""``metrics.jsonl`` and TensorBoard events."""

import contextlib
import errno
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_write
from jaxcnn.io.paths import in_bucket, is_unreachable
from jaxcnn.training.workdir import METRICS, TENSORBOARD

# How often the files are written to a bucket, beside before each checkpoint.
_SECONDS_BETWEEN_UPLOADS = 30.0


class MetricsWriter:
    """Appends to ``workdir/metrics.jsonl`` and to TensorBoard events in ``workdir/tensorboard``.

    A run that resumes from a checkpoint writes the steps after it again: what an earlier process
    wrote of those is dropped first, and so are lines that cannot be read.

    To an object in a bucket nothing can be appended. There the files are written to a temporary
    folder, and replace their objects from time to time, and when :meth:`flush` is called: before a
    checkpoint, so that every line up to its step is there when a run resumes from it.

    Args:
        workdir: an existing folder.
        start_step: the step from which the run resumes; 0 for a new one.
        without: splits whose lines of that step are dropped, too: they will be written again.
        report: called with a sentence if lines were dropped because they cannot be read.

    Raises:
        UserError: if the files cannot be written.
    """

    def __init__(
        self,
        workdir: Path,
        start_step: int = 0,
        *,
        without: Collection[str] = (),
        report: Callable[[str], None] = lambda sentence: None,
    ):
        # Not above: it imports torch where that is installed, which reading does not need.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._workdir, self._path = workdir, workdir / METRICS
        self._temporary = Path(tempfile.mkdtemp(prefix="jaxcnn-")) if in_bucket(workdir) else None
        self._uploaded = time.monotonic()
        folder = self._temporary or workdir
        lines, damaged = read_lines(self._path)
        if damaged:
            report(f"Dropped {damaged} line(s) of {self._path} that cannot be read.")
        kept = [
            line
            for line in lines
            if line["step"] < start_step
            or (line["step"] == start_step and line["split"] not in without)
        ]
        with self._writing():
            with atomic_write(folder / METRICS) as file:
                file.write("".join(_dump(line) for line in kept).encode())
            self._file = (folder / METRICS).open("ab", buffering=0)  # whole lines, or an error
            # Not a SummaryWriter, whose thread dies on a full disk and leaves the loop waiting.
            (folder / TENSORBOARD).mkdir(exist_ok=True)
            self._events = EventsWriter(str(folder / TENSORBOARD / "events"))
            if start_step:  # what an earlier process wrote after this step is not shown
                log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self._add_event(start_step + 1, session_log=log)
            self._events.flush()
        self.flush()

    def write(self, step: int, epoch: float, split: str, **values: float | int) -> None:
        """Write one line.

        Args:
            step: number of steps taken so far.
            epoch: number of epochs, with its fraction.
            split: ``"train"``, ``"eval"`` or ``"eval_ema"``.
            **values: ``loss``, ``top1``, ...

        Raises:
            UserError: if the disk is full or is not there any more.
        """
        from tensorboardX import summary

        with self._writing():
            line = _dump({"step": step, "epoch": epoch, "split": split, **values}).encode()
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            for name, value in values.items():
                self._add_event(step, summary=summary.scalar(f"{split}/{name}", value))
            self._events.flush()
        if time.monotonic() - self._uploaded > _SECONDS_BETWEEN_UPLOADS:
            self.flush()

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write an image for TensorBoard.

        Args:
            step: number of steps taken so far.
            name: of the image.
            image: ``[H, W, 1 or 3]`` uint8.

        Raises:
            UserError: if the disk is full or is not there any more.
        """
        from tensorboardX import summary

        with self._writing():
            self._add_event(step, summary=summary.image(name, image, dataformats="HWC"))
            self._events.flush()

    def flush(self) -> None:
        """Have everything that was written in the workdir.

        Raises:
            UserError: if it cannot be written there.
        """
        if self._temporary is None:
            return
        with self._writing():
            events = (self._temporary / TENSORBOARD).iterdir()
            names = [path.relative_to(self._temporary).as_posix() for path in events]
            self._workdir.upload(self._temporary, names)
            (self._workdir / METRICS).write_bytes((self._temporary / METRICS).read_bytes())
        self._uploaded = time.monotonic()

    def close(self) -> None:
        """Close the files, and try once more to have everything in the workdir."""
        self._file.close()
        with contextlib.suppress(OSError):  # of a write that has failed before, and was reported
            self._events.close()
        if self._temporary is not None:
            if not is_unreachable(self._workdir):
                with contextlib.suppress(UserError):  # :meth:`flush` says so where it matters
                    self.flush()
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._temporary = None

    def _add_event(self, step: int, **content: Any) -> None:
        from tensorboardX.proto import event_pb2

        self._events.write_event(event_pb2.Event(wall_time=time.time(), step=step, **content))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Report an OSError within the block as a UserError."""
        try:
            yield
        except OSError as error:
            remedy = "Check the network" if in_bucket(self._path) else "Make room"
            raise UserError(
                f"{self._path.parent} cannot be written ({error.strerror}); what was "
                f"saved is kept. {remedy}, and start the same command again."
            ) from error


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl`` that can be read (none if there is no file)."""
    return read_lines(path)[0]


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines of a ``metrics.jsonl``, and how many others cannot be read.

    A last line without its end is not counted: a killed process was writing it.
    """
    if not path.exists():
        return [], 0
    *complete, _ = path.read_bytes().split(b"\n")
    lines = [line for text in complete if (line := _parsed(text)) is not None]
    return lines, len(complete) - len(lines)


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
        json.dumps(line, allow_nan=False)  # json reads NaN, which is not JSON
    except (ValueError, RecursionError):  # UnicodeDecodeError is a ValueError
        return None
    sound = isinstance(line, dict) and type(line.get("step")) is int and "split" in line
    return line if sound else None


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
