"""What comparing the replicas costs: train.py does it every config.check_replicas_every steps.

    python benchmarks/replicas.py [MODEL ...]

On all devices; on a machine with CPUs only, on two virtual ones.
"""

import os
import statistics
import sys
import time

if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"

import jax

from jaxcnn import models
from jaxcnn.training.devices import replicate
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.replicas import check_replicas
from jaxcnn.training.step import init_state

REPEATS = 9


def seconds(state: object) -> float:
    """The time of one comparison."""
    start = time.perf_counter()
    check_replicas(state, 0)
    return time.perf_counter() - start


def main(names: list[str]) -> None:
    """Print a line for each network."""
    print(f"{jax.device_count()} {jax.default_backend()} device(s)")
    for name in names:
        model = models.create_model(name)
        size = model.input_size
        state = init_state(model, sgd(0.1), (1, size, size, 3))
        leaves = jax.tree.leaves(state)
        replicated = replicate(state)
        first = seconds(replicated)
        median = statistics.median(seconds(replicated) for _ in range(REPEATS))
        megabytes = sum(leaf.nbytes for leaf in leaves) / 1e6
        print(
            f"{name:12} {megabytes:5.0f} MB in {len(leaves)} arrays: first {first:.1f} s, "
            f"then {1e3 * median:.0f} ms"
        )


if __name__ == "__main__":
    main(sys.argv[1:] or ["resnet18", "resnet50"])
