"""Feature maps, pooled features, and the two halves of a network."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torchvision
from flax import linen as nn
from flax import traverse_util
from tiers import tiers

from jaxcnn import convert, models
from jaxcnn.errors import UserError
from jaxcnn.models.layers import traced_for

# Compiled in a fraction of the time; the results differ by rounding.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

# The smallest network of each family, and the size of images for what is computed with it.
FAMILIES = {
    "alexnet": 63,
    "alexnet_original": 67,
    "convnext_tiny": 32,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "googlenet_original": 32,
    "inception_v3": 75,
    "lenet5": 32,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "nin": 67,
    "regnet_y_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "squeezenet1_1": 32,
    "vgg11": 32,
    "zfnet": 53,
}
# Of those the ones that are traced and compiled in a moment.
SHALLOW = {"alexnet", "alexnet_original", "lenet5", "nin", "vgg11", "zfnet"}
# Dense layers that fix the size of the images.
FIXED_SIZE = {"alexnet_original", "lenet5", "zfnet"}

# The length of what the classifier sees.
PRE_LOGITS = {
    **dict.fromkeys(("alexnet", "alexnet_original", "vgg11", "zfnet"), 4096),
    **dict.fromkeys(("densenet121", "googlenet", "googlenet_original"), 1024),
    **dict.fromkeys(("mobilenet_v3_small", "shufflenet_v2_x0_5"), 1024),
    **dict.fromkeys(("efficientnet_b0", "mnasnet0_5", "mobilenet_v2"), 1280),
    **dict.fromkeys(("resnet18", "squeezenet1_1"), 512),
    **{"convnext_tiny": 768, "inception_v3": 2048, "lenet5": 84, "nin": 384},
    "regnet_y_400mf": 440,
}

# timm's names of the networks that it has, too; None: it has a different one, or none.
TIMM = {
    **{f"efficientnet_v2_{size}": f"tf_efficientnetv2_{size}" for size in "sml"},
    **{f"mobilenet_v3_{size}": f"mobilenetv3_{size}_100" for size in ("large", "small")},
    **{"mobilenet_v2": "mobilenetv2_100", "mnasnet1_3": None, "anynet": None, "vgg": None},
    **{"mnasnet0_5": "mnasnet_050", "mnasnet0_75": "mnasnet_075", "mnasnet1_0": "mnasnet_100"},
    **{
        f"regnet_{kind}_{ours}": f"regnet{kind}_{theirs}"
        for kind in "xy"
        for ours, theirs in (
            *(("400mf", "004"), ("800mf", "008"), ("1_6gf", "016"), ("3_2gf", "032")),
            *(("8gf", "080"), ("16gf", "160"), ("32gf", "320"), ("128gf", "1280")),
        )
    },
    # Where the widths are torchvision's.
    "regnet_x_400mf": "regnetx_004_tv",
    "regnet_y_800mf": "regnety_008_tv",
    "regnet_y_8gf": "regnety_080_tv",
}
TIMM_FAMILIES = {
    *("convnext", "densenet", "efficientnet", "inception", "mnasnet", "mobilenet_v2"),
    *("mobilenet_v3", "regnet", "resnet", "vgg"),
}


NAMES = models.list_models()
# Of those whose gradients are computed, too.
SLOW = ("googlenet", "mobilenet_v3_small", "resnet18", "vgg")


def images_of(model, size: int | None = None, count: int = 2) -> jax.ShapeDtypeStruct:
    size = size or model.input_size
    return jax.ShapeDtypeStruct((count, size, size, 3), jnp.float32)


def shapes_of(model, size: int | None = None, **kwargs):
    """The variables of a network, as shapes."""
    init = functools.partial(model.init, **kwargs)
    return jax.eval_shape(init, jax.random.key(0), images_of(model, size))


def random_variables(model, size: int | None = None, **kwargs):
    """Values at which no layer dies, in less time than the network's own initial ones."""
    rng = np.random.default_rng(0)

    def value(path, leaf):
        match path[-1]:
            case "scale" | "var":
                return rng.uniform(0.5, 1.5, leaf.shape)
            case "kernel":
                return rng.normal(0, math.sqrt(2 / math.prod(leaf.shape[:-1])), leaf.shape)
        return rng.normal(0, 0.1, leaf.shape)

    flat = traverse_util.flatten_dict(shapes_of(model, size, **kwargs))
    leaves = {path: np.asarray(value(path, leaf), np.float32) for path, leaf in flat.items()}
    return traverse_util.unflatten_dict(leaves)


def random_images(size: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, size, size, 3)).astype(np.float32)


def paths(variables) -> set[str]:
    return set(traverse_util.flatten_dict(variables, sep="."))


def tiny_vgg(**kwargs) -> models.VGG:
    """Two blocks, whose maps are features.2, features.6 and, after the pooling, features.7."""
    return models.VGG(blocks=((1, 4), (1, 8)), batch_norm=True, input_size=16, **kwargs)


# --- the feature maps of every network


@pytest.mark.parametrize("name", tiers(NAMES, fast={*SHALLOW, "resnet18"}, slow=FAMILIES))
def test_maps_have_the_shapes_of_feature_info(name):
    model = models.create_model(name, features_only=True)
    with traced_for("any"):
        maps, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), images_of(model))
    assert len(maps) == len(model.feature_info) >= 3
    for info, map_ in zip(model.feature_info, maps, strict=True):
        assert map_.shape[-1] == info.channels
        # Without padding a map has up to six units less.
        assert map_.shape[1] == map_.shape[2] <= math.ceil(model.input_size / info.reduction)
        assert map_.shape[1] >= model.input_size / info.reduction - 6
    reductions = [info.reduction for info in model.feature_info]
    assert reductions == sorted(set(reductions)) and reductions[-1] in (4, 16, 32)


def in_timm(name: str) -> str | None:
    known = models.model_info(name).family in TIMM_FAMILIES
    return TIMM.get(name, name) if known else None


@pytest.mark.parametrize("name", tiers(filter(in_timm, NAMES), slow=FAMILIES))
def test_feature_info_is_timms(name):
    import timm
    import torch

    with torch.device("meta"):
        info = timm.create_model(in_timm(name), features_only=True).feature_info
    ours = models.create_model(name).feature_info
    if models.model_info(name).family in ("resnet", "vgg", "densenet", "inception"):
        renamed = {"act1": "relu", "features.norm0": "features.relu0", "features.norm5": "features"}
        assert [i.name for i in ours] == [renamed.get(n, n) for n in info.module_name()]
    assert [i.channels for i in ours] == info.channels()
    assert [i.reduction for i in ours] == info.reduction()


@pytest.mark.parametrize("name", tiers(FAMILIES, fast={"lenet5"}, slow=SLOW))
def test_maps_are_the_captured_intermediates_and_gradients_reach_every_parameter(name):
    size = FAMILIES[name]
    model = models.create_model(name)
    extractor = models.create_model(name, features_only=True)
    variables = random_variables(model, size, method="forward_features")
    layers = {info.name for info in extractor.feature_info}

    def loss(params, images):
        applied = {**variables, "params": params}
        maps = extractor.apply(applied, images)
        _, state = model.apply(
            applied,
            images,
            method="forward_features",
            capture_intermediates=lambda module, method: (
                method == "__call__" and ".".join(module.path) in layers
            ),
            mutable=["intermediates"],
        )
        captured = traverse_util.flatten_dict(state["intermediates"], sep=".")
        return sum(jnp.mean(map_**2) for map_ in maps), (maps, captured)

    grads, (maps, captured) = jit(jax.grad(loss, has_aux=True))(
        variables["params"], random_images(size)
    )
    assert len(captured) == len(maps)
    for info, map_ in zip(extractor.feature_info, maps, strict=True):
        (expected,) = captured[f"{info.name}.__call__"]
        np.testing.assert_allclose(map_, expected, rtol=1e-5, atol=1e-5)  # compiled differently
        assert np.std(map_) > 0.01
    grads = traverse_util.flatten_dict(grads, sep=".")
    for path in paths(shapes_of(extractor, size)["params"]):
        assert np.isfinite(grads[path]).all() and np.any(grads[path] != 0), path


def test_chosen_maps_come_in_the_order_of_out_indices():
    images = random_images(16)
    model = tiny_vgg(out_indices=range(3))
    variables = random_variables(model)
    maps = model.apply(variables, images)
    chosen = model.clone(out_indices=[-1, 1])
    assert chosen.out_indices == (2, 1)
    assert [info.name for info in chosen.feature_info] == ["features.7", "features.6"]
    for map_, expected in zip(chosen.apply(variables, images), (maps[2], maps[1]), strict=True):
        np.testing.assert_array_equal(map_, expected)


@pytest.mark.parametrize(
    ("out_indices", "first"), [((0,), "conv1, bn1"), ((1, 0), "conv1, bn1, layer1")]
)
def test_layers_after_the_last_map_have_no_parameters(out_indices, first):
    model = models.create_model("resnet18", features_only=True, out_indices=out_indices)
    assert set(shapes_of(model, 32)["params"]) == set(first.split(", "))


@pytest.mark.parametrize("out_indices", [(5,), (-6,), (), ("1",), (0.5,), 1])
def test_invalid_out_indices_raise(out_indices):
    with pytest.raises(UserError, match="not indices of the 5 feature maps.*use some of 0 to 4"):
        models.create_model("resnet18", features_only=True, out_indices=out_indices)


def test_arguments_that_contradict_features_only_raise():
    with pytest.raises(UserError, match="add features_only=True"):
        models.create_model("resnet18", out_indices=(0,))
    with pytest.raises(UserError, match="leave out num_classes"):
        models.create_model("resnet18", features_only=True, num_classes=10)


def test_feature_info_follows_the_arguments():
    def info(name, **kwargs):
        return [tuple(i)[1:] for i in models.create_model(name, **kwargs).feature_info]

    dilated = (False, True, True)
    assert info("resnet50", replace_stride_with_dilation=dilated)[2:] == [
        *((512, 8), (1024, 8), (2048, 8)),
    ]
    assert info("vgg", blocks=((1, 8), (2, 16)), batch_norm=True) == [(8, 1), (16, 2), (16, 4)]
    assert info("alexnet_original", widths=(8, 8, 8, 8, 24))[-1] == (24, 32)
    stages = {"depths": (1, 1), "widths": (8, 24), "group_widths": (8, 8), "strides": (1, 3)}
    assert info("anynet", **stages) == [(32, 2), (8, 2), (24, 6)]


# --- in use


def test_extractor_trains_with_batch_statistics_of_all_replicas():
    model = tiny_vgg(axis_name="batch", out_indices=(0, 1))
    variables = random_variables(model.clone(axis_name=None))
    images = random_images(16, 4)

    def apply(model, images):
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    of_replicas = jax.vmap(functools.partial(apply, model), axis_name="batch")
    maps, state = jit(of_replicas)(images.reshape(2, 2, 16, 16, 3))
    together, expected = jit(functools.partial(apply, model.clone(axis_name=None)))(images)
    assert paths(expected) == {
        f"batch_stats.features.{norm}.{leaf}" for norm in (1, 5) for leaf in ("mean", "var")
    }
    for map_, other in zip(maps, together, strict=True):
        np.testing.assert_allclose(map_.reshape(other.shape), other, atol=1e-5)
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), expected)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), state, both)


def test_extractor_computes_in_its_dtype():
    model = tiny_vgg(dtype=jnp.bfloat16, out_indices=(0, 1))
    maps = jax.eval_shape(model.apply, shapes_of(model), images_of(model))
    assert {map_.dtype for map_ in maps} == {jnp.dtype(jnp.bfloat16)}


def test_extractor_is_a_layer_of_another_network():
    class Detector(nn.Module):
        @nn.compact
        def __call__(self, x):
            backbone = tiny_vgg(out_indices=(0, 1), name="backbone")
            return sum(nn.Dense(1)(map_).mean() for map_ in backbone(x))

    model, images = Detector(), random_images(16)
    variables = jit(model.init)(jax.random.key(0), images)
    assert set(variables["params"]) == {"backbone", "Dense_0", "Dense_1"}
    assert set(variables["params"]["backbone"]["features"]) == {"0", "1", "4", "5"}

    def loss(params):
        return model.apply({**variables, "params": params}, images)

    grads = jit(jax.grad(loss))(variables["params"])
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads["backbone"]))


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_0"])
def test_extractor_can_be_tabulated(name):
    model = models.create_model(name, features_only=True, out_indices=(0,))
    table = nn.tabulate(model, jax.random.key(0))(random_images(32))
    assert "features/0" in table and "features/4" not in table, table


def test_folded_extractor_computes_the_same_maps():
    model = tiny_vgg(out_indices=(0, 2))
    variables = random_variables(model)
    folded, folded_variables = convert.fold_batch_norm(model, variables)
    assert set(folded_variables) == {"params"} and folded.out_indices == (0, 2)
    images = random_images(16)
    for map_, expected in zip(
        folded.apply(folded_variables, images), model.apply(variables, images), strict=True
    ):
        np.testing.assert_allclose(map_, expected, rtol=1e-4, atol=1e-5)


# --- the halves of a network


@pytest.mark.parametrize("name", tiers(FAMILIES, fast=SHALLOW, slow=FAMILIES))
def test_head_of_features_is_the_network(name):
    """The programs are the same, so the results are."""
    model = models.create_model(name)
    size = None if name in FIXED_SIZE else FAMILIES[name]
    images = images_of(model, size)
    variables = shapes_of(model, size)

    def whole(variables, images):
        return model.apply(variables, images)

    def halves(variables, images):
        maps = model.apply(variables, images, method="forward_features")
        return model.apply(variables, maps, method="forward_head")

    with traced_for("any"):
        programs = [jax.make_jaxpr(function)(variables, images) for function in (whole, halves)]
    assert str(programs[0]) == str(programs[1])


@pytest.mark.parametrize("name", tiers(FAMILIES, fast=SHALLOW, slow=FAMILIES))
def test_without_classes_the_output_is_what_the_classifier_gets(name):
    model = models.create_model(name)
    pooled = models.create_model(name, num_classes=0)
    size = None if name in FIXED_SIZE else FAMILIES[name]
    images, variables = images_of(model, size), shapes_of(model, size)

    def before_the_classifier(variables, images):
        maps = model.apply(variables, images, method="forward_features")
        return model.apply(variables, maps, method="forward_head", pre_logits=True)

    with traced_for("any"):
        expected = jax.make_jaxpr(before_the_classifier)(variables, images)
        program = jax.make_jaxpr(lambda v, x: pooled.apply(v, x))(variables, images)
    assert str(program) == str(expected)
    assert program.out_avals[0].shape == (2, PRE_LOGITS[name])
    main, *others = model.classifier
    left_out = (f"{main}.", *(f"{layer.partition('.')[0]}." for layer in others))
    kept = {path for path in paths(variables["params"]) if not path.startswith(left_out)}
    assert paths(shapes_of(pooled, size)["params"]) == kept


def test_without_classes_there_are_no_auxiliary_heads_in_training():
    model = models.googlenet_original(num_classes=0)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    init = functools.partial(model.init_with_output, train=True)
    output, variables = jax.eval_shape(init, keys, images_of(model, 32))
    assert output.shape == (2, 1024)
    assert not {"aux1", "aux2", "fc"} & variables["params"].keys()


# --- weights


@pytest.fixture(scope="module")
def module():
    return torchvision.models.squeezenet1_1().eval()


@pytest.mark.parametrize(
    ("arguments", "first_dropped"),
    [({"features_only": True, "out_indices": (0, 1)}, 6), ({"num_classes": 0}, 13)],
)
def test_weights_of_the_whole_network_load(arguments, first_dropped, module):
    state = module.state_dict()
    model = models.create_model("squeezenet1_1", **arguments)
    loaded = convert.to_torch(convert.from_torch(state, model))
    kept = {n for n in state if n.startswith("features.") and int(n.split(".")[1]) < first_dropped}
    assert loaded.keys() == kept
    assert all(np.array_equal(loaded[name], state[name].numpy()) for name in kept)
    # Those of the model itself do, too.
    convert.from_torch(loaded, model)


def test_only_what_the_whole_network_has_is_left_out(module):
    model = models.create_model("squeezenet1_1", features_only=True)
    state = module.state_dict()
    with pytest.raises(UserError, match="unexpected features.13.weight"):
        convert.from_torch({**state, "features.13.weight": state["features.0.weight"]}, model)
    del state["features.0.bias"]
    with pytest.raises(UserError, match="missing features.0.bias"):
        convert.from_torch(state, model)


def test_load_pretrained_builds_an_extractor(module, tmp_path):
    import torch

    path = tmp_path / "squeezenet.pth"
    torch.save(module.state_dict(), path)
    model, variables = convert.load_pretrained("squeezenet1_1", path, features_only=True)
    images = random_images(32)
    with torch.no_grad():
        expected = module.features(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    *_, last = jit(model.apply)(variables, images)
    np.testing.assert_allclose(last, expected.transpose(0, 2, 3, 1), rtol=1e-3, atol=1e-5)
    model, variables = convert.load_pretrained("squeezenet1_1", path, num_classes=0)
    np.testing.assert_array_equal(jit(model.apply)(variables, images), last.mean((1, 2)))


@pytest.mark.slow
def test_documented_examples_run(root, monkeypatch, capsys):
    def load(name, **arguments):
        model = models.create_model(name, **arguments)
        return model, random_variables(model)

    monkeypatch.setattr(convert, "load_pretrained", load)
    text = (root / "docs" / "python.md").read_text()
    blocks = re.findall(r"<!-- test: backbones -->\n```python\n(.*?)```", text, re.DOTALL)
    values = {"images": random_images(64, 1)}
    for block in blocks:
        exec(block, values)
        for name, shape in (("maps", [(8, 8, 128), (2, 2, 512)]), ("last_map", (2, 2, 512))):
            shapes = jax.tree.map(lambda leaf: leaf.shape[1:], values.get(name))
            assert name not in values or shapes == shape
    assert capsys.readouterr().out.split("\n")[:2] == ["layer1 64 4", "layer2 128 8"]
    assert values["features"].shape == (1, 512) and values["logits"].shape == (1, 1000)
    maps = values["detector"].apply(values["initial"], values["images"])
    assert [map_.shape for map_ in maps] == [(1, 8, 8, 5), (1, 2, 2, 5)]
