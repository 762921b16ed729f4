"""What layers compile to is right for many rows, on this release of JAX too.

jaxlib 0.10.2 silently computes wrong sums on a CPU, under jit, for more than 16,384 float64 or
32,768 float32 rows. Here are the reductions, products and gradients that layers compile to, on
20,000 to 100,000 rows, against NumPy in float64. This file needs JAX, NumPy and the layers only.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.models import layers
from jaxcnn.models.layers.convolve import convolve

ROWS = (20_001, 40_000, 100_000)
DTYPES = (np.float32, np.float64)
# Of max |a - b| / max |b|. Sums of 100,000 rows in float32 are up to 2e-5 off; what the fault makes
# of a row is wrong by 0.8% and more.
TOLERANCE = {np.float32: 1e-4, np.float64: 1e-12}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Normal noise around 1, so that no sum is near zero."""
    return 1 + np.random.default_rng(seed).standard_normal(shape)


def assert_jitted_equals(
    function: Callable[..., object],
    reference: Callable[..., object],
    arrays: tuple[np.ndarray, ...],
    dtype: type[np.floating],
) -> None:
    """Compare a jitted function of arrays in ``dtype`` with NumPy's in float64, leaf by leaf."""
    arrays = tuple(a.astype(dtype) if a.dtype == np.float64 else a for a in arrays)
    actual = jax.tree.leaves(jax.jit(function)(*arrays))
    wide = (a.astype(np.float64) if a.dtype == np.float32 else a for a in arrays)
    expected = jax.tree.leaves(reference(*wide))
    assert len(actual) == len(expected)
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == dtype and a.shape == np.shape(b)
        error = np.abs(np.asarray(a, np.float64) - b).max() / np.abs(b).max()
        assert error <= TOLERANCE[dtype], error


many_rows = pytest.mark.parametrize("rows", ROWS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


# Each is compiled alone: with a second result the fault of 0.10.2 hides.
REDUCTIONS = {
    # The reproducer of https://github.com/jax-ml/jax/issues/39103.
    "squared norm of products": (
        lambda x: jax.vmap(lambda row: jnp.sum((jnp.eye(3, dtype=x.dtype) @ row) ** 2))(x),
        lambda x: (x**2).sum(1),
    ),
    "sum of squared products": (
        lambda x: jnp.sum((x @ jnp.eye(3, dtype=x.dtype)) ** 2),
        lambda x: (x**2).sum(),
    ),
    "mean of products": (
        lambda x: (x @ jnp.eye(3, dtype=x.dtype)).mean(0),
        lambda x: x.mean(0),
    ),
    "sum of columns": (lambda x: x.sum(0), lambda x: x.sum(0)),
    "sum of rows": (lambda x: x.sum(1), lambda x: x.sum(1)),
    "variance": (lambda x: ((x - x.mean(0)) ** 2).mean(0), lambda x: x.var(0)),
    "maximum": (lambda x: x.max(0), lambda x: x.max(0)),
}


@many_rows
@each_dtype
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_of_rows(name, rows, dtype):
    function, reference = REDUCTIONS[name]
    assert_jitted_equals(function, reference, (random(rows, 3),), dtype)


@many_rows
@each_dtype
def test_dense_layer_and_gradients(rows, dtype):
    """Products of few and many columns, biases, and what the loss sends back."""

    def loss(x, kernel, bias):
        y = x @ kernel + bias
        return jnp.sum(y**2) / len(x)

    def reference(x, kernel, bias):
        y = x @ kernel + bias
        dy = 2 * y / len(x)
        return np.sum(y**2) / len(x), (dy @ kernel.T, x.T @ dy, dy.sum(0))

    for width in (3, 24):
        arrays = (random(rows, width), random(width, 5, seed=1), random(5, seed=2))
        assert_jitted_equals(jax.value_and_grad(loss, (0, 1, 2)), reference, arrays, dtype)


@many_rows
@each_dtype
def test_softmax_cross_entropy_and_gradient(rows, dtype):
    def loss(logits, labels):
        log_p = jax.nn.log_softmax(logits)
        return -jnp.take_along_axis(log_p, labels[:, None], 1).mean()

    def reference(logits, labels):
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        one_hot = np.eye(logits.shape[1])[labels]
        return -np.log((p * one_hot).sum(1)).mean(), (p - one_hot) / len(p)

    labels = np.random.default_rng(1).integers(0, 10, rows)
    arrays = (random(rows, 10), labels)
    assert_jitted_equals(jax.value_and_grad(loss), reference, arrays, dtype)


# [N, H, W, C], whose product N * H * W is more than 16,384 and 32,768.
MAPS = [(2, 112, 112, 4), (3, 112, 112, 3)]
each_map = pytest.mark.parametrize("shape", MAPS)


@each_map
@each_dtype
def test_batch_norm_and_gradients(shape, dtype):
    """Output, running statistics and gradients of ``layers.BatchNorm`` in training."""
    norm = layers.BatchNorm(param_dtype=dtype)
    channels, epsilon = shape[-1], norm.eps

    def loss(x, scale, bias, weights):
        variables = {
            "params": {"scale": scale, "bias": bias},
            "batch_stats": {
                "mean": jnp.zeros(channels, x.dtype),
                "var": jnp.ones(channels, x.dtype),
            },
        }
        y, new = norm.apply(variables, x, train=True, mutable=["batch_stats"])
        return jnp.sum(weights * y), (y, new["batch_stats"]["mean"], new["batch_stats"]["var"])

    def ours(x, scale, bias, weights):
        (_, outputs), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(
            x, scale, bias, weights
        )
        return outputs, gradients

    def reference(x, scale, bias, weights):
        rows, dy = x.reshape(-1, channels), weights.reshape(-1, channels)
        count, mean, var = len(rows), rows.mean(0), rows.var(0)
        normal = (rows - mean) / np.sqrt(var + epsilon)
        y = normal * scale + bias
        dx = dy - dy.mean(0) - normal * (dy * normal).mean(0)
        dx *= scale / np.sqrt(var + epsilon)
        running = 0.1 * mean, 0.9 + 0.1 * var * count / (count - 1)
        gradients = dx.reshape(x.shape), (dy * normal).sum(0), dy.sum(0)
        return (y.reshape(x.shape), *running), gradients

    arrays = (random(*shape), random(channels, seed=1), random(channels, seed=2))
    assert_jitted_equals(ours, reference, (*arrays, random(*shape, seed=3)), dtype)


@pytest.mark.parametrize(
    ("groups", "features", "size"),
    [(1, 5, 3), (1, 5, 1), (2, 6, 3), (12, 12, 3)],
    ids=["dense", "1x1", "grouped", "depthwise"],
)
@each_dtype
def test_convolution_and_gradients(groups, features, size, dtype):
    """Outputs, bias gradients, and the kernel's, each a sum over 25,088 places."""
    shape, padding = (2, 112, 112, 12), size // 2

    def loss(x, kernel, bias, weights):
        y = bias + convolve(
            x,
            kernel,
            stride=(1, 1),
            padding=(padding, padding),
            dilation=(1, 1),
            groups=groups,
        )
        return jnp.sum(weights * y), y

    def ours(*arrays):
        (_, y), gradients = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(*arrays)
        return y, gradients

    def reference(x, kernel, bias, weights):
        """A sum over the kernel's places, with a block-diagonal kernel for the groups."""
        own = np.eye(groups)[:, None, :, None]
        dense = kernel.reshape(size, size, 1, -1, groups, features // groups) * own
        dense = dense.reshape(size, size, shape[-1], features)
        around = ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0))
        padded, y = np.pad(x, around), np.zeros(weights.shape) + bias
        dx, d_dense = np.zeros(padded.shape), np.zeros(dense.shape)
        for i, j in np.ndindex(size, size):
            place = (slice(None), slice(i, i + shape[1]), slice(j, j + shape[2]))
            y += padded[place] @ dense[i, j]
            dx[place] += weights @ dense[i, j].T
            d_dense[i, j] = np.tensordot(padded[place], weights, ((0, 1, 2),) * 2)
        dx = dx[:, padding : padding + shape[1], padding : padding + shape[2]]
        blocks = d_dense.reshape(size, size, groups, -1, groups, features // groups)
        d_kernel = np.stack([blocks[:, :, g, :, g] for g in range(groups)], 3)
        return y, (dx, d_kernel.reshape(kernel.shape), weights.sum((0, 1, 2)))

    kernel = random(size, size, shape[-1] // groups, features, seed=1)
    weights = random(*shape[:3], features, seed=3)
    arrays = (random(*shape), kernel, random(features, seed=2), weights)
    assert_jitted_equals(ours, reference, arrays, dtype)
