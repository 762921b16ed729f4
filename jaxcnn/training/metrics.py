"""``metrics.jsonl`` and TensorBoard events."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.io.atomic import atomic_write
from jaxcnn.training.workdir import METRICS, TENSORBOARD


class MetricsWriter:
    """Appends to ``workdir/metrics.jsonl`` and to TensorBoard events in ``workdir/tensorboard``.

    A run that resumes from a checkpoint writes the steps after it again: what an earlier process
    wrote of those is dropped first, and so are lines that cannot be read.

    Args:
        workdir: an existing folder.
        start_step: the step from which the run resumes; 0 for a new one.
        report: called with a sentence if lines were dropped because they cannot be read.
    """

    def __init__(
        self,
        workdir: Path,
        start_step: int = 0,
        report: Callable[[str], None] = lambda sentence: None,
    ):
        # Not above: it imports torch where that is installed, which reading does not need.
        from tensorboardX import SummaryWriter

        path = workdir / METRICS
        lines, damaged = read_lines(path)
        if damaged:
            report(f"Dropped {damaged} line(s) of {path} that cannot be read.")
        kept = [line for line in lines if line["step"] <= start_step]
        with atomic_write(path) as file:
            file.write("".join(_dump(line) for line in kept).encode())
        self._file = path.open("a", encoding="utf-8")
        self._events = SummaryWriter(
            str(workdir / TENSORBOARD), purge_step=start_step + 1 if start_step else None
        )

    def write(self, step: int, epoch: float, split: str, **values: float | int) -> None:
        """Write one line.

        Args:
            step: number of steps taken so far.
            epoch: number of epochs, with its fraction.
            split: ``"train"``, ``"eval"`` or ``"eval_ema"``.
            **values: ``loss``, ``top1``, ...
        """
        self._file.write(_dump({"step": step, "epoch": epoch, "split": split, **values}))
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}", value, step)
        self._events.flush()

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Write an image for TensorBoard.

        Args:
            step: number of steps taken so far.
            name: of the image.
            image: ``[H, W, 1 or 3]`` uint8.
        """
        self._events.add_image(name, image, step, dataformats="HWC")
        self._events.flush()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._events.close()


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
