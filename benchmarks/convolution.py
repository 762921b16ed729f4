"""Convolutions on a CPU: XLA's own against what ``jaxcnn.models.layers`` computes in their place.

    python benchmarks/convolution.py [--torch] [--only=dense|depthwise|grouped] [--repeats=7]

Times the forward pass and both gradients of single layers, in one process, alternating, medians:
layers of a ResNet at batch 64; depthwise ones of MobileNets, EfficientNets and ConvNeXts, and
grouped ones of ResNeXts and RegNets, at batch 8. "products" are a matrix product of patches
(dense), a sum over the kernel's places (depthwise), or such a sum of matrix products per group
(grouped); "blocks" are dense convolutions of a few groups at a time. "used" is what
``convolve.convolve`` chooses, and "compile" the seconds that it takes to compile. XLA's own
gradients of grouped convolutions take seconds each. With ``--torch`` PyTorch is timed as well.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.models.layers import convolve, traced_for

# image, channels in and out, kernel, stride, groups
CASES = [
    (1, 512, 512, 3, 1, 1),
    (2, 256, 512, 3, 2, 1),
    (2, 256, 256, 3, 1, 1),
    (4, 256, 256, 3, 2, 1),
    (4, 128, 128, 3, 1, 1),
    (8, 64, 64, 3, 1, 1),
    (16, 64, 64, 3, 1, 1),
    (2, 512, 512, 1, 1, 1),
    (8, 64, 128, 1, 2, 1),
    (14, 256, 1024, 1, 1, 1),
    (28, 128, 512, 1, 1, 1),
    (28, 192, 192, 3, 1, 192),
    (56, 144, 144, 3, 2, 144),
    (14, 480, 480, 5, 1, 480),
    (14, 384, 384, 7, 1, 384),
    (5, 512, 512, 3, 1, 32),
    (7, 1024, 1024, 3, 1, 32),
    (7, 440, 440, 3, 1, 55),
    (14, 512, 512, 3, 1, 32),
    (14, 208, 208, 3, 1, 26),
    (14, 888, 888, 3, 2, 37),
    (14, 2904, 2904, 3, 1, 11),
    (28, 104, 104, 3, 1, 13),
    (28, 256, 256, 3, 1, 32),
    (28, 512, 512, 3, 1, 4),
]
# The limits with which convolve.convolve computes in each way; None: XLA's own.
WAYS = {
    "XLA": None,
    "products": {"SMALL_MAP": np.inf, "FEW_ROWS": np.inf},
    "blocks": {"FEW_ROWS": 0},
}


def kind(channels: int, groups: int) -> str:
    if groups == 1:
        return "dense"
    return "depthwise" if groups == channels else "grouped"


def loss_and_gradients(way: str, size: int, stride: int, groups: int) -> Callable[..., object]:
    limits = WAYS[way]

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        with traced_for("any") if limits is None else mock.patch.multiple(convolve, **limits):
            y = convolve.convolve(
                x,
                kernel,
                stride=(stride, stride),
                padding=(size // 2, size // 2),
                dilation=(1, 1),
                groups=groups,
            )
        return (y**2).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def torchs_loss_and_gradients(
    x: jax.Array, kernel: jax.Array, stride: int, groups: int
) -> Callable[[], object]:
    import torch

    # Its layout is NCHW, in channels-last order as ours.
    images = torch.from_numpy(np.array(x)).permute(0, 3, 1, 2).requires_grad_()
    weights = torch.from_numpy(np.array(kernel)).permute(3, 2, 0, 1).contiguous().requires_grad_()
    padding = kernel.shape[0] // 2

    def run() -> object:
        y = torch.nn.convolve.conv2d(images, weights, None, stride, padding, groups=groups)
        return torch.autograd.grad((y**2).sum(), (images, weights))

    return run


def choice(image: int, channels: int, size: int, stride: int, groups: int, batch: int) -> str:
    """What ``convolve.convolve`` does on a CPU."""
    out = ((image - 1) // stride + 1) ** 2
    if groups == 1:
        return "products" if size == 1 or out <= convolve.SMALL_MAP else "XLA"
    if kind(channels, groups) == "depthwise" or batch * out <= convolve.FEW_ROWS:
        return "products"
    return "blocks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--torch", action="store_true", help="time PyTorch as well")
    parser.add_argument("--only", choices=("dense", "depthwise", "grouped"))
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.torch:  # its threads would spin beside XLA's
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    rng = np.random.default_rng(0)
    columns = [*WAYS, *["torch"] * arguments.torch]
    heads = " ".join(f"{column:>9}" for column in columns)
    print(f"{'milliseconds':40} {heads} {'compile':>8}  used")
    for image, channels, features, size, stride, groups in CASES:
        which = kind(channels, groups)
        if arguments.only not in (None, which):
            continue
        batch = 64 if groups == 1 else 8
        x = jnp.asarray(rng.standard_normal((batch, image, image, channels)), jnp.float32)
        shape = (size, size, channels // groups, features)
        kernel = jnp.asarray(rng.standard_normal(shape), jnp.float32)
        functions, compiled_in = {}, {}
        for way in WAYS:
            if way == "blocks" and which != "grouped":
                continue
            start = time.perf_counter()
            jitted = loss_and_gradients(way, size, stride, groups).lower(x, kernel).compile()
            compiled_in[way] = time.perf_counter() - start
            functions[way] = lambda jitted=jitted, x=x, kernel=kernel: jitted(x, kernel)
        if arguments.torch:
            functions["torch"] = torchs_loss_and_gradients(x, kernel, stride, groups)
        times: dict[str, list[float]] = {way: [] for way in functions}
        for repeat in range(arguments.repeats + 1):
            for way, function in functions.items():
                start = time.perf_counter()
                jax.block_until_ready(function())
                if repeat:  # the first call warms up
                    times[way].append(1e3 * (time.perf_counter() - start))
        medians = {way: statistics.median(taken) for way, taken in times.items()}
        used = choice(image, channels, size, stride, groups, batch)
        cells = " ".join(f"{medians[c]:9.2f}" if c in medians else " " * 9 for c in columns)
        name = f"{image}x{image}x{channels} to {features}, {size}x{size} / {stride}"
        name += {"dense": "", "depthwise": ", depthwise", "grouped": f", {groups} groups"}[which]
        print(f"{name:40} {cells} {compiled_in[used]:8.2f}  {used}", flush=True)


if __name__ == "__main__":
    main()
