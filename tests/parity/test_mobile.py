"""MobileNets, MnasNets and EfficientNets: what test_torchvision.py does not compare."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from flax import linen as nn

from jaxcnn import models
from jaxcnn.errors import UserError
from jaxcnn.models.layers import BatchNorm, Dropout, StochasticDepth

EFFICIENTNETS = models.list_models(family="efficientnet")


def our_settings(name: str, **kwargs) -> dict[str, tuple[float, ...]]:
    """The arguments of each norm, dropout and stochastic depth, by path."""
    settings = {}

    def record(call, args, kwargs, context):
        layer, path = context.module, ".".join(context.module.path)
        if isinstance(layer, BatchNorm):
            settings[path] = (layer.eps, layer.momentum)
        if isinstance(layer, (Dropout, StochasticDepth)):
            settings[path] = (layer.rate,)
        return call(*args, **kwargs)

    with nn.intercept_methods(record):
        model = models.create_model(name, **kwargs)
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 65, 65, 3)))
    return settings


def torchs_settings(name: str, **kwargs) -> dict[str, tuple[float, ...]]:
    settings = {}
    with torch.device("meta"):
        module = getattr(torchvision.models, name)(**kwargs)
    for path, layer in module.named_modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            settings[path] = (layer.eps, layer.momentum)
        if isinstance(layer, torch.nn.Dropout):
            settings[path] = (layer.p,)
        if isinstance(layer, torchvision.ops.StochasticDepth):
            block = module.get_submodule(path.rpartition(".")[0])
            if block.use_res_connect:  # in other blocks it is never called
                settings[path] = (layer.p,)
    return settings


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("mobilenet_v2", {"dropout": 0.4}),
        ("mobilenet_v3_small", {}),
        ("mnasnet0_5", {}),
        ("efficientnet_b0", {"stochastic_depth_prob": 0.5}),
        ("efficientnet_v2_s", {}),
    ],
)
def test_norms_and_dropout_have_torchvisions_settings(name, kwargs):
    assert our_settings(name, **kwargs) == torchs_settings(name, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_each_efficientnet_has_torchvisions_settings(name):
    with torch.device("meta"):
        module = getattr(torchvision.models, name)()
    model = models.create_model(name)
    assert model.dropout == module.classifier[0].p
    norm, reference = model.batch_norm(), module.features[0][1]
    assert (norm.eps, norm.momentum) == (reference.eps, reference.momentum)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert [model.input_size] == weights.transforms().crop_size


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"])
def test_norm_layer_replaces_every_norm(name):
    ours, theirs = (
        settings(name, norm_layer=functools.partial(norm, eps=1e-2, momentum=0.3))
        for settings, norm in ((our_settings, BatchNorm), (torchs_settings, torch.nn.BatchNorm2d))
    )
    assert ours == theirs
    assert (1e-2, 0.3) in ours.values()


@pytest.mark.slow
def test_stochastic_depth_skips_whole_branches():
    """With a probability of 1 the block is the identity in training."""
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 8))
    block = functools.partial(models.efficientnet.MBConv, 8, 6, 3, 1)
    variables = block(0.0).init(jax.random.key(0), x)
    apply = functools.partial(block(1.0).apply, variables, x, train=True, mutable=True)
    np.testing.assert_array_equal(apply(rngs={"dropout": jax.random.key(1)})[0], x)
    assert np.abs(block(1.0).apply(variables, x) - x).max() > 0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"width_mult": 0}, "width_mult must be more than 0"),
        ({"round_nearest": 0}, "round_nearest must be at least 1"),
        ({"inverted_residual_setting": ()}, "at least one row"),
        ({"inverted_residual_setting": ((1, 16, 1),)}, "rows of four numbers"),
        ({"inverted_residual_setting": ((1, 16, 1, 3),)}, r"stride \(1 or 2\)"),
    ],
)
def test_invalid_arguments_of_mobilenet_v2_are_refused(kwargs, message):
    model = models.mobilenet_v2(**kwargs)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 33, 33, 3)))


def test_torchs_hardsigmoid_has_a_float32_gradient_in_float64():
    """This is why compare.py replaces it in the MobileNetV3 that ours is compared with."""
    x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.hardsigmoid(x).backward()
    assert x.grad == np.float64(np.float32(1) / np.float32(6))
