"""Computations whose right results are known, to be run on every device.

The results, ``known_answers.json``, were computed by PyTorch in float64; ``python
tests/known_answers.py`` writes the file, and a test compares the two. The inputs follow from
formulas in integers, so that they depend on no random generator, and float32 holds them exactly.

Most maps here have more than 32,768 rows (pixels), because compilers have failed at such sizes:
jaxlib 0.10.2 from 16,384 float64 or 32,768 float32 rows. In float64 most products and sums of
these inputs are exact, so that errors of 0 are no surprise.
"""

import dataclasses
import functools
import importlib.resources
import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import (
    BatchNorm,
    Conv,
    Linear,
    Module,
    adaptive_avg_pool,
    flatten,
    max_pool,
)
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import TrainState, make_train_step, normalizer

Arrays = Mapping[str, Any]

# Numbers kept per result; a larger array is reduced to as many weighted sums.
DIGEST_SIZE = 32
# Height and width of the feature maps: 33,124 pixels.
SIZE = 182
CHANNELS = 8
# Arguments of the convolutions, besides the number of output channels.
CONVOLUTIONS: dict[str, dict[str, int]] = {
    "dense": {"kernel_size": 3, "padding": 1},
    "1x1": {"kernel_size": 1},
    "strided": {"kernel_size": 3, "padding": 1, "stride": 2},
    "dilated": {"kernel_size": 3, "padding": 2, "dilation": 2},
    "grouped": {"kernel_size": 3, "padding": 1, "groups": 4},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": CHANNELS},
}
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.5, 0.9, 0.01
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


@dataclasses.dataclass(frozen=True)
class Check:
    """One computation.

    Attributes:
        name: what it is, for people; also its key in the file of results.
        compute: a function of ``inputs`` that is compiled as a whole.
        inputs: host arrays; floats are float64.
    """

    name: str
    compute: Callable[[Any], Arrays]
    inputs: Any

    def relative_error(self, device: jax.Device, dtype: str) -> float:
        """Run the computation and compare its results with the known ones.

        Args:
            device: where it runs.
            dtype: of all floats, ``"float32"`` or ``"float64"``.

        Returns:
            ``max|a - b| / max|b|`` of the worst result; NaN if one has NaNs.
        """

        def cast(array: np.ndarray) -> np.ndarray:
            return array.astype(dtype) if array.dtype == np.float64 else array

        with (
            jax.default_device(device),
            jax.default_matmul_precision("highest"),  # not TF32 or bfloat16
            jax.enable_x64(dtype == "float64"),
        ):
            inputs = jax.device_put(jax.tree.map(cast, self.inputs), device)
            results = jax.device_get(jax.jit(self.compute)(inputs))
        errors = [
            np.max(np.abs(digest(results[name]) - right)) / np.max(np.abs(right))
            for name, right in known_results()[self.name].items()
        ]
        return float(np.max(errors))  # not max(), which may ignore NaN


def numbers(*shape: int, seed: int) -> np.ndarray:
    """Odd multiples of 2^-16 in (-1, 1), float64, by a formula; they look random, none is 0."""
    i = np.arange(np.prod(shape), dtype=np.int64) + 1_000_003 * seed
    residues = (31 * i * i + 17 * i) % 65_521
    return (2 * residues + 1).reshape(shape) / 65_536 - 1


def digest(array: np.ndarray) -> np.ndarray:
    """At most ``DIGEST_SIZE`` float64 numbers to which every element of an array contributes."""
    flat = np.asarray(array, np.float64).ravel()
    if flat.size <= DIGEST_SIZE:
        return flat
    bins = np.arange(flat.size) % DIGEST_SIZE
    return np.bincount(bins, weights=flat * numbers(flat.size, seed=99))


@functools.cache
def known_results() -> dict[str, dict[str, np.ndarray]]:
    """The digests of the right results, by the check's name and the result's."""
    text = importlib.resources.files(__package__).joinpath("known_answers.json").read_text()
    return {
        check: {name: np.array(values) for name, values in results.items()}
        for check, results in json.loads(text).items()
    }


def checks() -> list[Check]:
    """All computations, the most telling first."""
    return [
        # https://github.com/jax-ml/jax/issues/39103; the last square is 32,768^2 = 1,073,741,824.
        Check(
            "products and sums, 32,769 rows",
            lambda x: _squares(jnp.eye(3), x),
            np.arange(32_769.0)[:, None] * [1.0, 0.0, 0.0],
        ),
        Check(
            "products and sums, 100,000 rows",
            lambda inputs: _squares(inputs["matrix"], inputs["rows"]),
            {"rows": numbers(100_000, 3, seed=1), "matrix": numbers(3, 3, seed=2)},
        ),
        Check("reductions, 50,000 rows", _reductions, numbers(50_000, 16, seed=3)),
        _layer_check("linear, 40,000 rows", Linear(12), numbers(40_000, CHANNELS, seed=4)),
        *(convolution(name) for name in CONVOLUTIONS),
        _layer_check("batch norm", BatchNorm(), _feature_map()),
        Check("training step", _training_step, step_inputs()),
    ]


def _feature_map() -> np.ndarray:
    return numbers(1, SIZE, SIZE, CHANNELS, seed=5)


def _squares(matrix: jax.Array, rows: jax.Array) -> Arrays:
    """Squared length of the product of a matrix and each row, and that of the last row."""
    squares = jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)
    return {"squares": squares, "last square": squares[-1]}


def _reductions(x: jax.Array) -> Arrays:
    return {
        "sum": jnp.sum(x, axis=0),
        "largest": jnp.max(x, axis=0),
        "variance": jnp.var(x, axis=0),
        "log-sum-exp": jax.nn.logsumexp(x, axis=0),
        "sum of squares": jnp.sum(x * x),
        "products": x.T @ x,
    }


def convolution(name: str) -> Check:
    """The check of one of :data:`CONVOLUTIONS`."""
    layer = Conv(CHANNELS, **CONVOLUTIONS[name])
    return _layer_check(f"convolution, {name}", layer, _feature_map())


def _layer_check(name: str, layer: Module, x: np.ndarray) -> Check:
    """A layer in training mode: output, gradients for a given output gradient, statistics."""
    variables = initial_variables(layer, x)
    gradient = numbers(*jax.eval_shape(_apply(layer), variables, x)[0].shape, seed=6)

    def compute(inputs: Arrays) -> Arrays:
        variables, x, gradient = inputs["variables"], inputs["x"], inputs["gradient"]
        statistics = variables.get("batch_stats", {})

        def forward(params: Arrays, x: jax.Array) -> tuple[jax.Array, Arrays]:
            return _apply(layer)({"params": params, "batch_stats": statistics}, x)

        y, pull_back, new = jax.vjp(forward, variables["params"], x, has_aux=True)
        params_gradient, x_gradient = pull_back(gradient)
        named = {f"gradient of {leaf}": value for leaf, value in params_gradient.items()}
        return {"output": y, "gradient of the input": x_gradient, **named} | new.get(
            "batch_stats", {}
        )

    return Check(name, compute, {"variables": variables, "x": x, "gradient": gradient})


def _apply(layer: nn.Module) -> Callable[..., tuple[jax.Array, Arrays]]:
    return functools.partial(layer.apply, train=True, mutable=["batch_stats"])


def initial_variables(module: nn.Module, x: np.ndarray) -> dict[str, Any]:
    """Variables of a module by formula: scales and variances in 0.5 to 1.5, others around 0."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    shapes = traverse_util.flatten_dict(jax.eval_shape(module.init, key, x))
    values = {}
    for seed, (path, leaf) in enumerate(sorted(shapes.items())):
        values[path] = numbers(*leaf.shape, seed=10 + seed) / 2
        if path[-1] in ("scale", "var"):
            values[path] += 1
    return traverse_util.unflatten_dict(values)


class SmallNetwork(Classifier):
    """Convolutions, dense and grouped, batch norms, pooling and a linear layer."""

    first_conv: ClassVar[str] = "conv1"
    classifier: ClassVar[tuple[str, ...]] = ("fc",)

    num_classes: int = 10
    input_size: int = 66

    @nn.compact
    def forward(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Maps ``[N, H, W, 3]`` to ``[N, num_classes]``."""
        x = Conv(CHANNELS, 3, padding=1, use_bias=False, name="conv1")(x)
        x = max_pool(nn.relu(BatchNorm(name="bn1")(x, train)), 3, 2, 1)
        x = Conv(2 * CHANNELS, 3, padding=1, groups=4, use_bias=False, name="conv2")(x)
        x = nn.relu(BatchNorm(name="bn2")(x, train))
        return Linear(self.num_classes, name="fc")(flatten(adaptive_avg_pool(x, 1)))


def step_inputs() -> dict[str, Any]:
    """The network's variables and a batch of 8 images of 66x66 pixels (34,848 rows), 0 to 1."""
    network = SmallNetwork()
    images = (numbers(8, network.input_size, network.input_size, 3, seed=7) + 1) / 2
    return {
        "variables": initial_variables(network, images),
        "batch": {"image": images, "label": np.arange(8, dtype=np.int32)},
    }


def _training_step(inputs: Arrays) -> Arrays:
    optimizer = sgd(LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    step = make_train_step(SmallNetwork(), optimizer, normalize=normalizer(MEAN, STD))
    variables = inputs["variables"]
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
    )
    state, metrics = step(state, inputs["batch"], axis_name=None)
    leaves = traverse_util.flatten_dict(state.variables, sep=".")
    return {"loss": metrics["loss"], **leaves}
