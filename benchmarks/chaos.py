"""Kill a run at random moments, restart it until it is done, and compare it with one that was not.

    python benchmarks/chaos.py [--kills 50] [--seed 0]
    python benchmarks/chaos.py --processes 2 [--kills 10]

The run is lenet5:digits, with a checkpoint every five steps. A quarter of the kills (SIGKILL) come
at a random time; the others at a change to the workdir, as inotify reports it: each kind of file
that a run creates, renames or deletes in turn, which are those of checkpoints above all. With two
processes of two devices each, one of them is killed at a random time, and the other has to end by
itself.

A run that is done must have the weights, parameters, momenta and statistics of one that was not
killed, bit for bit, and its lines of metrics.jsonl but for what a clock measured. Needs Linux.
"""

import argparse
import collections
import ctypes
import dataclasses
import json
import os
import random
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUN = (
    *("--config=configs/lenet5.py:digits", "--config.num_epochs=2"),
    *("--config.checkpoint.every_steps=5", "--config.checkpoint.keep=2"),
    *("--config.checkpoint.best_by=top1", "--config.ema.decay=0.9998"),
    "--heartbeat_timeout=10",
)
CLOCKS = ("images_per_second", "input_wait")
_CREATE, _MOVED_TO, _DELETE, _IS_FOLDER = 0x100, 0x80, 0x200, 0x40000000
_NAMES = {_CREATE: "create", _MOVED_TO: "rename to", _DELETE: "delete"}


class Changes:
    """What is created, renamed and deleted below a folder, from now on."""

    def __init__(self, folder: Path):
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = self._libc.inotify_init1(os.O_NONBLOCK)
        self._folders: dict[int, Path] = {}
        self._root = folder
        list(self._watch(folder))

    def close(self) -> None:
        """Watch no longer."""
        os.close(self._descriptor)

    def wait(self, seconds: float) -> Iterator[str]:
        """The kinds of changes that come within some time, such as ``create checkpoints/N``."""
        select.select([self._descriptor], [], [], seconds)
        try:
            data = os.read(self._descriptor, 1 << 16)
        except BlockingIOError:
            return
        while data:
            watch, mask, _, length = struct.unpack_from("iIII", data)
            name = os.fsdecode(data[16 : 16 + length].rstrip(b"\0"))
            data = data[16 + length :]
            path = self._folders.get(watch, self._root) / name
            for bit, verb in _NAMES.items():
                if mask & bit:
                    yield f"{verb} {self._kind(path)}"
            if mask & _IS_FOLDER and mask & _CREATE:
                yield from self._watch(path)
            elif mask & _IS_FOLDER and mask & _MOVED_TO:
                list(self._watch(path))  # what is in it has another path now, but is not new

    def _watch(self, folder: Path) -> Iterator[str]:
        """Watch a folder, and report what was in it before it was watched."""
        mask = _CREATE | _MOVED_TO | _DELETE
        watch = self._libc.inotify_add_watch(self._descriptor, os.fsencode(folder), mask)
        if watch < 0:  # it is gone again
            return
        self._folders[watch] = folder
        try:
            found = list(os.scandir(folder))
        except OSError:
            return
        for entry in found:
            yield f"create {self._kind(Path(entry.path))}"
            if entry.is_dir():
                yield from self._watch(Path(entry.path))

    def _kind(self, path: Path) -> str:
        name = path.relative_to(self._root).as_posix()
        name = re.sub(r"[0-9a-f]{32}", "HASH", name)
        name = re.sub(r"(^|/)\.(.*)\.[a-z0-9_]{8}$", r"\1.\2.*", name)  # of mkstemp
        name = re.sub(r"events\.out.*", "events", name)
        return re.sub(r"\d+", "N", name)


@dataclasses.dataclass
class Kill:
    """How a process was killed.

    Attributes:
        where: the change after which, or ``a random time``.
        after: seconds since it was started.
        lost: seconds since its last checkpoint, or its start.
    """

    where: str
    after: float
    lost: float


def start(
    workdir: Path, data_dir: str, number: int | None = None, port: int = 0
) -> subprocess.Popen[str]:
    """Start the run, or one of its two processes."""
    flags = [*RUN, f"--workdir={workdir}", f"--data_dir={data_dir}"]
    if number is not None:
        flags += [f"--coordinator_address=localhost:{port}", "--num_processes=2"]
        flags += [f"--process_id={number}"]
    devices = 1 if number is None else 2
    with open(f"{workdir}.{number or 0}.log", "a") as log:  # the process has its own descriptor
        return subprocess.Popen(
            [sys.executable, ROOT / "train.py", *flags],
            stdout=log,
            stderr=log,
            text=True,
            cwd=ROOT,
            env=environment(devices),
        )


def environment(devices: int) -> dict[str, str]:
    """Of a process with so many devices of the CPU."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}


def said(workdir: Path, number: int = 0) -> str:
    """All that a process has printed so far."""
    return Path(f"{workdir}.{number}.log").read_text()


def newest_checkpoint(workdir: Path) -> float:
    """When it was completed; 0: there is none."""
    found = []
    for path in workdir.glob("checkpoints/*/manifest.json"):
        try:
            found += [path.stat().st_mtime] if path.parent.name.isdecimal() else []
        except OSError:  # it is being deleted
            continue
    return max(found, default=0)


def run_and_kill(
    workdir: Path, data_dir: str, target: str | None, occurrence: int, after: float
) -> tuple[Kill | None, collections.Counter[str]]:
    """Start the run, and kill it.

    Args:
        workdir: its folder; made if it does not exist.
        data_dir: for the dataset.
        target: a kind of change; None: kill after some time.
        occurrence: after which of these changes, from 1.
        after: seconds.

    Returns:
        How it was killed; None: it was done before; and how many changes there were of each kind.
    """
    workdir.mkdir(exist_ok=True)
    changes, seen = Changes(workdir), collections.Counter()
    started = time.time()
    process = start(workdir, data_dir)
    kill = None
    try:
        while process.poll() is None and kill is None:
            left = started + after - time.time()
            for change in changes.wait(0.2 if target else min(max(left, 0), 0.2)):
                seen[change] += 1
                if change == target and seen[change] == occurrence:
                    process.kill()
                    kill = Kill(target, 0, 0)
            if target is None and time.time() - started >= after:
                process.kill()
                kill = Kill("a random time", 0, 0)
        status = process.wait()
    finally:
        process.kill()
        changes.close()
    now = time.time()
    if kill is not None and status == -signal.SIGKILL:
        kill.after = now - started
        kill.lost = now - max(started, newest_checkpoint(workdir))
        return kill, seen
    if status:
        raise SystemExit(f"The run ended with status {status}:\n{said(workdir)[-3000:]}")
    return None, seen


def differences(ours: Path, reference: Path) -> list[str]:
    """What differs between two runs that are done."""
    found = []
    if not same_bytes(ours, reference, ("weights.safetensors", "best.safetensors")):
        found.append("weights")
    if not same_bytes(ours, reference, ("weights_ema.safetensors",)):
        found.append("average")
    steps = [sorted(int(p.name) for p in (w / "checkpoints").iterdir()) for w in (ours, reference)]
    if steps[0] != steps[1]:
        found.append(f"checkpoints {steps[0]} instead of {steps[1]}")
    if arrays(ours) != arrays(reference):
        found.append("state")
    if metrics(ours) != metrics(reference):
        found.append("metrics.jsonl")
    return found


def same_bytes(ours: Path, reference: Path, names: Sequence[str]) -> bool:
    """Whether files of two folders are the same."""
    return all((ours / n).read_bytes() == (reference / n).read_bytes() for n in names)


def arrays(workdir: Path) -> dict[str, dict]:
    """The SHA-256 of each array of the last checkpoint."""
    last = max((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))
    return json.loads((last / "manifest.json").read_bytes())["arrays"]


def metrics(workdir: Path) -> list[dict]:
    """The lines of metrics.jsonl without what a clock measured."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCKS} for line in lines]


def chaos(kills: int, seed: int, folder: Path) -> list[Kill]:
    """Kill one process so many times, and check every run that is done.

    Raises:
        SystemExit: if a run ends otherwise than the one that was not killed.
    """
    draw = random.Random(seed)
    data_dir = str(folder / "tfds")
    run_and_kill(folder / "compiled", data_dir, "never", 1, 0)  # prepares, compiles
    started = time.monotonic()
    _, kinds = run_and_kill(folder / "reference", data_dir, "never", 1, 0)
    seconds = time.monotonic() - started
    print(f"A run takes {seconds:.1f} s; {len(kinds)} kinds of changes to its files.", flush=True)
    done: list[Kill] = []
    spent, runs = 0.0, 0
    while len(done) < kills:
        workdir = folder / f"run{runs}"
        started, of_run = time.monotonic(), 0
        while True:
            # The kinds that were hit the least, in a random order.
            hits = collections.Counter(kill.where for kill in done)
            target = min(kinds, key=lambda kind: (hits[kind], draw.random()))
            if draw.random() < 0.25 or len(done) >= kills:
                target = None
            after = draw.uniform(0, 1.2 * seconds) if len(done) < kills else 1e9
            occurrence = draw.randint(1, max(1, kinds[target] // 2)) if target else 0
            kill, _ = run_and_kill(workdir, data_dir, target, occurrence, after)
            if kill is None:
                break
            done.append(kill)
            of_run += 1
            print(
                f"{len(done):3} run {runs}, {kill.after:5.1f} s after its start, "
                f"{kill.lost:5.1f} s lost: {kill.where}",
                flush=True,
            )
        runs += 1
        spent += time.monotonic() - started
        if different := differences(workdir, folder / "reference"):
            raise SystemExit(f"{workdir} differs: {', '.join(different)}")
        print(f"run {runs - 1}: {of_run} kills, then done; bitwise equal", flush=True)
        shutil.rmtree(workdir)
    where = collections.Counter(kill.where for kill in done)
    print(f"\n{len(done)} kills in {runs} runs, every end state and metrics.jsonl equal.")
    lost = sum(kill.lost for kill in done)
    print(f"Lost: {lost / len(done):.1f} s per kill since the last checkpoint or the start;")
    print(f"{spent:.0f} s in all, where {runs} runs without kills take {runs * seconds:.0f} s.")
    for kind, count in sorted(where.items()):
        print(f"{count:4}  {kind}")
    missed = sorted(kinds.keys() - where.keys())
    print(f"{len(kinds) - len(missed)} of {len(kinds)} kinds of changes were hit.")
    return done


def chaos_of_two(kills: int, seed: int, folder: Path) -> list[float]:
    """Kill one of two processes so many times; check that the other ends, and every run.

    Returns:
        The seconds in which the other ended.

    Raises:
        SystemExit: if it does not, or a run ends otherwise than the one that was not killed.
    """
    draw = random.Random(seed)
    data_dir = str(folder / "tfds")

    def start_both(workdir: Path) -> list[subprocess.Popen[str]]:
        port = free_port()
        return [start(workdir, data_dir, number, port) for number in range(2)]

    def run(workdir: Path) -> float:
        began = time.monotonic()
        for process in start_both(workdir):
            if process.wait():
                raise SystemExit(f"A process failed:\n{said(workdir)[-3000:]}")
        return time.monotonic() - began

    run(folder / "compiled")
    seconds = run(folder / "reference")
    print(f"A run of two processes takes {seconds:.1f} s.", flush=True)
    ended: list[float] = []
    runs = 0
    while len(ended) < kills:
        workdir = folder / f"run{runs}"
        while True:
            processes = start_both(workdir)
            after = draw.uniform(0.2, 1.1) * seconds if len(ended) < kills else 1e9
            until = time.monotonic() + after
            while time.monotonic() < until and all(p.poll() is None for p in processes):
                time.sleep(0.05)
            victim = draw.randrange(2)
            if any(p.poll() is not None for p in processes):
                statuses = [process.wait() for process in processes]
                if any(statuses):
                    raise SystemExit(f"They ended with {statuses}:\n{said(workdir)[-3000:]}")
                break
            before = len(said(workdir, 1 - victim))
            processes[victim].kill()
            processes[victim].wait()
            began = time.monotonic()
            try:
                status = processes[1 - victim].wait(timeout=120)
            except subprocess.TimeoutExpired:
                processes[1 - victim].kill()
                raise SystemExit("The other process went on for two minutes.") from None
            ended.append(time.monotonic() - began)
            sentence = (said(workdir, 1 - victim)[before:].strip().splitlines() or [""])[-1]
            print(
                f"{len(ended):3} process {victim} killed {after:5.1f} s after its start; the other "
                f"ended {ended[-1]:4.1f} s later with status {status}: {sentence[:110]}",
                flush=True,
            )
        runs += 1
        if different := differences(workdir, folder / "reference"):
            raise SystemExit(f"{workdir} differs: {', '.join(different)}")
        print(f"run {runs - 1}: done; bitwise equal", flush=True)
    print(f"\n{len(ended)} kills in {runs} runs, every end state and metrics.jsonl equal;")
    print(f"the other process ended within {max(ended):.1f} s.")
    return ended


def free_port() -> int:
    """A port on which nothing listens."""
    import socket

    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


def main() -> None:
    """Read the arguments, and kill."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jaxcnn-chaos-") as folder:
        os.environ.setdefault("JAXCNN_CACHE", f"{folder}/cache")
        if arguments.processes == 1:
            chaos(arguments.kills or 50, arguments.seed, Path(folder))
        else:
            chaos_of_two(arguments.kills or 10, arguments.seed, Path(folder))


if __name__ == "__main__":
    main()
