"""``--debug_nans``: the first layer whose output is not finite."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from tiny import TinyNet

from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.training import devices
from jaxcnn.training.debugging import debugged, first_nonfinite
from jaxcnn.training.step import init_state, make_train_step


def batch() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    images = random.standard_normal((8, 8, 8, 1)).astype(np.float32)
    return {"image": images, "label": random.integers(0, 10, 8).astype(np.int32)}


class Overflow(nn.Module):
    """Makes the values of a device infinite: those of batches whose first value is large."""

    @nn.compact
    def __call__(self, x, train: bool = False):
        return jnp.where(x.max() > 1e6, x * 1e38, x)


class Nested(TinyNet, kw_only=True):
    """A layer within a block, behind others."""

    @nn.compact
    def forward(self, x, train=False):
        x = layers.Conv(8, 3, name="conv1")(x)
        block = layers.Sequential([functools.partial(layers.Conv, 8, 1), Overflow], name="block")
        x = block(x, train)
        return layers.Linear(10, name="fc")(x.mean((1, 2)))


def message(model, data, parts: int = 1) -> str:
    step = make_train_step(model, optax.sgd(0.1), accumulate_steps=parts)
    state = devices.replicate(init_state(model, optax.sgd(0.1), (1, 8, 8, 1)))
    with pytest.raises(UserError) as error:
        debugged(step)(state, devices.split(data))
    return str(error.value)


@pytest.mark.parametrize("parts", [1, 2])
def test_first_layer_that_overflows_is_named_with_its_device(parts):
    data = batch()
    data["image"][5] *= 1e9  # of the third of four devices
    assert message(Nested(), data, parts) == (
        "Step 1: the output of block.1 is not finite on device 2 of 4. Everything that is computed "
        "before it is finite (--debug_nans)."
    )


def test_images_that_are_nan_are_named():
    data = batch()
    data["image"][0, 0, 0, 0] = np.nan
    words = "Step 1: input (the images, augmented and normalized) is not finite on device 0 of 4."
    assert message(TinyNet(), data).startswith(words)


def test_parameter_that_was_nan_before_is_named():
    model = TinyNet()
    state = init_state(model, optax.sgd(0.1), (1, 8, 8, 1))
    state.params["conv2"]["kernel"] = state.params["conv2"]["kernel"].at[0].set(jnp.nan)
    step = make_train_step(model, optax.sgd(0.1))
    first = first_nonfinite(step, devices.replicate(state), devices.split(batch()))
    assert first == "params.conv2.kernel was not finite before the step"


class Root(TinyNet, kw_only=True):
    """With an infinite gradient where its outputs are finite."""

    @nn.compact
    def forward(self, x, train=False):
        x = layers.Conv(10, 3, name="conv1")(x)
        weights = self.param("weights", nn.initializers.zeros, (10,))
        return layers.Linear(10, name="fc")(x.mean((1, 2)) + jnp.sqrt(weights))


def test_update_that_is_infinite_while_all_outputs_are_finite_is_named():
    words = "Step 1: the update of params.weights is not finite, though every layer's output is. "
    assert message(Root(), batch()).startswith(words)


def test_finite_step_is_the_plain_one():
    step = make_train_step(TinyNet(), optax.sgd(0.1))
    state = devices.replicate(init_state(TinyNet(), optax.sgd(0.1), (1, 8, 8, 1)))
    data = devices.split(batch())
    results = debugged(step)(state, data), devices.pmap(step)(state, data)
    jax.tree.map(np.testing.assert_array_equal, *results)
