"""A run begins with other weights: whose, and what stays as it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import convert, models
from jaxcnn.errors import UserError
from jaxcnn.training.initial import initialized_from
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import init_state


def state_of(model, *, seed: int = 0, channels: int = 3, size: int = 32):
    return init_state(model, sgd(0.1, momentum=0.9), (1, size, size, channels), seed=seed)


@pytest.fixture
def weights(tmp_path):
    """A file of a LeNet-5 of ten classes, and its parameters."""
    params = state_of(models.lenet5(), seed=1).params
    path = tmp_path / "lenet5.safetensors"
    convert.save_torch(path, {"params": params})
    return str(path), params


def test_all_parameters_are_the_files(weights):
    path, params = weights
    model = models.lenet5()
    state, other_heads = initialized_from(state_of(model), model, "lenet5", path)
    jax.tree.map(np.testing.assert_array_equal, state.params, params)
    assert other_heads == []
    assert state.step == 0


def test_a_head_of_another_number_of_classes_stays_as_it_is(weights):
    path, params = weights
    model = models.lenet5(num_classes=3)
    own = state_of(model)
    state, other_heads = initialized_from(own, model, "lenet5", path)
    assert other_heads == ["fc3"]
    for layer, leaves in state.params.items():
        source = own.params if layer == "fc3" else params
        jax.tree.map(np.testing.assert_array_equal, leaves, source[layer])


def test_statistics_come_too_and_half_precision_becomes_the_parameters(tmp_path):
    model = models.resnet18(num_classes=3)
    own = state_of(model)
    shifted = jax.tree.map(lambda leaf: jnp.float16(leaf + 1), own.variables)
    convert.save(tmp_path / "half.safetensors", shifted)
    path = str(tmp_path / "half.safetensors")
    state, _ = initialized_from(own, model, "resnet18", path)
    for ours, theirs in zip(
        jax.tree.leaves(state.variables), jax.tree.leaves(shifted), strict=True
    ):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("shape", [{"channels": 1}, {"size": 64}])
def test_weights_for_other_images_are_refused(weights, shape):
    model = models.lenet5()
    with pytest.raises(UserError, match=r"safetensors has params/.* where this network has"):
        initialized_from(state_of(model, **shape), model, "lenet5", weights[0])


def test_weights_of_another_network_are_refused(weights):
    model = models.resnet18()
    state = state_of(models.lenet5())
    with pytest.raises(UserError, match="not one of this ResNet"):
        initialized_from(state, model, "resnet18", weights[0])
