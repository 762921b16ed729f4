"""Folding of batch norms: the same logits in float64, without running statistics."""

import functools
import json
import pathlib
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from photos import jpeg, photo
from tiers import tiers
from tiny import TinyNet

from jaxcnn import cli, convert, models
from jaxcnn.convert.fold import fold_batch_norm
from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.densenet import DenseNet
from jaxcnn.testing.compiling import jit
from jaxcnn.training.build import evaluation_settings
from jaxcnn.training.config import as_json, open_config, resolve
from jaxcnn.training.workdir import claim_workdir

LOGITS = 1e-12

# A network of each family that has batch norms (DenseNet and GoogLeNet have tests of their own), as
# small as its arguments allow, and the smallest images that it takes.
_TINY_VGG = {"blocks": ((1, 8), (2, 16)), "batch_norm": True}
_TINY_REGNET = {"depths": (1, 2), "widths": (16, 32), "group_widths": (8, 8), "se_ratio": 0.25}
NETWORKS = {
    "anynet": (32, _TINY_REGNET),
    "efficientnet_b0": (32, {"depth_mult": 0.1}),
    "inception_v3": (75, {}),
    "mnasnet0_5": (32, {}),
    "mobilenet_v2": (32, {}),
    "mobilenet_v3_small": (32, {}),
    "resnet18": (32, {"conv_bias": True}),
    "shufflenet_v2_x0_5": (32, {}),
    "vgg": (32, _TINY_VGG),
}
LARGER = (
    "densenet121",
    "efficientnet_b0",
    "efficientnet_v2_s",
    "regnet_x_400mf",
    "regnet_y_400mf",
    "resnet18",
    "resnet50",
    "resnext50_32x4d",
    "vgg11_bn",
)
OTHERS = (
    *("convnext_tiny", "densenet201", "googlenet", "inception_v3", "mnasnet0_5", "mobilenet_v2"),
    *("mobilenet_v3_large", "shufflenet_v2_x1_0", "vgg11", "wide_resnet50_2"),
)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_variables(model: Classifier, size: int | None = None, seed: int = 0) -> dict:
    """Variables with random biases and running statistics, too."""
    size = size or model.input_size
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))

    def value(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.standard_normal(leaf.shape)
        if path[-1] == "var":
            noise = rng.uniform(0.5, 1.5, leaf.shape)
        elif path[-1] in ("bias", "mean"):
            noise = 0.1 * noise
        elif path[-1] in ("scale", "kernel_g"):
            noise = 0.7 + 0.1 * noise  # less than one, so that rounding errors do not grow
        else:
            noise *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return jnp.asarray(noise, leaf.dtype)

    flat = traverse_util.flatten_dict(shapes)
    return traverse_util.unflatten_dict({path: value(path, leaf) for path, leaf in flat.items()})


def images(size: int, dtype=np.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).standard_normal((2, size, size, 3)), dtype)


def error(folded, original, size: int) -> float:
    """The largest difference of logits relative to the largest logit."""
    ours, reference = (jit(m.apply)(variables, images(size)) for m, variables in (folded, original))
    assert ours.dtype == reference.dtype == np.float64
    assert np.isfinite(reference).all()
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def paths(tree) -> set[str]:
    return {"/".join(path) for path in traverse_util.flatten_dict(tree)}


def tree_shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def assert_folds(model: Classifier, size: int, seed: int = 0) -> tuple[Classifier, dict]:
    """Folding changes no logit, and leaves neither running statistics nor float32."""
    variables = random_variables(model, size, seed)
    folded, fewer = fold_batch_norm(model, variables)
    assert error((folded, fewer), (model, variables), size) <= LOGITS
    assert fewer.keys() == {"params"}
    assert {leaf.dtype for leaf in jax.tree.leaves(fewer)} == {np.dtype(np.float64)}
    return folded, fewer


@pytest.mark.parametrize(
    "name", tiers(NETWORKS, fast=("mobilenet_v2", "resnet18", "vgg"), slow=NETWORKS)
)
def test_folded_network_computes_the_same_logits(name):
    size, arguments = NETWORKS[name]
    assert_folds(models.create_model(name, param_dtype=np.float64).clone(**arguments), size)


@pytest.mark.parametrize("name", tiers(LARGER, slow=("densenet121", "regnet_y_400mf", "vgg11_bn")))
def test_larger_folded_network_computes_the_same_logits(name):
    assert_folds(models.create_model(name, param_dtype=np.float64), 32)


@pytest.mark.parametrize("name", tiers([*LARGER, *OTHERS], slow=("convnext_tiny", "densenet121")))
def test_network_folds_to_what_it_initializes(name):
    """All shapes, without values: of every norm but those after a concatenation only a bias."""
    model = models.create_model(name)
    images = jnp.zeros((1, model.input_size, model.input_size, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    zeros = jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), shapes)
    folded, variables = fold_batch_norm(model, zeros)
    if "batch_stats" not in shapes:
        assert folded is model and variables == zeros
        return
    initial = jax.eval_shape(folded.init, jax.random.key(0), images)
    assert tree_shapes(variables) == tree_shapes(initial)
    scales = [path for path in paths(variables) if path.endswith("scale")]
    assert len(scales) == len(folded.folded)
    assert not scales or name.startswith("densenet")


def test_norm_after_a_concatenation_keeps_its_scale():
    """DenseNet's norm1; its norm2 follows a convolution, also where that is rematerialized."""
    model = DenseNet(
        block_config=(2, 2), growth_rate=8, memory_efficient=True, param_dtype=np.float64
    )
    _, variables = assert_folds(model, 32)
    layer = variables["params"]["features"]["denseblock1"]["denselayer2"]
    assert paths(layer) == {
        "norm1/scale",
        "norm1/bias",
        "conv1/kernel",
        "norm2/bias",
        "conv2/kernel",
    }


@pytest.mark.slow
def test_auxiliary_heads_are_removed():
    model = models.googlenet(num_classes=4, param_dtype=np.float64)
    folded, fewer = assert_folds(model, 32)
    assert not folded.aux_logits
    assert not {"aux1", "aux2"} & fewer["params"].keys()


class Shared(Classifier):
    """Convolutions and norms that are used in more than one way."""

    first_conv = "conv1"
    classifier = ("fc",)

    @nn.compact
    def forward(self, x: jax.Array, train: bool = False) -> jax.Array:
        def conv(name: str, **kwargs) -> nn.Module:
            return layers.Conv(8, 3, padding=1, name=name, **kwargs)

        def norm(name: str) -> nn.Module:
            return layers.BatchNorm(name=name)

        x = conv("conv1")(x)
        x = nn.relu(norm("output_used_elsewhere")(x, train) + x)
        twice = conv("conv2")
        x = norm("first_of_shared")(twice(x), train)
        x = norm("second_of_shared")(twice(x), train)
        of_two = norm("norm_of_two")
        x = of_two(conv("conv3")(x), train) + of_two(conv("conv4")(x), train)
        x = norm("after_relu")(nn.relu(x), train)
        x = norm("two_norms_1")(conv("conv5", weight_norm=True)(x), train)
        x = norm("two_norms_2")(x, train)
        x = layers.ConvTranspose(8, 2, name="transposed")(x)
        x = norm("after_transposed")(x, train)
        x = layers.Linear(8, weight_norm=True, name="linear")(x.mean((1, 2)))
        x = nn.Dense(8, param_dtype=np.float64, name="dense")(norm("after_linear")(x, train))
        x = layers.Dropout()(x, train)
        return layers.Linear(self.num_classes, name="fc")(nn.relu(norm("after_dense")(x, train)))


def test_only_a_convolution_that_a_norm_alone_uses_is_scaled():
    model = Shared(num_classes=5, param_dtype=np.float64)
    folded, variables = assert_folds(model, 16)
    original = random_variables(model, 16)
    assert folded.folded == (
        "after_relu",
        "after_transposed",
        "first_of_shared",
        "norm_of_two",
        "output_used_elsewhere",
        "second_of_shared",
        "two_norms_2",
    )
    changed = {
        name
        for name, layer in variables["params"].items()
        for leaf in ("kernel", "kernel_g", "kernel_v")
        if leaf in layer and (layer[leaf] != original["params"][name][leaf]).any()
    }
    assert changed == {"conv5", "linear", "dense"}


# Flax's norm computes with float32 statistics otherwise.
flax_norm = functools.partial(nn.BatchNorm, force_float32_reductions=False)


@pytest.mark.parametrize(
    "norm_layer",
    [
        flax_norm,
        functools.partial(flax_norm, use_scale=False, epsilon=0.1),
        functools.partial(flax_norm, use_scale=False, use_bias=False, use_running_average=True),
        lambda name: flax_norm(name=name, param_dtype=np.float64),
        functools.partial(layers.BatchNorm, eps=0.1),
    ],
    ids=["flax", "without scale", "not affine", "function", "eps"],
)
def test_any_batch_norm_folds(norm_layer):
    model = TinyNet(norm_layer=norm_layer, axis_name="batch", param_dtype=np.float64)
    folded, variables = assert_folds(model, 8)
    assert paths(variables["params"]["bn1"]) == {"bias"}
    with pytest.raises(UserError, match=r"^Batch norm 'bn1' is folded, so this network cannot be"):
        folded.apply(variables, images(8), train=True)


def test_folded_parameters_have_the_dtype_of_the_network():
    """Not that of Flax's running statistics, which are float32 in a float64 network."""
    norm_layer = functools.partial(nn.BatchNorm, use_scale=False, use_bias=False)
    model = TinyNet(norm_layer=norm_layer, param_dtype=np.float64)
    variables = random_variables(model, 8)
    assert variables["batch_stats"]["bn1"]["mean"].dtype == np.float32
    _, fewer = fold_batch_norm(model, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(fewer)} == {np.dtype(np.float64)}


@pytest.mark.parametrize(
    "norm_layer",
    ["switchable", functools.partial(nn.BatchNorm, axis=1)],
    ids=["switchable", "of rows"],
)
def test_other_running_statistics_are_refused(norm_layer):
    model = TinyNet(norm_layer=norm_layer)
    with pytest.raises(UserError, match=r"^The running statistics of 'bn1' in this TinyNet cannot"):
        fold_batch_norm(model, random_variables(model, model.input_size))


def test_network_without_batch_norms_is_returned_as_it_is():
    for norm_layer in ("layer", "group"):
        model = TinyNet(norm_layer=norm_layer)
        variables = random_variables(model, 8)
        folded, same = fold_batch_norm(model, variables)
        assert folded is model and same == variables


def test_folding_again_changes_nothing():
    model = TinyNet()
    folded, variables = fold_batch_norm(model, random_variables(model, 8))
    again, same = fold_batch_norm(folded, variables)
    assert again == folded and same == variables


def test_variables_of_another_network_are_refused():
    with pytest.raises(UserError, match="do not fit this ResNet"):
        fold_batch_norm(models.resnet18(), random_variables(TinyNet(), 8))


class Finetuned(layers.Module):
    """A network within another module."""

    network: Classifier

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return layers.Linear(2, name="head")(self.network(x))


def test_folded_network_works_within_another_module():
    network = DenseNet(block_config=(1, 1), growth_rate=8, num_classes=3)
    variables = random_variables(network, 32)
    folded, fewer = fold_batch_norm(network, variables)
    outer = Finetuned(folded)
    shapes = jax.eval_shape(outer.init, jax.random.key(0), images(32, np.float32))
    assert tree_shapes(shapes["params"]["network"]) == tree_shapes(fewer["params"])


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_folded_network_in_lower_precision(dtype):
    """Folded it is at most a little further from float64 than unfolded."""
    exact = TinyNet(param_dtype=np.float64)
    variables = random_variables(exact, 8)
    reference = exact.apply(variables, images(8))
    model = TinyNet(dtype=dtype)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    folded, fewer = fold_batch_norm(model, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(fewer)} == {np.dtype(np.float32)}
    logits = [jit(m.apply)(v, images(8)) for m, v in ((model, variables), (folded, fewer))]
    assert logits[1].dtype == dtype
    unfolded_error, folded_error = (np.abs(ours - reference).max() for ours in logits)
    assert folded_error < 2 * unfolded_error


def test_folded_network_is_pickled_exported_and_converted():
    model = TinyNet()
    folded, variables = fold_batch_norm(model, random_variables(model, 8))
    logits = folded.apply(variables, images(8))
    assert pickle.loads(pickle.dumps(folded)) == folded
    exported = jax.export.export(jax.jit(folded.apply))(variables, images(8))
    loaded = jax.export.deserialize(exported.serialize())
    np.testing.assert_allclose(loaded.call(variables, images(8)), logits, rtol=1e-5)
    state_dict = convert.to_torch(variables)
    assert {"conv1.weight", "bn1.bias"} <= state_dict.keys()
    restored = convert.from_torch(state_dict, folded)
    jax.tree.map(np.testing.assert_array_equal, restored, variables)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """The folder of a run of a small network on two classes, which was not trained."""
    workdir = tmp_path_factory.mktemp("run")
    config = resolve(
        open_config(
            "anynet",
            "fashion_mnist",
            model_args={"depths": (1, 1), "widths": (8, 16), "group_widths": (8, 8)},
            num_classes=2,
        )
    )
    claim_workdir(workdir, as_json(config), ["cat", "dog"])
    model = evaluation_settings(config).make_model(2)
    variables = random_variables(model)
    convert.save_torch(workdir / "weights.safetensors", variables)
    return workdir


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("cat", "dog", "dog", "cat")):
        for split in ("train", "val"):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            path = folder / split / name / f"{number}.jpg"
            path.write_bytes(jpeg(photo(number, 40, 50)))
    return folder


@pytest.mark.parametrize("command", ["predict", "validate"])
def test_commands_give_the_same_with_folded_norms(command, run, photos, capsys, monkeypatch):
    folded_networks = []

    def spy(*arguments):
        folded_networks.append(fold_batch_norm(*arguments))
        return folded_networks[-1]

    monkeypatch.setattr(convert, "fold_batch_norm", spy)
    data = {"predict": [photos / "val"], "validate": ["--dataset", f"folder:{photos}"]}

    def result(*flags: str) -> list:
        arguments = [command, *data[command], "--workdir", run, "--json", *flags]
        assert cli.main([*map(str, arguments)]) == 0
        return jax.tree.leaves(json.loads(capsys.readouterr().out))

    plain = result()
    assert not folded_networks
    folded = result("--fold_batch_norm")
    ((model, _),) = folded_networks
    assert model.folded == ()
    assert len(folded) == len(plain) > 8
    for ours, reference in zip(folded, plain, strict=True):
        is_float = isinstance(reference, float)
        assert ours == (pytest.approx(reference, rel=1e-4) if is_float else reference)
