"""What train.py adds to its training step, and pmap to a jitted one: images per second.

    python benchmarks/training_loop.py [NAME:DATASET] [--epochs=4] [--rounds=5] [--data_dir=DIR]
        [--config.KEY=VALUE ...]

In each round train.py, then a jitted step of one device and the same step pmapped, both on a batch
that is on the device, take turns; train.py trains for some epochs with its input, metrics,
checkpoints and evaluations, and of what it writes to metrics.jsonl the first line is left out.
Prints medians over the rounds, and ratios to the pmapped step.
"""

import argparse
import functools
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jaxcnn.platform import set_xla_flags, use_compilation_cache

set_xla_flags()  # before JAX is imported
use_compilation_cache()

import jax  # noqa: E402

from jaxcnn.training.build import build  # noqa: E402
from jaxcnn.training.config import resolved_from_json  # noqa: E402
from jaxcnn.training.devices import pmap, replicate  # noqa: E402
from jaxcnn.training.speed import Program, measure, program_of_steps  # noqa: E402
from jaxcnn.training.start import initial_state  # noqa: E402
from jaxcnn.training.step import normalizer  # noqa: E402
from jaxcnn.training.workdir import read_config  # noqa: E402

ROOT = Path(__file__).parent.parent
STEPS_IN_TURN = 5  # times that the two steps take turns in a round


def train(request: str, workdir: Path, flags: Sequence[str]) -> float:
    """Run train.py; returns the median of its own images per second."""
    name, *dataset = request.split(":")
    config = ":".join([f"configs/{name}.py", *dataset])
    command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}", *flags]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return statistics.median(rates[1:])


def steps(workdir: Path, data_dir: str | None) -> dict[str, Program]:
    """The step of a run, pmapped, and jitted if there is one device."""
    config = resolved_from_json(read_config(workdir))
    experiment = build(config, data_dir)
    batch, _ = next(experiment.inputs.train_batches(0, 1))
    normalize = normalizer(experiment.mean, experiment.std)
    step = experiment.make_train_step(normalize=normalize, freeze=experiment.freeze)
    state, _ = initial_state(experiment, resuming=False)
    images = experiment.plan.batch_size
    found = {
        "pmap": program_of_steps(pmap(step, donate_argnums=0), replicate(state), batch, images)
    }
    if jax.device_count() == 1:
        jitted = jax.jit(functools.partial(step, axis_name=None), donate_argnums=0)
        one = jax.tree.map(lambda x: x[0], batch)
        found["jit"] = program_of_steps(jitted, state, one, images)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("request", nargs="?", default="resnet18:digits")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data_dir")
    arguments, flags = parser.parse_known_args()
    flags.append(f"--config.num_epochs={arguments.epochs}")
    if arguments.data_dir is not None:
        flags.append(f"--data_dir={arguments.data_dir}")
    programs: dict[str, Program] = {}
    rates: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            rates.setdefault("train.py", []).append(train(arguments.request, Path(folder), flags))
            programs = programs or steps(Path(folder), arguments.data_dir)
        measured = measure(list(programs.values()), rounds=STEPS_IN_TURN)
        for name, found in zip(programs, measured, strict=True):
            rates.setdefault(name, []).append(found.images_per_second)
    print(f"{arguments.request}, {jax.device_count()} {jax.devices()[0].device_kind} device(s)")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:7.1f} images/s  {median / medians['pmap']:.3f}")


if __name__ == "__main__":
    main()
