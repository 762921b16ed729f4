"""Max pooling and batch norm on a CPU, forward and backward: here, as XLA does, and in PyTorch.

    python benchmarks/layers.py [--rounds=7]

Milliseconds at batch 8, medians, in one process, alternating. "XLA" is the same layer without what
jaxcnn.models.layers computes in its place. Batch norms are followed by a ReLU and in training.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # torch's threads spin otherwise

from jaxcnn.platform import set_xla_flags  # noqa: E402

set_xla_flags()  # before JAX is imported

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402

from jaxcnn.models import layers  # noqa: E402

# image, channels, kernel, stride, padding
POOLS = [(112, 64, 3, 2, 1), (55, 64, 3, 2, 0), (56, 128, 2, 2, 0), (14, 512, 3, 1, 1)]
NORMS = [(112, 64), (56, 64), (56, 256), (28, 128), (28, 512), (14, 256), (14, 1024), (7, 512)]
BATCH = 8


def compiled(function: Callable[..., jax.Array], plain: bool, *args: jax.Array):
    """The function and its gradients, as a program without arguments."""

    def both(*args):
        y, vjp = jax.vjp(function, *args)
        return y, vjp(y)

    with layers.traced_for("any" if plain else "cpu"):
        program = jax.jit(both).lower(*args).compile()
    return lambda: jax.block_until_ready(program(*args))


def in_torch(function: Callable[..., torch.Tensor], *args: torch.Tensor):
    def run():
        y = function(*args)
        return torch.autograd.grad(y, args, y)

    return run


def milliseconds(sides: list[Callable[[], object]], rounds: int) -> list[float]:
    times: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, found in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            if number:  # the first warms up
                found.append(time.perf_counter() - start)
    return [1000 * statistics.median(found) for found in times]


def images(size: int, channels: int) -> tuple[jax.Array, torch.Tensor]:
    values = np.random.default_rng(0).standard_normal((BATCH, size, size, channels))
    values = np.maximum(values, 0).astype(np.float32)
    theirs = torch.from_numpy(values).permute(0, 3, 1, 2)  # channels_last
    return jnp.asarray(values), theirs.requires_grad_()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print("| layer, forward and backward | jaxcnn, ms | XLA, ms | PyTorch, ms |")
    print("|---|---:|---:|---:|")

    def row(name: str, ours, theirs, args: tuple, torch_args: tuple) -> None:
        sides = [compiled(ours, False, *args), compiled(ours, True, *args)]
        times = milliseconds([*sides, in_torch(theirs, *torch_args)], rounds)
        print(f"| {name} | {' | '.join(f'{t:.1f}' for t in times)} |", flush=True)

    for size, channels, *window in POOLS:
        x, tx = images(size, channels)
        row(
            f"max pooling {window[0]}x{window[0]}, stride {window[1]}, {size}x{size}x{channels}",
            lambda x, window=window: layers.max_pool(x, *window),
            lambda x, window=window: torch.nn.functional.max_pool2d(x, *window),
            (x,),
            (tx,),
        )
    for size, channels in NORMS:
        (x, tx), norm = images(size, channels), layers.BatchNorm()
        variables = norm.init(jax.random.key(0), x)
        module = torch.nn.BatchNorm2d(channels)

        def normalized(params, x, norm=norm, variables=variables):
            variables = {**variables, "params": params}
            return jax.nn.relu(norm.apply(variables, x, True, mutable=["batch_stats"])[0])

        def in_module(x, *_, module=module):
            return torch.relu(module(x))

        row(
            f"batch norm {size}x{size}x{channels}",
            normalized,
            in_module,
            (variables["params"], x),
            (tx, module.weight, module.bias),
        )


if __name__ == "__main__":
    main()
