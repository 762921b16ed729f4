"""The receptive fields of a network, measured: where the gradient of a unit is not zero."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util


def positive_variables(model, images: jax.Array):
    """Values with which every path through the network has a gradient that is not zero.

    Kernels are positive, so that no two paths cancel, and keep activations as small as the images,
    where no activation is saturated.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)

    def value(path: tuple[str, ...], leaf) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(".".join(path).encode()))
        if path[-1] == "kernel":
            drawn = rng.lognormal(sigma=1.5, size=leaf.shape)
            return drawn / drawn.sum(axis=tuple(range(leaf.ndim - 1)), keepdims=True)
        if path[-1] in ("mean", "bias"):
            return np.zeros(leaf.shape)
        # Not all equal: the sum over the channels of a layer norm would be constant.
        return rng.uniform(0.5, 1.5, leaf.shape)

    flat = traverse_util.flatten_dict(shapes)
    return traverse_util.unflatten_dict({path: value(path, leaf) for path, leaf in flat.items()})


def measured_pixels(
    model, size: tuple[int, int], paths: list[str], images: int
) -> dict[str, tuple[range, range]]:
    """What the middle unit of some layers sees, over all channels and some random images.

    Max pooling has a gradient where the maximum is, so that it takes several images to find all.

    Returns:
        For each path two ranges of pixels, of height and of width.
    """
    with jax.enable_x64(True):
        x = 1e-6 * jax.random.exponential(jax.random.key(0), (images, *size, 3), jnp.float64)
        model = model.clone(param_dtype=jnp.float64)
        variables = positive_variables(model, x)
        gradients = jax.jit(functools.partial(_gradients, model, tuple(paths)))(variables, x)
        nonzero = np.asarray(gradients != 0).any(axis=(1, 4))  # [paths, H, W]
    return {
        path: tuple(_extent(used.any(axis)) for axis in (1, 0))
        for path, used in zip(paths, nonzero, strict=True)
    }


def _gradients(model, paths: tuple[str, ...], variables, x: jax.Array) -> jax.Array:
    def units(x: jax.Array) -> jax.Array:
        _, state = model.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
        outputs = traverse_util.flatten_dict(state["intermediates"], sep=".")
        return jnp.stack([_middle(outputs[f"{path}.__call__"][0]) for path in paths])

    _, pull_back = jax.vjp(units, x)
    return jax.vmap(lambda one: pull_back(one)[0])(jnp.eye(len(paths), dtype=x.dtype))


def _middle(output: jax.Array) -> jax.Array:
    if output.ndim == 4:
        output = output[:, output.shape[1] // 2, output.shape[2] // 2]
    return output.sum()


def _extent(used: np.ndarray) -> range:
    places = np.flatnonzero(used)
    return range(int(places[0]), int(places[-1]) + 1)
