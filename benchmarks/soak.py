"""Train for half an hour, and see whether memory, threads, open files or temporary files grow.

    python benchmarks/soak.py [--minutes 30]

The run is lenet5:digits on two devices of the CPU, with augmentation on the host and on the device,
an average of the weights, an evaluation of each and a checkpoint after every tenth epoch of a
second or so, TensorBoard's events, and the comparison of replicas. (No more often: of each array of
a checkpoint TensorStore 0.1.86 keeps 250 bytes for good, by a reference that its ``Spec.to_json``
does not release.) Its process is looked at every second. What counts is the memory that is in use:
what is left of RssAnon after malloc_trim, which a thread of the process calls every ten seconds and
which gives back what was freed, with two of glibc's arenas (``MALLOC_ARENA_MAX``, unless it is
set): of its own number, up to eight for each core, some fragment for a quarter of an hour. The
median of the second minute is compared with the last's. The threads, open files and
temporary files that are there at all times of the last minute must be no more than the usual number
of the second. Needs Linux with glibc.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import os
import runpy
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = (
    *("--config=configs/lenet5.py:digits", "--config.num_epochs=100000"),
    *("--config.augment.policy=trivial_augment_wide", "--config.augment.mixup=0.2"),
    *("--config.augment.erasing=0.25", "--config.ema.decay=0.99", "--config.ema.steps=2"),
    *("--config.eval.every_epochs=10", "--config.checkpoint.every_epochs=10"),
    *("--config.checkpoint.best_by=top1", "--config.check_replicas_every=11"),
)
MEMORY = 0.01  # by which it may grow


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a process has at one time."""

    threads: int
    files: int
    temporary: int


def sample(pid: int, temporary: Path) -> Sample:
    """Look at a process.

    Args:
        pid: its number.
        temporary: its folder of temporary files.

    Raises:
        OSError: if it has ended.
    """
    status = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return Sample(
        threads=int(status["Threads"]),
        files=len(os.listdir(f"/proc/{pid}/fd")),
        temporary=sum(len(files) for _, _, files in os.walk(temporary)),
    )


@dataclasses.dataclass(frozen=True)
class Period:
    """What was seen of a process in some time: the samples, and the bytes in use now and then."""

    samples: Sequence[Sample]
    memory: Sequence[int]

    def __str__(self) -> str:
        rest = (
            f"{name} {min(values)} to {max(values)}"
            for name in ("threads", "files", "temporary")
            if (values := [getattr(s, name) for s in self.samples])
        )
        return f"{statistics.median(self.memory) / 2**20:8.1f} MiB, {', '.join(rest)}"


def growth(periods: Sequence[Period]) -> dict[str, float]:
    """What has grown, by how much.

    Args:
        periods: the first is that of starting, which does not count.

    Returns:
        ``memory`` as a part of what it was, and by name the numbers that grew.
    """
    _, first, *_, last = periods
    found = {"memory": statistics.median(last.memory) / statistics.median(first.memory) - 1}
    for name in ("threads", "files", "temporary"):
        # Some come and go with each checkpoint: what is there at all times may not grow.
        usual = statistics.median(getattr(s, name) for s in first.samples)
        least = min(getattr(s, name) for s in last.samples)
        if least > usual:
            found[name] = least - usual
    return found


def train(memory: str, seconds: float, arguments: Sequence[str]) -> None:
    """Run train.py in this process, and write to a file now and then how many bytes are in use."""

    def measure() -> None:
        libc = ctypes.CDLL(None)
        while True:
            time.sleep(seconds)
            libc.malloc_trim(0)
            status = Path("/proc/self/status").read_text()
            (line,) = [line for line in status.splitlines() if line.startswith("RssAnon")]
            with open(memory, "a") as file:
                file.write(f"{1024 * int(line.split()[1])}\n")

    threading.Thread(target=measure, daemon=True).start()
    sys.argv = [str(ROOT / "train.py"), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")


def soak(periods: int, seconds: float, folder: Path) -> list[Period]:
    """Run for so many periods of so many seconds, from the first evaluation on.

    Returns:
        What was seen in each.

    Raises:
        SystemExit: if the run ends by itself, or not well when it is told to.
    """
    temporary = folder / "tmp"
    temporary.mkdir()
    workdir, memory = folder / "run", folder / "memory"
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "--train", str(memory), str(seconds / 6), *RUN]
            + [f"--workdir={workdir}", f"--data_dir={folder / 'tfds'}"],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={"MALLOC_ARENA_MAX": "2"}
            | os.environ
            | {"TMPDIR": str(temporary), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
            | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        )
    memory.touch()
    found: list[Period] = []
    try:
        while process.poll() is None and evaluations(workdir) < 2:
            time.sleep(0.1)
        for number in range(periods):
            end = time.monotonic() + seconds
            samples, known = [], len(memory.read_text().splitlines())
            while process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(OSError):  # it has ended: see below
                    samples.append(sample(process.pid, temporary))
                time.sleep(min(1.0, seconds / 10))
            if process.poll() is None:
                found.append(Period(samples, list(map(int, memory.read_text().split()))[known:]))
                print(f"{number + 1:3} {found[-1]}", flush=True)
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        status = process.wait()
    finally:
        process.kill()
    if status != 128 + signal.SIGTERM:
        raise SystemExit(
            f"The run ended with status {status}:\n{(folder / 'log').read_text()[-3000:]}"
        )
    print(f"{evaluations(workdir)} evaluations")
    return found


def evaluations(workdir: Path) -> int:
    """How many evaluations a run has written, those of the average too."""
    try:
        return (workdir / "metrics.jsonl").read_text().count('"split": "eval')
    except FileNotFoundError:
        return 0


def main() -> int:
    if sys.argv[1:2] == ["--train"]:
        train(sys.argv[2], float(sys.argv[3]), sys.argv[4:])
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jaxcnn-soak-") as folder:
        found = growth(soak(max(arguments.minutes, 3), 60.0, Path(folder)))
    memory = found.pop("memory")
    print(f"After the first minute memory grew by {100 * memory:.2f}%.")
    for name, more in found.items():
        print(f"{name} grew by {more:g}.")
    return 1 if found or memory >= MEMORY else 0


if __name__ == "__main__":
    sys.exit(main())
