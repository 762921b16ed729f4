"""The registry, and what all networks have in common."""

import functools
import inspect
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision
from flax import traverse_util
from smallest import smallest_of_families
from tiers import tiers

from jaxcnn import models
from jaxcnn.convert.state_dict import expected_torch_shapes
from jaxcnn.errors import UserError
from jaxcnn.models.classifier import check_image_size, smallest_image_size
from jaxcnn.models.resnet import BasicBlock

# Arguments of every builder, not torchvision's.
OURS = {"dtype", "param_dtype", "weight_init", "axis_name"}

# Heads that torchvision does not count in a network's published number of parameters.
AUXILIARY = {"googlenet": ("aux1", "aux2"), "googlenet_original": ("aux1", "aux2")}
# The smallest images that a network of each family accepts, in training and in evaluation.
SMALLEST = {
    "alexnet": (63, 63),
    "alexnet_original": (67, 67),
    "convnext_tiny": (32, 32),
    "densenet121": (29, 29),
    "efficientnet_b0": (1, 1),
    "googlenet": (15, 15),
    "googlenet_original": (223, 31),
    "inception_v3": (299, 75),
    "lenet5": (16, 16),
    "mnasnet0_5": (1, 1),
    "mobilenet_v2": (1, 1),
    "mobilenet_v3_small": (1, 1),
    "nin": (67, 67),
    "regnet_y_400mf": (1, 1),
    "resnet18": (1, 1),
    "shufflenet_v2_x0_5": (1, 1),
    "squeezenet1_0": (21, 21),
    "squeezenet1_1": (17, 17),
    "vgg11": (32, 32),
    "zfnet": (53, 53),
}
# Of those the ones that are traced in a moment.
SHALLOW = {"alexnet", "alexnet_original", "lenet5", "nin", "vgg11", "zfnet"}


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


def test_models_exports_what_its_modules_export():
    modules = [
        module
        for name, module in sys.modules.items()
        if name.startswith("jaxcnn.models.") and hasattr(module, "__all__")
    ]
    exported = [
        name
        for module in modules
        if not module.__name__.startswith("jaxcnn.models.layers")
        for name in module.__all__
    ]
    assert sorted(models.__all__) == sorted(exported)
    assert not any(isinstance(getattr(models, n), types.ModuleType) for n in models.__all__)


@pytest.mark.parametrize("name", ["alexnet", "googlenet", "mobilenet_v2", "nin", "vgg", "zfnet"])
def test_a_builder_wins_over_the_module_of_its_name(name):
    assert isinstance(sys.modules[f"jaxcnn.models.{name}"], types.ModuleType)
    assert getattr(models, name).info.name == name


NAMES = models.list_models()


def channels_of(name: str) -> int:
    return 1 if name == "lenet5" else 3  # as published


@pytest.mark.parametrize("name", tiers(NAMES, fast=smallest_of_families(), slow=NAMES))
def test_model_info_has_the_parameters_and_multiply_adds_of_the_network(name):
    info = models.model_info(name)
    table = models.summary(name, channels=channels_of(name), depth=1)
    heads = [r.parameters for r in table.rows if r.path in AUXILIARY.get(name, ())]
    assert table.parameters - sum(heads) == info.parameters
    assert table.multiply_adds == info.multiply_adds
    assert table.input_shape[1:3] == (info.input_size, info.input_size)


def test_list_models_lists_a_family():
    assert models.list_models(family="lenet") == ["lenet5"]
    assert {"resnet18", "resnext50_32x4d", "wide_resnet50_2"} < set(models.list_models("resnet"))
    families = {models.model_info(name).family for name in models.list_models()}
    members = [name for family in families for name in models.list_models(family)]
    assert sorted(members) == models.list_models()
    with pytest.raises(UserError, match="'resnets'; did you mean 'resnet'"):
        models.list_models(family="resnets")


def test_model_info_has_the_published_accuracy_and_the_paper():
    info = models.model_info("resnet18")
    assert (info.top1, info.top5) == (0.69758, 0.89078)
    assert info.paper.startswith("He et al. 2015")
    assert models.model_info("zfnet").top1 is None


def test_a_builders_docstring_describes_the_network():
    assert "ResNet-18 (He et al. 2015" in models.resnet18.__doc__
    assert "11,689,512 parameters" in models.resnet18.__doc__


@pytest.mark.parametrize("name", tiers(NAMES, fast=smallest_of_families()))
def test_channels_come_from_the_images_and_classes_from_num_classes(name):
    params = shapes(name, channels=5, num_classes=7)["params"]
    flat = traverse_util.flatten_dict(params, sep=".")
    first = f"{models.create_model(name).first_conv}.kernel"
    assert flat[first].shape[2] == 5
    assert [leaf.shape for path, leaf in flat.items() if leaf.shape == (7,)]


@pytest.mark.parametrize("name", tiers(SMALLEST, fast=SHALLOW, slow=SMALLEST))
def test_smallest_image_size(name):
    model = models.create_model(name, num_classes=5)
    sizes = tuple(smallest_image_size(model, train=train) for train in (True, False))
    assert sizes == SMALLEST[name]


@pytest.mark.parametrize("name", tiers(SMALLEST, fast=SHALLOW, slow=SMALLEST))
def test_check_image_size_accepts_the_smallest_images_and_none_smaller(name):
    model = models.create_model(name, num_classes=5)
    for train, size in zip((True, False), SMALLEST[name], strict=True):
        check_image_size(model, (2, size, size, 1), train=train)
        if size > 1:
            with pytest.raises(UserError, match="too small|need images 223 to 270"):
                check_image_size(model, (2, size - 1, size, 1), train=train)


def test_an_image_size_can_be_too_large_for_the_auxiliary_heads():
    check_image_size(models.googlenet_original(), (2, 270, 270, 3))
    check_image_size(models.googlenet_original(aux_logits=False), (2, 271, 271, 3))
    with pytest.raises(UserError, match="need images 223 to 270"):
        check_image_size(models.googlenet_original(), (2, 271, 271, 3))


def test_check_image_size_counts_the_values_of_a_batch_norm():
    check_image_size(models.resnet18(axis_name="batch"), (2, 32, 32, 3))
    check_image_size(models.resnet18(), (1, 32, 32, 3), train=False)
    with pytest.raises(UserError, match="one value per channel in training"):
        check_image_size(models.resnet18(), (1, 32, 32, 3))


def test_checking_a_huge_image_size_allocates_nothing():
    check_image_size(models.zfnet(), (256, 100_000, 100_000, 3))


# Networks that accept more than one image size with the same variables, but not any.
LIMITED = [
    name
    for name, sizes in SMALLEST.items()
    if sizes[1] > 1 and name not in ("alexnet_original", "lenet5", "zfnet")
]


@pytest.mark.parametrize("name", tiers(LIMITED, fast=SHALLOW, slow=LIMITED))
def test_images_too_small_are_refused_with_the_smallest_size_that_works(name):
    smallest = SMALLEST[name][1]
    model = models.create_model(name, num_classes=5)
    key = jax.random.key(0)
    images = jnp.zeros((2, smallest, smallest, 3))
    variables = jax.eval_shape(model.init, key, images)
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 5)
    with pytest.raises(UserError, match=f"too small.*works from {smallest}x{smallest}"):
        jax.eval_shape(model.apply, variables, images[:, 1:])
    with pytest.raises(UserError, match=f"too small.*works from {smallest}x{smallest}"):
        jax.eval_shape(model.init, key, images[:, 1:])


def test_the_smallest_size_is_one_that_fits_the_variables():
    """Those of ``fc1`` fix the size of the images."""
    model, key = models.lenet5(), jax.random.key(0)
    variables = jax.eval_shape(model.init, key, jnp.zeros((1, 32, 32, 1)))
    with pytest.raises(UserError, match="12x12.*works from 32x32"):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 12, 12, 1)))
    with pytest.raises(UserError, match="12x12.*works from 16x16"):
        jax.eval_shape(model.init, key, jnp.zeros((1, 12, 12, 1)))


def test_variables_of_a_different_network_are_refused():
    images = jnp.zeros((1, 32, 32, 1))
    variables = jax.eval_shape(models.lenet5().init, jax.random.key(0), images)
    with pytest.raises(UserError, match="do not fit this LeNet5.*kernel"):
        jax.eval_shape(models.lenet5().apply, variables, jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((32, 32, 3), r"expected \[N, H, W, C\]"),
        ((0, 32, 32, 3), "must be at least 1"),
        ((1, 32, 32, 0), "must be at least 1"),
        ((1, 3, 64, 64), r"looks like \[N, C, H, W\].*transpose\(images, \(0, 2, 3, 1\)\)"),
        ((1, 1, 32, 32), r"looks like \[N, C, H, W\]"),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_images_of_an_invalid_shape_are_refused(shape, words, train):
    model, images = models.resnet18(num_classes=3), jnp.zeros(shape)
    with pytest.raises(UserError, match=words) as error:
        jax.eval_shape(model.init, jax.random.key(0), images)
    assert str(shape) in str(error.value)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    with pytest.raises(UserError, match=words):
        apply = functools.partial(model.apply, train=train, mutable=["batch_stats"])
        jax.eval_shape(apply, variables, images)


@pytest.mark.parametrize("shape", [(1, 3, 3, 3), (1, 1, 9, 4), (2, 3, 80, 1)])
def test_images_one_or_three_pixels_high_are_accepted(shape):
    jax.eval_shape(models.resnet18().init, jax.random.key(0), jnp.zeros(shape))


@pytest.mark.parametrize("num_classes", [-1, 2.5, "10", True, None])
def test_an_invalid_number_of_classes_is_refused(num_classes):
    with pytest.raises(UserError, match=f"num_classes={num_classes!r} is not a number of classes"):
        models.resnet18(num_classes=num_classes)
    with pytest.raises(UserError, match="num_classes="):
        models.resnet18().clone(num_classes=num_classes)


def test_the_number_of_classes_may_be_numpys():
    assert models.resnet18(num_classes=np.int64(7)) == models.resnet18(num_classes=7)


@pytest.mark.parametrize("argument", ["dtype", "param_dtype"])
@pytest.mark.parametrize(
    ("value", "words"),
    [("bf16", "did you mean 'bfloat16'"), ("int32", "not a floating-point dtype"), (3, "known: ")],
)
def test_an_invalid_dtype_is_refused(argument, value, words):
    with pytest.raises(UserError, match=f"{argument}={value!r} .*{words}"):
        models.resnet18(**{argument: value})


def test_builders_have_torchvisions_arguments_and_defaults():
    theirs = inspect.signature(torchvision.models.ResNet).parameters
    ours = inspect.signature(models.resnet50).parameters
    expected = {n: p.default for n, p in theirs.items() if n not in ("block", "layers")}
    added = OURS | {"conv_bias"}
    assert {n: p.default for n, p in ours.items() if n not in added} == expected


def test_an_unknown_model_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'resnet50'"):
        models.create_model("resnet_50")


def test_an_unexpected_argument_is_refused_with_the_accepted_ones():
    with pytest.raises(UserError, match="resnet18.*'num_class'; accepted: .*num_classes"):
        models.resnet18(num_class=10)


def test_arguments_may_be_lists():
    model = models.resnet50(replace_stride_with_dilation=[False, True, True])
    assert hash(model) == hash(models.resnet50(replace_stride_with_dilation=(False, True, True)))


@pytest.mark.parametrize("rate", [-0.1, 1.5])
def test_a_dropout_rate_that_is_not_a_probability_is_refused(rate):
    with pytest.raises(UserError, match=f"is {rate}, which is not a probability"):
        shapes("alexnet", dropout=rate)


def test_arguments_that_define_a_variant_cannot_be_set():
    with pytest.raises(UserError, match="'groups'.*it is 32 in resnext50_32x4d"):
        models.resnext50_32x4d(groups=16)


def test_replace_stride_with_dilation_needs_three_booleans():
    with pytest.raises(UserError, match="three booleans"):
        shapes("resnet50", replace_stride_with_dilation=(True,))


def test_basic_blocks_refuse_other_widths():
    with pytest.raises(UserError, match="basic blocks"):
        shapes("resnet18", width_per_group=128)


# Compiles faster, without LLVM's optimizations.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def small_resnet(**kwargs) -> models.ResNet:
    """ResNet-10, which compiles in half the time of ResNet-18."""
    return models.ResNet(block=BasicBlock, layers=(1, 1, 1, 1), num_classes=3, **kwargs)


def test_dtype_applies_to_the_computation_and_param_dtype_to_the_variables():
    model = small_resnet(dtype="bfloat16")
    images = jnp.ones((2, 32, 32, 3))
    variables = jit(model.init)(jax.random.key(0), images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    logits = jit(model.apply)(variables, images)
    assert logits.dtype == jnp.bfloat16
    exact = jit(small_resnet().apply)(variables, images)
    np.testing.assert_allclose(logits, exact, rtol=0.1, atol=0.05)


def test_training_updates_the_batch_statistics():
    model = small_resnet()
    images = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = jit(model.init)(jax.random.key(0), images)
    logits, new = jit(lambda v, x: model.apply(v, x, train=True, mutable=["batch_stats"]))(
        variables, images
    )
    assert logits.shape == (2, 3)
    changed = jax.tree.map(
        lambda old, new: bool((old != new).any()), variables["batch_stats"], new["batch_stats"]
    )
    assert all(jax.tree.leaves(changed))


def test_feature_maps_can_be_captured_by_name():
    model = models.resnet18()
    images = jnp.ones((1, 64, 64, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    _, captured = jax.eval_shape(
        lambda v, x: model.apply(
            v, x, capture_intermediates=lambda module, _: module.name in ("layer1", "layer4")
        ),
        variables,
        images,
    )
    maps = captured["intermediates"]
    assert maps["layer1"]["__call__"][0].shape == (1, 16, 16, 64)
    assert maps["layer4"]["__call__"][0].shape == (1, 2, 2, 512)


@pytest.mark.parametrize("name", smallest_of_families())  # it is declared by the class
def test_declared_classifier_layers_are_those_that_depend_on_num_classes(name):
    def kernels(num_classes: int) -> dict[str, tuple[int, ...]]:
        shapes = expected_torch_shapes(models.create_model(name, num_classes=num_classes))
        return {key: shape for key, shape in shapes.items() if key.endswith(".weight")}

    ten, eleven = kernels(10), kernels(11)
    layers = {key.removesuffix(".weight") for key in ten if ten[key] != eleven[key]}
    model = models.create_model(name)
    assert set(model.classifier) == layers
    assert ten[f"{model.classifier[0]}.weight"][0] == 10
