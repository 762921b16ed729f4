"""Convolution on a CPU: XLA's own against products of patches, and where each is used.

    python benchmarks/convolution.py

Times the forward pass and both gradients of single layers of a ResNet at batch 64, and of
depthwise ones of MobileNets, EfficientNets and ConvNeXts at batch 8, in one process, alternating,
medians. "speedup" is XLA's time over the patches' time; "used" is what ``jaxcnn.models.layers``
chooses.
"""

import statistics
import time
from collections.abc import Callable
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.models.layers import convolution

REPEATS = 7
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
]


def loss_and_gradients(size: int, stride: int, groups: int, patches: bool) -> Callable[..., object]:
    def convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
        backend = "cpu" if patches else "other"
        with (
            mock.patch.object(jax, "default_backend", lambda: backend),
            mock.patch.object(convolution, "SMALL_MAP", np.inf),
        ):
            return convolution.convolve(
                x,
                kernel,
                stride=(stride, stride),
                padding=(size // 2, size // 2),
                dilation=(1, 1),
                groups=groups,
            )

    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return (convolve(x, kernel) ** 2).sum()

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def main() -> None:
    rng = np.random.default_rng(0)
    print(f"{'layer':40} {'XLA ms':>8} {'patches ms':>10} {'speedup':>8}  used")
    for image, channels, features, size, stride, groups in CASES:
        batch = 64 if groups == 1 else 8
        x = jnp.asarray(rng.standard_normal((batch, image, image, channels)), jnp.float32)
        shape = (size, size, channels // groups, features)
        kernel = jnp.asarray(rng.standard_normal(shape), jnp.float32)
        functions = [loss_and_gradients(size, stride, groups, patches) for patches in (False, True)]
        times: list[list[float]] = [[], []]
        for repeat in range(REPEATS + 1):
            for function, taken in zip(functions, times, strict=True):
                start = time.perf_counter()
                jax.block_until_ready(function(x, kernel))
                if repeat:  # the first call compiles
                    taken.append(time.perf_counter() - start)
        xla, patches = (1e3 * statistics.median(taken) for taken in times)
        out = (image - 1) // stride + 1
        small = size == 1 or groups > 1 or out * out <= convolution.SMALL_MAP
        used = "patches" if small else "XLA"
        name = f"{image}x{image}x{channels} to {features}, {size}x{size} / {stride}"
        name += " depthwise" * (groups > 1)
        print(f"{name:40} {xla:8.2f} {patches:10.2f} {xla / patches:8.2f}  {used}")


if __name__ == "__main__":
    main()
