"""What folding batch norms brings: forward passes of networks, folded and not.

    python benchmarks/fold_batch_norm.py [--rounds=15] [--networks=resnet18:224:8,...]

In float32, compiled, with the weights as arguments. Both take turns in one process; the table shows
the median of the rounds in milliseconds, and "ratio" is the time without folding over that with it.
"""

import argparse
import statistics
import time

from jaxcnn.platform import set_xla_flags

NETWORKS = "resnet18:224:8,mobilenet_v2:224:8"


def measure(name: str, size: int, batch: int, rounds: int) -> tuple[float, float]:
    """Seconds of a forward pass, not folded and folded."""
    import jax
    import jax.numpy as jnp

    from jaxcnn import models
    from jaxcnn.convert import fold_batch_norm

    images = jax.random.normal(jax.random.key(0), (batch, size, size, 3))
    model = models.create_model(name)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))
    runs = []
    for network, its_variables in ((model, variables), fold_batch_norm(model, variables)):
        forward = jax.jit(network.apply).lower(its_variables, images).compile()
        jax.block_until_ready(forward(its_variables, images))
        runs.append((forward, its_variables, []))
    for _ in range(rounds):
        for forward, its_variables, seconds in runs:
            start = time.perf_counter()
            jax.block_until_ready(forward(its_variables, images))
            seconds.append(time.perf_counter() - start)
    plain, folded = (statistics.median(seconds) for _, _, seconds in runs)
    return plain, folded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--networks", default=NETWORKS, help="name:size:batch, comma-separated")
    arguments = parser.parse_args()
    set_xla_flags()  # as the command jaxcnn does
    print(f"{'network':22} {'plain':>8} {'folded':>8} {'ratio':>6}  milliseconds")
    for network in arguments.networks.split(","):
        name, size, batch = network.split(":")
        plain, folded = measure(name, int(size), int(batch), arguments.rounds)
        print(f"{network:22} {1e3 * plain:8.1f} {1e3 * folded:8.1f} {plain / folded:6.2f}")


if __name__ == "__main__":
    main()
