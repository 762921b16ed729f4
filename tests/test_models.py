"""The registry, and what every model promises."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision
from counting import multiply_adds
from flax import traverse_util

from jaxcnn import models
from jaxcnn.convert.state_dict import expected_torch_shapes
from jaxcnn.errors import UserError

# Arguments of every builder, not torchvision's.
OURS = {"dtype", "param_dtype", "weight_init", "axis_name"}


# Heads that torchvision leaves out of a network's published number of parameters.
AUXILIARY = {"googlenet": ("aux1", "aux2"), "googlenet_original": ("aux1", "aux2")}
# The smallest images that a network of each family takes.
SMALLEST = {
    "alexnet": 63,
    "convnext_tiny": 32,
    "densenet121": 29,
    "googlenet": 15,
    "inception_v3": 75,
    "squeezenet1_0": 21,
    "squeezenet1_1": 17,
    "vgg11": 32,
}
# Of those the ones that take long to trace.
DEEP = {"convnext_tiny", "densenet121", "inception_v3"}


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


def one_a_family_fast() -> list:
    """All models; those that are not the smallest of their family in the slow suite."""
    families = {models.model_info(name).family for name in models.list_models()}
    smallest = {
        min(models.list_models(family), key=lambda name: models.model_info(name).parameters)
        for family in families
    }
    return [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in smallest))
        for name in models.list_models()
    ]


def channels_of(name: str) -> int:
    return 1 if name == "lenet5" else 3  # as it was published


@pytest.mark.parametrize("name", one_a_family_fast())
def test_the_size_and_cost_in_model_info_are_the_networks(name):
    info, model = models.model_info(name), models.create_model(name)
    params = shapes(name, channels=channels_of(name))["params"]
    # As torchvision counts, and for training only.
    auxiliary = sum(count(params.get(head, {})) for head in AUXILIARY.get(name, ()))
    assert count(params) - auxiliary == info.parameters
    # torchvision publishes three digits after a thousand million.
    counted = multiply_adds(model, channels_of(name))
    assert counted == pytest.approx(info.multiply_adds, rel=0.001, abs=500_000)
    assert model.input_size == info.input_size


def test_list_models_gives_a_family():
    assert models.list_models(family="lenet") == ["lenet5"]
    assert {"resnet18", "resnext50_32x4d", "wide_resnet50_2"} < set(models.list_models("resnet"))
    families = {models.model_info(name).family for name in models.list_models()}
    members = [name for family in families for name in models.list_models(family)]
    assert sorted(members) == models.list_models()
    with pytest.raises(UserError, match="'resnets'; did you mean 'resnet'"):
        models.list_models(family="resnets")


def test_model_info_has_torchvisions_accuracy_and_the_paper():
    info = models.model_info("resnet18")
    assert (info.top1, info.top5) == (0.69758, 0.89078)
    assert info.paper.startswith("He et al. 2015")
    assert models.model_info("zfnet").top1 is None


def test_help_says_what_a_builder_is():
    assert "ResNet-18 (He et al. 2015" in models.resnet18.__doc__
    assert "11,689,512 parameters" in models.resnet18.__doc__


@pytest.mark.parametrize("name", one_a_family_fast())
def test_input_channels_follow_the_input_and_classes_the_argument(name):
    params = shapes(name, channels=5, num_classes=7)["params"]
    flat = traverse_util.flatten_dict(params, sep=".")
    first = f"{models.create_model(name).first_conv}.kernel"
    assert flat[first].shape[2] == 5
    assert [leaf.shape for path, leaf in flat.items() if leaf.shape == (7,)]


@pytest.mark.parametrize(
    ("name", "smallest"),
    [
        pytest.param(*case, marks=[pytest.mark.slow] * (case[0] in DEEP))
        for case in sorted(SMALLEST.items())
    ],
)
def test_an_image_too_small_is_told_the_smallest_size_that_works(name, smallest):
    model = models.create_model(name, num_classes=5)
    key = jax.random.key(0)
    images = jnp.zeros((2, smallest, smallest, 3))
    variables = jax.eval_shape(model.init, key, images)
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 5)
    with pytest.raises(UserError, match=f"too small.*works from {smallest}x{smallest}"):
        jax.eval_shape(model.apply, variables, images[:, 1:])
    with pytest.raises(UserError, match=f"too small.*works from {smallest}x{smallest}"):
        jax.eval_shape(model.init, key, images[:, 1:])


def test_variables_of_another_network_are_refused():
    variables = models.lenet5().init(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    with pytest.raises(UserError, match="not of this LeNet5.*kernel"):
        models.lenet5().apply(variables, jnp.zeros((1, 32, 32, 3)))


def test_images_must_have_four_axes():
    with pytest.raises(UserError, match=r"must be \[N, H, W, C\].*\(32, 32, 3\)"):
        models.lenet5().init(jax.random.key(0), jnp.zeros((32, 32, 3)))


def test_builders_have_torchvisions_arguments_and_defaults():
    theirs = inspect.signature(torchvision.models.ResNet).parameters
    ours = inspect.signature(models.resnet50).parameters
    expected = {n: p.default for n, p in theirs.items() if n not in ("block", "layers")}
    assert {n: p.default for n, p in ours.items() if n not in OURS} == expected


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        models.create_model("resnet_50")


def test_a_wrong_argument_is_named_with_those_that_are_right():
    with pytest.raises(UserError, match="resnet18.*'num_class'; it takes.*num_classes"):
        models.resnet18(num_class=10)


def test_lists_do_as_arguments():
    model = models.resnet50(replace_stride_with_dilation=[False, True, True])
    assert hash(model) == hash(models.resnet50(replace_stride_with_dilation=(False, True, True)))


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_dropout_that_is_no_probability_is_refused(rate):
    with pytest.raises(UserError, match="a probability, 0 to 1, but is"):
        shapes("alexnet", dropout=rate)


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


@pytest.mark.parametrize("name", models.list_models())
def test_declared_classifier_layers_are_those_that_depend_on_the_classes(name):
    def kernels(num_classes: int) -> dict[str, tuple[int, ...]]:
        shapes = expected_torch_shapes(models.create_model(name, num_classes=num_classes))
        return {key: shape for key, shape in shapes.items() if key.endswith(".weight")}

    ten, eleven = kernels(10), kernels(11)
    layers = {key.removesuffix(".weight") for key in ten if ten[key] != eleven[key]}
    model = models.create_model(name)
    assert set(model.classifier) == layers
    assert ten[f"{model.classifier[0]}.weight"][0] == 10
