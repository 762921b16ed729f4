"""The registry, and what every model promises."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision
from flax import traverse_util

from jaxcnn import models
from jaxcnn.errors import UserError


def shapes(name: str, channels: int = 3, **kwargs):
    model = models.create_model(name, **kwargs)
    images = jax.ShapeDtypeStruct((1, model.input_size, model.input_size, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)


def count(params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def test_list_models_is_sorted_and_each_name_is_a_builder():
    names = models.list_models()
    assert names == sorted(names)
    for name in names:
        model, same = models.create_model(name), getattr(models, name)()
        assert type(model) is type(same)
        assert model.num_classes == (10 if name == "lenet5" else 1000)


def test_lenet5_has_the_papers_size():
    assert count(shapes("lenet5", channels=1)["params"]) == 61_706


@pytest.mark.parametrize("name", [n for n in models.list_models() if n != "lenet5"])
def test_sizes_are_the_published_ones(name):
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert count(shapes(name)["params"]) == weights.meta["num_params"]


@pytest.mark.parametrize("name", models.list_models())
def test_input_channels_follow_the_input_and_classes_the_argument(name):
    params = shapes(name, channels=5, num_classes=7)["params"]
    flat = traverse_util.flatten_dict(params, sep=".")
    stem = f"{models.create_model(name).stem}.kernel"
    assert flat[stem].shape[2] == 5
    assert [leaf.shape for path, leaf in flat.items() if leaf.shape == (7,)]


def test_builders_have_torchvisions_arguments_and_defaults():
    theirs = inspect.signature(torchvision.models.ResNet).parameters
    ours = inspect.signature(models.resnet50).parameters
    expected = {n: p.default for n, p in theirs.items() if n not in ("block", "layers")}
    assert {n: p.default for n, p in ours.items() if n not in ("dtype", "param_dtype")} == expected


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        models.create_model("resnet_50")


def test_a_wrong_argument_is_named_with_those_that_are_right():
    with pytest.raises(UserError, match="resnet18.*'num_class'; it takes.*num_classes"):
        models.resnet18(num_class=10)


def test_what_makes_the_variant_is_not_open():
    with pytest.raises(UserError, match="'groups'.*it is 32 in resnext50_32x4d"):
        models.resnext50_32x4d(groups=16)


def test_dilation_needs_three_booleans():
    with pytest.raises(UserError, match="three booleans"):
        shapes("resnet50", replace_stride_with_dilation=(True,))


def test_basic_blocks_refuse_what_torchvision_refuses():
    with pytest.raises(UserError, match="basic blocks"):
        shapes("resnet18", width_per_group=128)


def test_dtype_is_of_the_computation_and_param_dtype_of_the_variables():
    model = models.resnet18(num_classes=3, dtype="bfloat16")
    images = jnp.ones((2, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = jax.jit(model.apply)(variables, images)
    assert logits.dtype == jnp.bfloat16
    exact = jax.jit(models.resnet18(num_classes=3).apply)(variables, images)
    np.testing.assert_allclose(logits, exact, rtol=0.1, atol=0.05)


def test_training_changes_the_statistics_and_evaluation_needs_no_flag():
    model = models.resnet18(num_classes=3)
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    logits, new = jax.jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(
        variables, images
    )
    assert logits.shape == (2, 3)
    changed = jax.tree.map(
        lambda old, new: bool((old != new).any()), variables["batch_stats"], new["batch_stats"]
    )
    assert all(jax.tree.leaves(changed))


def test_feature_maps_of_the_stages_can_be_captured():
    model = models.resnet18()
    images = jnp.ones((1, 64, 64, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images)
    _, captured = jax.jit(
        lambda v, x: model.apply(
            v, x, capture_intermediates=lambda module, _: module.name in ("layer1", "layer4")
        )
    )(variables, images)
    maps = captured["intermediates"]
    assert maps["layer1"]["__call__"][0].shape == (1, 16, 16, 64)
    assert maps["layer4"]["__call__"][0].shape == (1, 2, 2, 512)
