"""``metrics.jsonl`` and TensorBoard events."""

import json
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from jaxcnn.io.atomic import atomic_write


class MetricsWriter:
    """Appends to ``workdir/metrics.jsonl`` and to TensorBoard events in ``workdir/tensorboard``.

    A run that goes on from a checkpoint writes the steps after it again: what an earlier process
    wrote of those is dropped first.

    Args:
        workdir: an existing folder.
        start_step: the step that the run goes on from; 0 for a new one.
        enabled: whether this process writes for all; else nothing happens.
    """

    def __init__(self, workdir: Path, start_step: int = 0, *, enabled: bool = True):
        self._enabled = enabled
        if not enabled:
            return
        path = workdir / "metrics.jsonl"
        kept = [line for line in read_metrics(path) if line["step"] <= start_step]
        with atomic_write(path) as file:
            file.write("".join(_dump(line) for line in kept).encode())
        self._file = path.open("a")
        self._events = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=start_step + 1 if start_step else None
        )

    def write(self, step: int, epoch: float, split: str, **values: float | int) -> None:
        """Writes one line.

        Args:
            step: how many steps had been taken.
            epoch: how many epochs, with its fraction.
            split: ``"train"`` or ``"eval"``.
            **values: ``loss``, ``top1``, ...
        """
        if not self._enabled:
            return
        self._file.write(_dump({"step": step, "epoch": epoch, "split": split, **values}))
        self._file.flush()
        for name, value in values.items():
            self._events.add_scalar(f"{split}/{name}", value, step)
        self._events.flush()

    def close(self) -> None:
        """Closes the files."""
        if self._enabled:
            self._file.close()
            self._events.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl`` (none if there is no file).

    A last line that a killed process left unfinished is passed over.
    """
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _dump(line: dict[str, Any]) -> str:
    return json.dumps(line, allow_nan=False) + "\n"
