"""Whether an XLA flag pays: training steps and forward passes of networks, with it and without.

    python benchmarks/xla_flags.py [--flag=FLAG] [--rounds=3] [--networks=resnet18:224:16,...]

Each measurement runs in a process of its own, for XLA reads its flags once; processes with and
without the flag alternate, and each takes the median of its repeats. The table shows the median of
the processes, in images per second; "gain" is that with the flag over that without. The default
flag is the one that :mod:`jaxcnn.platform` sets.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

FLAG = "--xla_cpu_experimental_ynn_fusion_type=-individual_convolution"
NETWORKS = "resnet18:224:16,resnet50:224:8,mobilenet_v2:224:8,resnet18:32:64"
REPEATS = 3


def measure(name: str, size: int, batch: int) -> dict[str, float]:
    """Images per second of a training step and of a forward pass, in float32, in this process."""
    import jax
    import jax.numpy as jnp

    from jaxcnn import models
    from jaxcnn.training.optimizer import sgd
    from jaxcnn.training.step import init_state, make_train_step

    model, optimizer = models.create_model(name), sgd(0.01, momentum=0.9)
    state = init_state(model, optimizer, (1, size, size, 3))
    image = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    inputs = {"image": image, "label": jnp.arange(batch)}
    step = jax.jit(make_train_step(model, optimizer), static_argnames="axis_name")
    forward = jax.jit(model.apply)

    def seconds(function: Callable[[], object]) -> float:
        jax.block_until_ready(function())  # compiles
        times = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            jax.block_until_ready(function())
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    return {
        "step": batch / seconds(lambda: step(state, inputs, axis_name=None)),
        "forward": batch / seconds(lambda: forward(state.variables, image)),
    }


def measured(network: str, flags: str) -> dict[str, float]:
    """The same in a new process with ``flags`` added to the environment's."""
    environ = os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
    command = [sys.executable, __file__, "--measure", network]
    process = subprocess.run(command, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flag", default=FLAG)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", default=NETWORKS, help="name:size:batch, comma-separated")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        name, size, batch = arguments.measure.split(":")
        print(json.dumps(measure(name, int(size), int(batch))))
        return
    print(f"{'network':22} {'':8} {'without':>8} {'with':>8} {'gain':>6}  images/s")
    for network in arguments.networks.split(","):
        rates: dict[str, list[dict[str, float]]] = {"": [], arguments.flag: []}
        for _ in range(arguments.rounds):
            for flags, results in rates.items():
                results.append(measured(network, flags))
        for what in ("step", "forward"):
            without, with_flag = (
                statistics.median(result[what] for result in results) for results in rates.values()
            )
            gain = with_flag / without
            print(f"{network:22} {what:8} {without:8.1f} {with_flag:8.1f} {gain:6.2f}", flush=True)


if __name__ == "__main__":
    main()
