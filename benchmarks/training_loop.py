"""What train.py adds to its training step, and pmap to a jitted one: images per second.

    python benchmarks/training_loop.py [NAME:DATASET] [--epochs=4] [--rounds=5] [--data_dir=DIR]
        [--config.KEY=VALUE ...]

In each round a jitted step of one device, the same step pmapped, both on a batch that is on the
device, and train.py take turns; train.py trains for some epochs with its input, metrics,
checkpoints and evaluations, and of what it writes to metrics.jsonl the first line is left out.
Prints medians over the rounds, and ratios to the pmapped step.
"""

import argparse
import ast
import functools
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from jaxcnn.platform import set_xla_flags, use_compilation_cache

set_xla_flags()  # before JAX is imported
use_compilation_cache()

import jax  # noqa: E402

from jaxcnn.training.build import build  # noqa: E402
from jaxcnn.training.config import open_config, resolve  # noqa: E402
from jaxcnn.training.devices import pmap, replicate  # noqa: E402
from jaxcnn.training.start import initial_state  # noqa: E402
from jaxcnn.training.step import normalizer  # noqa: E402

ROOT = Path(__file__).parent.parent
ROUND_SECONDS = 3.0


def steps(request: str, data_dir: str | None, settings: list[str]) -> tuple[dict, int]:
    """By name: a function that takes so many steps and waits; and the images of a step."""
    values = {}
    for setting in settings:
        key, _, value = setting.removeprefix("--config.").partition("=")
        values[key] = ast.literal_eval(value)
    experiment = build(resolve(open_config(*request.split(":"), **values)), data_dir)
    batch, _ = next(experiment.inputs.train_batches(0, 1))
    normalize = normalizer(experiment.mean, experiment.std)
    step = experiment.make_train_step(normalize=normalize, freeze=experiment.freeze)

    def prepared(step: Callable, state: object, batch: object) -> Callable[[int], None]:
        held = [state]

        def run(times: int) -> None:
            for _ in range(times):
                held[0], metrics = step(held[0], batch)
            jax.block_until_ready((held, metrics))

        run(2)  # compiles
        return run

    state, _ = initial_state(experiment, resuming=False)
    pmapped = prepared(pmap(step, donate_argnums=0), replicate(state), batch)
    jitted = jax.jit(functools.partial(step, axis_name=None), donate_argnums=0)
    jitted = prepared(jitted, state, jax.tree.map(lambda x: x[0], batch))
    return {"jit": jitted, "pmap": pmapped}, experiment.plan.batch_size


def rate_of_train(request: str, epochs: int, data_dir: str | None, settings: list[str]) -> float:
    """The median of train.py's own images per second."""
    name, *dataset = request.split(":")
    with tempfile.TemporaryDirectory() as workdir:
        command = [
            *(sys.executable, "train.py", f"--config=configs/{':'.join([f'{name}.py', *dataset])}"),
            *(f"--workdir={workdir}", f"--config.num_epochs={epochs}", *settings),
        ]
        if data_dir is not None:
            command.append(f"--data_dir={data_dir}")
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = map(json.loads, Path(workdir, "metrics.jsonl").read_text().splitlines())
        rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
        return statistics.median(rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("request", nargs="?", default="resnet18:digits")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data_dir")
    arguments, settings = parser.parse_known_args()
    runs, batch_size = steps(arguments.request, arguments.data_dir, settings)
    if jax.device_count() > 1:
        del runs["jit"]
    rates: dict[str, list[float]] = {name: [] for name in (*runs, "train.py")}
    for _ in range(arguments.rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(1)
            times = max(1, round(ROUND_SECONDS / (time.perf_counter() - start)))
            start = time.perf_counter()
            run(times)
            rates[name].append(times * batch_size / (time.perf_counter() - start))
        rate = rate_of_train(arguments.request, arguments.epochs, arguments.data_dir, settings)
        rates["train.py"].append(rate)
    print(f"{arguments.request}, {jax.device_count()} {jax.devices()[0].device_kind} device(s)")
    medians = {name: statistics.median(found) for name, found in rates.items()}
    for name, median in medians.items():
        print(f"{name:8} {median:7.1f} images/s  {median / medians['pmap']:.3f}")


if __name__ == "__main__":
    main()
