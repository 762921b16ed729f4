"""State dicts to Flax variables and back."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from flax import linen as nn

from jaxcnn import convert, models
from jaxcnn.convert.state_dict import (
    clean_state_dict,
    expected_torch_shapes,
    from_torch_unchecked,
)
from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.models.classifier import Classifier


@pytest.fixture(scope="module")
def state_dict() -> dict[str, torch.Tensor]:
    return torchvision.models.resnet18(num_classes=5).state_dict()


def test_round_trip_from_torch_is_exact(state_dict):
    variables = convert.from_torch(state_dict, models.resnet18(num_classes=5))
    back = convert.to_torch(variables)
    assert back.keys() == state_dict.keys()
    for name, value in state_dict.items():
        assert back[name].dtype == value.numpy().dtype
        assert back[name].tobytes() == value.numpy().tobytes()
    module = torchvision.models.resnet18(num_classes=5)
    module.load_state_dict({k: torch.from_numpy(v) for k, v in back.items()}, strict=True)


def test_round_trip_from_flax_is_exact():
    model = models.resnet50(num_classes=5)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    back = convert.from_torch(convert.to_torch(variables), model)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_dtypes_are_preserved(state_dict):
    halves = {name: value.half() for name, value in state_dict.items()}
    variables = convert.from_torch(halves, models.resnet18(num_classes=5))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float16")}


def test_num_batches_tracked_is_optional(state_dict):
    old = {k: v for k, v in state_dict.items() if not k.endswith("num_batches_tracked")}
    convert.from_torch(old, models.resnet18(num_classes=5))


def test_error_lists_every_mismatch(state_dict):
    wrong = dict(state_dict)
    del wrong["bn1.weight"]
    wrong["layer5.weight"] = torch.zeros(1)
    with pytest.raises(UserError) as error:
        convert.from_torch(wrong, models.resnet18(num_classes=7))
    message = str(error.value)
    assert message.startswith("The state dict does not fit this ResNet: missing bn1.weight;")
    assert "unexpected layer5.weight" in message
    assert "fc.weight has shape (5, 512) where the model has (7, 512)" in message
    assert "fc.bias has shape (5,) where the model has (7,)" in message


def test_other_collections_are_ignored():
    assert convert.to_torch({"params": {}, "intermediates": {"a": np.zeros(1)}}) == {}


def zeros(model: Classifier) -> dict[str, np.ndarray]:
    """A state dict of the model that takes no memory."""
    shapes = expected_torch_shapes(model)
    return {name: np.broadcast_to(np.float32(0), shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (
            zeros(models.vgg13(num_classes=7)),
            r"this ResNet: 102 missing names, 26 unexpected names \(such as \S+, \S+, "
            r"classifier\.0\.bias, \S+\)\. It looks like vgg13; check the architecture\.$",
        ),
        (
            {f"trunk.{name}": value for name, value in zeros(models.resnet18()).items()},
            r"102 missing names, 102 unexpected names .*\. Remove 'trunk.' from the start of ",
        ),
        ({}, r"102 missing names \(such as .*\)\. It is empty\."),
    ],
    ids=["architecture", "prefix", "empty"],
)
def test_error_starts_with_counts_and_the_likely_cause(state, words):
    with pytest.raises(UserError) as error:
        convert.from_torch(state, models.resnet18())
    first, everything = str(error.value).split("\n")
    assert re.search(words, first) and len(first) < 400
    assert everything.startswith("All of them: missing ") and everything.count(";") > 100


def test_error_about_another_head_says_how_to_fix_it():
    with pytest.raises(UserError) as error:
        convert.from_torch(zeros(models.lenet5(num_classes=10)), models.lenet5(num_classes=7))
    assert "fc3.weight has shape (10, 84) where the model has (7, 84)" in str(error.value)
    assert "It has 10 classes where num_classes is 7: build the model with num_classes=10" in str(
        error.value
    )


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "backbone.model.module."],
)
def test_prefixes_of_training_frameworks_are_removed(prefix, state_dict):
    wrapped = {prefix + name: value for name, value in state_dict.items()}
    wrapped["n_averaged"] = torch.tensor(3)  # of torch.optim.swa_utils.AveragedModel
    model = models.resnet18(num_classes=5)
    jax.tree.map(
        np.testing.assert_array_equal,
        convert.from_torch(wrapped, model),
        convert.from_torch(state_dict, model),
    )


def test_head_of_another_size_can_be_skipped(state_dict):
    model = models.resnet18(num_classes=7)
    variables = convert.from_torch(state_dict, model, skip=("fc",), rng=jax.random.key(3))
    images = jnp.zeros((1, 64, 64, 3))
    fresh = jax.jit(lambda key: model.init(key, images)["params"]["fc"])(jax.random.key(3))
    np.testing.assert_array_equal(variables["params"]["fc"]["kernel"], fresh["kernel"])
    np.testing.assert_array_equal(
        convert.to_torch(variables)["conv1.weight"], state_dict["conv1.weight"]
    )
    headless = {k: v for k, v in state_dict.items() if not k.startswith("fc.")}
    convert.from_torch(headless, model, skip=("fc",), rng=jax.random.key(3))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"skip": ("fc",)}, "give rng="),
        ({"skip": ("fc1",), "rng": jax.random.key(0)}, "no module 'fc1'.*did you mean 'fc'"),
        ({"skip": ("f",), "rng": jax.random.key(0)}, "no module 'f'"),
    ],
)
def test_invalid_skip_raises(arguments, words, state_dict):
    with pytest.raises(UserError, match=words):
        convert.from_torch(state_dict, models.resnet18(num_classes=5), **arguments)


def test_variables_do_not_share_memory_with_torch():
    module = torchvision.models.resnet18(num_classes=5)
    variables = convert.from_torch(module.state_dict(), models.resnet18(num_classes=5))
    before = jax.tree.map(np.array, variables)
    with torch.no_grad():
        for leaf in module.state_dict().values():
            leaf.zero_()
    jax.tree.map(np.testing.assert_array_equal, variables, before)


def test_old_densenet_names_are_converted():
    old = {
        "features.denseblock1.denselayer1.norm.1.weight": 0,
        "features.denseblock1.denselayer1.conv.2.weight": 1,
        "features.norm0.weight": 2,
    }
    assert list(clean_state_dict(old)) == [
        "features.denseblock1.denselayer1.norm1.weight",
        "features.denseblock1.denselayer1.conv2.weight",
        "features.norm0.weight",
    ]


def test_names_beside_the_prefix_are_listed():
    state = {f"model.{name}": value for name, value in zeros(models.lenet5()).items()}
    extra = np.zeros(3, np.float32)
    with pytest.raises(UserError, match=r"LeNet5: unexpected criterion\.weight\.$"):
        convert.from_torch(state | {"criterion.weight": extra}, models.lenet5())
    with pytest.raises(UserError, match=r"unexpected fc1\.bias \(beside model\.fc1\.bias\)\.$"):
        convert.from_torch(state | {"fc1.bias": extra}, models.lenet5())


class Backbone(nn.Module):
    @nn.compact
    def __call__(self, x, train=False):
        return layers.Conv(4, 3, name="conv1")(x)


class Wrapped(Classifier):
    """A model whose own names start like a training framework's prefix."""

    first_conv = "backbone.conv1"
    classifier = ("net",)
    paper = "none"

    @nn.compact
    def forward(self, x, train=False):
        return layers.Linear(self.num_classes, name="net")(
            Backbone(name="backbone")(x).mean((1, 2))
        )


@pytest.mark.parametrize("prefix", ["", "model.", "module.net."])
def test_own_names_that_start_like_a_prefix_are_kept(prefix):
    model = Wrapped(num_classes=5, input_size=8)
    state = {f"{prefix}{name}": value for name, value in zeros(model).items()}
    variables = convert.from_torch(state, model)
    assert convert.to_torch(variables).keys() == zeros(model).keys()


@pytest.mark.parametrize("dtype", [np.int8, np.bool_, np.complex64])
@pytest.mark.parametrize("name", ["conv1.weight", "fc1.bias"])
def test_values_that_are_not_floating_raise(name, dtype):
    state = zeros(models.lenet5())
    state[name] = state[name].astype(dtype)
    for function in (
        lambda: convert.from_torch(state, models.lenet5()),
        lambda: from_torch_unchecked(state),
    ):
        with pytest.raises(UserError, match=f"{name} is {np.dtype(dtype)}; .* must be floating"):
            function()


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_that_are_not_finite_warn(value, dtype):
    state = {name: array.astype(jnp.dtype(dtype)) for name, array in zeros(models.lenet5()).items()}
    for name in ("conv2.weight", "fc2.bias"):
        state[name].flat[-1] = value
    words = r"^conv2\.weight has values that are NaN or infinite \(2 of 10 tensors have\)"
    with pytest.warns(UserWarning, match=words):
        variables = convert.from_torch(state, models.lenet5())
    assert not np.isfinite(variables["params"]["fc2"]["bias"][-1])
    with pytest.warns(UserWarning, match=words):
        from_torch_unchecked(state)


def test_large_finite_values_do_not_warn():
    state = zeros(models.lenet5())
    state["fc1.weight"] = np.full_like(state["fc1.weight"], 3e38)  # their sum overflows
    convert.from_torch(state, models.lenet5())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv(4, 3, groups=2, weight_norm=True), (2, 5, 5, 6)),
        (layers.Linear(4, weight_norm=True), (3, 6)),
    ],
)
def test_weight_norm_round_trips_without_a_model(layer, shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    shapes = jax.eval_shape(layer.init, jax.random.key(1), x)["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape, np.float32), shapes)
    variables = {"params": {"layer": params}}
    state = convert.to_torch(variables)
    assert state["layer.weight_g"].shape == (4,) + (1,) * (len(shape) - 1)
    back = from_torch_unchecked(state)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    jax.eval_shape(layer.apply, {"params": back["params"]["layer"]}, x)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weight_norm_of_torch_loads_without_a_model():
    module = torch.nn.utils.weight_norm(torch.nn.Conv2d(6, 4, 3))
    params = from_torch_unchecked({f"a.{k}": v for k, v in module.state_dict().items()})["params"]
    x = np.random.default_rng(0).standard_normal((2, 5, 5, 6), np.float32)
    ours = layers.Conv(4, 3, weight_norm=True).apply({"params": params["a"]}, x)
    theirs = module(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_kernel_of_three_axes_raises():
    kernel = np.zeros((3, 4, 5), np.float32)
    with pytest.raises(UserError, match="params/a/kernel has 3 axes; .* two .* or four"):
        convert.to_torch({"params": {"a": {"kernel": kernel}}})
    for name in ("a.weight", "a.weight_v"):
        with pytest.raises(UserError, match=rf"{name} has shape \(3, 4, 5\)"):
            from_torch_unchecked({name: kernel})
