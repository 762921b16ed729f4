"""Stop a run at random steps, resume it, and compare its end with that of one that was not stopped.

    python benchmarks/resume.py [--stops 20] [--seed 0]

* On the same device: mobilenet_v3_small:digits with dropout, augmentation on the host (crops,
  random erasing) and on the device (mixup), an average of the weights, and accumulation. It is told
  to stop (SIGTERM) at each of so many random steps, and resumed. The weights, the average, each
  array of the last checkpoint and the lines of metrics.jsonl must be the same bit for bit, and so
  must the batches from that step on.
* On two and on four devices: the batches must be the same there, too. Networks with nothing that is
  drawn on a device are stopped on one device and resumed on two or four: lenet5:digits, and
  resnet18:digits with synchronized batch norm in turn. No weight may differ much from that of the
  run that was not stopped. The second network is stopped in one of its last eight steps: where a
  ReLU's input is near zero, rounding decides whether there is a gradient, and that grows from step
  to step (in float32; in float64 the tests compare whole runs).
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from chaos import ROOT, differences, environment, metrics

PART = ("--config.train_split=train[:640]", "--config.num_epochs=2", "--config.log_every_steps=1")
SAME_DEVICE = (
    "--config=configs/mobilenet_v3_small.py:digits",
    *PART,
    *("--config.ema.decay=0.99", "--config.ema.steps=4", "--config.accumulate_steps=2"),
    *("--config.augment.erasing=0.25", "--config.augment.mixup=0.2"),
    *("--config.checkpoint.best_by=top1", "--config.checkpoint.keep=1"),
)
SIZE = "--config.batch_size=32"
OTHER_DEVICES = {
    "lenet5": ("--config=configs/lenet5.py:digits", *PART, SIZE),
    "resnet18": (
        "--config=configs/resnet18.py:digits",
        *PART,
        SIZE,
        *("--config.sync_batch_norm=True", "--config.learning_rate=0.01"),
        "--config.model_args.zero_init_residual=True",
    ),
}
STEPS = 40
LAST = range(STEPS - 8, STEPS - 1)
NEAR = 1e-3  # of the largest weight of an array: float32, and sums in another order


def train(
    flags: Sequence[str], workdir: Path, *, devices: int = 1, stop_at: int | None = None
) -> str:
    """Run train.py, to the end or until it is told to stop.

    Returns:
        What it printed.
    """
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *flags, f"--workdir={workdir}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=environment(devices),
    )
    if stop_at is not None:
        while process.poll() is None and last_step(workdir) < stop_at:
            time.sleep(0.002)
        process.send_signal(signal.SIGTERM)
    said, _ = process.communicate()
    if process.returncode != (0 if stop_at is None else 143):
        raise SystemExit(f"{workdir} ended with status {process.returncode}:\n{said[-3000:]}")
    return said


def last_step(workdir: Path) -> int:
    """The step of the last whole line of metrics.jsonl; 0: there is none."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().split("\n")[:-1]
    except FileNotFoundError:
        return 0
    return json.loads(lines[-1])["step"] if lines else 0


def saved_step(workdir: Path) -> int:
    """The step of the newest checkpoint."""
    return max(int(path.name) for path in (workdir / "checkpoints").iterdir())


def batch_digests(data_dir: str, starts: Sequence[int]) -> dict[int, list[str]]:
    """By the step after which a stream starts: the SHA-256 of each of its batches.

    In the order of the global batch, whatever the devices are.
    """
    from jaxcnn.training.build import build
    from jaxcnn.training.config import open_config, resolve
    from jaxcnn.training.devices import join

    run = {"train_split": "train[:640]", "num_epochs": 2, "augment__erasing": 0.25}
    experiment = build(resolve(open_config("mobilenet_v3_small", "digits", **run)), data_dir)
    found: dict[int, list[str]] = {}
    for start in starts:
        found[start] = []
        for batch, _ in experiment.inputs.train_batches(start, STEPS):
            digest = hashlib.sha256()
            for _, array in sorted(join(batch).items()):
                digest.update(np.ascontiguousarray(array))
            found[start].append(digest.hexdigest())
    return found


def digests_on(devices: int, data_dir: str, starts: Sequence[int]) -> dict[str, list[str]]:
    """:func:`batch_digests` in a process with so many devices."""
    command = [sys.executable, __file__, "--digests", data_dir, *map(str, starts)]
    output = subprocess.run(
        command, env=environment(devices), check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(output.splitlines()[-1])


def check_batches(data_dir: str, steps: Sequence[int]) -> None:
    """Compare the batches of streams that start later, on several numbers of devices.

    Raises:
        SystemExit: if one differs.
    """
    whole = digests_on(1, data_dir, [0])["0"]
    if len(set(whole)) != STEPS:
        raise SystemExit("Two batches of the whole stream are the same.")
    for devices in (1, 2, 4):
        for start, digests in digests_on(devices, data_dir, steps).items():
            if digests != whole[int(start) :]:
                raise SystemExit(f"The batches after step {start} differ on {devices} devices.")
    print(f"batches after each of {len(steps)} steps, on 1, 2 and 4 devices: equal", flush=True)


def distance(ours: Path, reference: Path) -> float:
    """The largest difference of two weights, as a part of the largest of an array, or of 0.1."""
    from jaxcnn.convert import load_checkpoint

    a, b = (load_checkpoint(folder / "weights.safetensors") for folder in (ours, reference))
    floats = [name for name in b if b[name].dtype.kind == "f"]
    parts = [np.max(np.abs(a[k] - b[k])) / max(np.max(np.abs(b[k])), 0.1) for k in floats]
    return float(np.max(parts))  # NaN if one is


def resume(stops: int, seed: int, folder: Path) -> None:
    """Stop and resume so many runs of each kind.

    Raises:
        SystemExit: if a run ends otherwise than the one that was not stopped.
    """
    draw = random.Random(seed)
    data = f"--data_dir={folder / 'tfds'}"
    steps = sorted(draw.sample(range(1, STEPS - 1), stops))
    runs = {"same": (*SAME_DEVICE, data)}
    runs |= {name: (*flags, data) for name, flags in OTHER_DEVICES.items()}
    for name, flags in runs.items():
        train(flags, folder / name)
        if saved_step(folder / name) != STEPS:
            raise SystemExit(f"The run {name} has not {STEPS} steps.")
    check_batches(str(folder / "tfds"), steps)
    stopped, distances = [], []
    for number, step in enumerate(steps):
        workdir = folder / "run"
        train(runs["same"], workdir, stop_at=step)
        stopped.append(saved_step(workdir))
        said = train(runs["same"], workdir)
        if f"Resuming from step {stopped[-1]} of {STEPS}." not in said:
            raise SystemExit(f"{workdir} was not resumed:\n{said[-3000:]}")
        if different := differences(workdir, folder / "same"):
            raise SystemExit(f"{workdir} differs: {', '.join(different)}")
        shutil.rmtree(workdir)

        name, devices = list(OTHER_DEVICES)[number % 2], (2, 4)[number // 2 % 2]
        train(runs[name], workdir, stop_at=step if name == "lenet5" else draw.choice(LAST))
        middle = saved_step(workdir)
        train(runs[name], workdir, devices=devices)
        if len(metrics(workdir)) != len(metrics(folder / name)):
            raise SystemExit(f"{workdir} has other lines of metrics.jsonl.")
        distances.append(distance(workdir, folder / name))
        if not distances[-1] <= NEAR:
            raise SystemExit(f"{workdir} differs by {distances[-1]:.1e} on {devices} devices.")
        shutil.rmtree(workdir)
        print(
            f"{number + 1:3} resumed from step {stopped[-1]}: bitwise equal; "
            f"{name} from step {middle} on {devices} devices: {distances[-1]:.1e}",
            flush=True,
        )
    print(f"\n{stops} runs stopped after the steps {sorted(stopped)}: bitwise equal.")
    print(f"Resumed on two or four devices, weights differ by at most {max(distances):.1e}.")


def main() -> None:
    sys.path.insert(0, str(ROOT))
    if sys.argv[1:2] == ["--digests"]:
        print(json.dumps(batch_digests(sys.argv[2], list(map(int, sys.argv[3:])))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jaxcnn-resume-") as folder:
        os.environ.setdefault("JAXCNN_CACHE", f"{folder}/cache")
        resume(arguments.stops, arguments.seed, Path(folder))


if __name__ == "__main__":
    main()
