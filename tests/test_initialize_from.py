"""Weights replace a model's initial variables, except for a head of another size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import convert, models
from jaxcnn.convert import initialize_from
from jaxcnn.errors import UserError


def random_variables(model, *, seed: int = 0, channels: int = 3, size: int = 32):
    images = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)


@pytest.fixture
def weights(tmp_path):
    """A file with the weights of a LeNet-5 with ten classes, and its parameters."""
    variables = random_variables(models.lenet5(), seed=1)
    path = tmp_path / "lenet5.safetensors"
    convert.save_torch(path, variables)
    return str(path), variables["params"]


def test_all_parameters_come_from_the_file(weights):
    path, params = weights
    model = models.lenet5()
    variables, reinitialized = initialize_from(random_variables(model), model, "lenet5", path)
    jax.tree.map(np.testing.assert_array_equal, variables, {"params": params})
    assert reinitialized == []


def test_head_of_another_size_keeps_its_initial_values(weights):
    path, params = weights
    model = models.lenet5(num_classes=3)
    own = random_variables(model)
    variables, reinitialized = initialize_from(own, model, "lenet5", path)
    assert reinitialized == ["fc3"]
    for layer, leaves in variables["params"].items():
        source = own["params"] if layer == "fc3" else params
        jax.tree.map(np.testing.assert_array_equal, leaves, source[layer])


def test_statistics_are_loaded_and_dtypes_kept(tmp_path):
    model = models.resnet18(num_classes=3)
    own = random_variables(model)
    shifted = jax.tree.map(lambda leaf: np.float16(leaf + 1), own)
    convert.save(tmp_path / "half.safetensors", shifted)
    path = str(tmp_path / "half.safetensors")
    variables, _ = initialize_from(own, model, "resnet18", path)
    assert variables["batch_stats"]
    for ours, theirs in zip(jax.tree.leaves(variables), jax.tree.leaves(shifted), strict=True):
        assert ours.dtype == jnp.float32
        np.testing.assert_array_equal(ours, theirs)


def test_auxiliary_heads_are_dropped_for_a_model_without_them(tmp_path):
    path = tmp_path / "googlenet.safetensors"
    arguments = {"num_classes": 5, "transform_input": False}
    with_heads = models.googlenet(aux_logits=True, **arguments)
    weights = random_variables(with_heads, seed=1, size=224)
    convert.save_torch(path, weights)
    model = models.googlenet(aux_logits=False, **arguments)
    variables, reinitialized = initialize_from(
        random_variables(model, size=224), model, "googlenet", path
    )
    assert reinitialized == [] and "aux1" in weights["params"]
    assert "aux1" not in variables["params"]
    loaded, _ = convert.load_pretrained("googlenet", path, aux_logits=False)
    assert loaded == models.googlenet(aux_logits=False, num_classes=5)


@pytest.mark.parametrize("shape", [{"channels": 1}, {"size": 64}])
def test_weights_for_other_images_raise(weights, shape):
    model = models.lenet5()
    with pytest.raises(UserError, match=r"safetensors has params/.* where this network has"):
        initialize_from(random_variables(model, **shape), model, "lenet5", weights[0])


def test_weights_of_another_network_raise(weights):
    model = models.resnet18()
    with pytest.raises(UserError, match="does not fit this ResNet"):
        initialize_from(random_variables(models.lenet5()), model, "resnet18", weights[0])
