"""What options of a recipe cost: the time of a training step with each, over that without.

    python benchmarks/step_options.py [--networks=zfnet:224:16,resnet18:224:16] [--rounds=7]

All variants of a step are compiled first; then each takes a step in every round, in turn. The table
shows the median over the rounds of the time with the option over that without, in that round.
"""

import argparse
import functools
import statistics
import time

from jaxcnn.platform import set_xla_flags

set_xla_flags()  # before JAX is imported

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

from jaxcnn import models  # noqa: E402
from jaxcnn.training.ema import Ema  # noqa: E402
from jaxcnn.training.optimizer import WeightDecay, make_optimizer  # noqa: E402
from jaxcnn.training.step import init_state, make_train_step  # noqa: E402

# By option: arguments of the optimizer, and of the step.
OPTIONS = {
    "none": ({}, {}),
    "renormalize_filters=0.1": ({"filter_radius": 0.1}, {}),
    "clip_grad_norm=1": ({"clip_norm": 1.0}, {}),
    "clip_grad_adaptive=0.01": ({"clip_adaptive": 0.01}, {}),
    "norm_weight_decay=0": ({"weight_decay": WeightDecay(1e-4, norms=0.0)}, {}),
    "ema.steps=1": ({}, {"ema": Ema(0.999, 1, 100)}),
    "log_norms=True": ({}, {"log_norms": True}),
    "accumulate_steps=4": ({}, {"accumulate_steps": 4}),
}


def measure(network: str, size: int, batch: int, rounds: int) -> dict[str, float]:
    """By option: the median of the ratios."""
    model = models.create_model(network)
    inputs = {
        "image": jax.random.normal(jax.random.key(0), (batch, size, size, 3)),
        "label": jnp.arange(batch),
    }
    steps = {}
    for option, (of_optimizer, of_step) in OPTIONS.items():
        arguments = {"momentum": 0.9, "weight_decay": WeightDecay(1e-4), **of_optimizer}
        optimizer = make_optimizer("sgd", 0.01, **arguments)
        state = init_state(model, optimizer, (1, size, size, 3), with_ema="ema" in of_step)
        step = functools.partial(make_train_step(model, optimizer, **of_step), axis_name=None)
        steps[option] = functools.partial(jax.jit(step), state, inputs)
        jax.block_until_ready(steps[option]())  # compiles
    ratios: dict[str, list[float]] = {option: [] for option in OPTIONS}
    for _ in range(rounds):
        seconds = {}
        for option, step in steps.items():
            start = time.perf_counter()
            jax.block_until_ready(step())
            seconds[option] = time.perf_counter() - start
        for option in OPTIONS:
            ratios[option].append(seconds[option] / seconds["none"])
    return {option: statistics.median(values) for option, values in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default="zfnet:224:16,resnet18:224:16")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    print("| network, pixels, batch | option | time of a step, without the option = 1 |")
    print("|---|---|---:|")
    for network in arguments.networks.split(","):
        name, size, batch = network.split(":")
        for option, ratio in measure(name, int(size), int(batch), arguments.rounds).items():
            print(f"| {name} {size}, {batch} | `{option}` | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
