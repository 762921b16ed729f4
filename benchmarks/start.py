"""How long train.py takes to its first line and its first step: a first start, and a second.

    python benchmarks/start.py [--config=configs/resnet18.py:digits] [--rounds=3]

The first start of each round finds an empty compilation cache, the second what the first compiled.
Prints the medians in seconds.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent


def start(config: str, folder: str) -> tuple[float, float]:
    """Seconds until the first line, and until the first step is reported."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "train.py", f"--config={config}", "--config.log_every_steps=1"),
            f"--workdir={tempfile.mkdtemp(dir=folder)}",
        ],
        env={**os.environ, "JAXCNN_CACHE": folder},
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    first = None
    for line in process.stdout:
        seconds = time.perf_counter() - began
        first = first or seconds
        if " step 1/" in line:
            process.kill()
            process.wait()
            return first, seconds
    raise SystemExit(f"train.py ended with status {process.wait()} before its first step")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/resnet18.py:digits")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    starts: list[list[tuple[float, float]]] = [[], []]
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            for number in range(2):
                starts[number].append(start(arguments.config, folder))
    medians = [[statistics.median(column) for column in zip(*rows, strict=True)] for rows in starts]
    for name, (first, step) in zip(("first", "second"), medians, strict=True):
        print(f"{name} start: first line after {first:.2f} s, first step after {step:.2f} s")
    print(f"second over first: {medians[1][1] / medians[0][1]:.2f}")


if __name__ == "__main__":
    main()
