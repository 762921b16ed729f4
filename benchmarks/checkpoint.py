"""Load and convert a ResNet-152, compared with ``torch.load`` of the same file.

    python benchmarks/checkpoint.py

Medians of alternating runs in one process. The first conversion of a model also traces it once to
find the shapes that it expects; this is timed separately.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import torch
import torchvision

from jaxcnn import convert, models

REPEATS = 11


def timed(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def main() -> None:
    model = models.resnet152()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "resnet152.pth"
        torch.save(torchvision.models.resnet152().state_dict(), path)

        def ours() -> object:
            return convert.from_torch(convert.load_checkpoint(path), model)

        def theirs() -> object:
            torch.load(path, weights_only=True, mmap=False)

        timed(theirs)
        first = timed(ours)
        times = [(timed(theirs), timed(ours)) for _ in range(REPEATS)]
        reference, median = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"{path.stat().st_size / 1e6:.0f} MB; milliseconds, and relative to torch.load")
        print(f"torch.load                  {1e3 * reference:7.0f}")
        print(f"load_checkpoint, from_torch {1e3 * median:7.0f}  {median / reference:.2f}")
        print(f"the first time in a process {1e3 * first:7.0f}  {first / reference:.2f}")


if __name__ == "__main__":
    main()
