"""ConvNeXt: what test_torchvision.py does not compare."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from compare import images, worst_logits_error
from flax import linen as nn
from torchvision.models.convnext import CNBlockConfig

from jaxcnn import convert
from jaxcnn.errors import UserError
from jaxcnn.models.convnext import ConvNeXt
from jaxcnn.models.layers import BatchNorm
from jaxcnn.testing import randomize
from jaxcnn.testing.arrays import LOGITS

# A narrow network with all parts of a ConvNeXt.
WIDTHS, DEPTHS = (8, 16, 24), (2, 1, 2)


def small(**kwargs) -> ConvNeXt:
    return ConvNeXt(WIDTHS, DEPTHS, num_classes=7, **kwargs)


def torchs_small(**kwargs) -> torch.nn.Module:
    settings = zip(WIDTHS, (*WIDTHS[1:], None), DEPTHS, strict=True)
    configs = [CNBlockConfig(*setting) for setting in settings]
    return torchvision.models.ConvNeXt(configs, num_classes=7, **kwargs)


def compare(module: torch.nn.Module, model: ConvNeXt) -> None:
    module = module.double()
    randomize(module, seed=0)
    variables = convert.from_torch(module.state_dict(), model)
    for train in (False, True):
        error = worst_logits_error(model, variables, module, images(4, 3, 47, 33), train=train)
        assert error <= LOGITS, f"train={train}"


def test_another_norm_layer():
    norms = (
        functools.partial(n, eps=1e-2, momentum=0.3) for n in (torch.nn.BatchNorm2d, BatchNorm)
    )
    theirs, ours = norms
    model = small(norm_layer=ours, layer_scale=0.5, param_dtype=jnp.float64)
    compare(torchs_small(norm_layer=theirs, layer_scale=0.5), model)


def test_the_last_branch_is_skipped_with_probability_one():
    """With a probability of 1 stochastic depth is not random: it skips the last block's branch."""
    module = torchvision.models.ConvNeXt(
        [CNBlockConfig(8, None, 2)], stochastic_depth_prob=1.0, layer_scale=0.5, num_classes=7
    )
    model = ConvNeXt(
        (8,),
        (2,),
        stochastic_depth_prob=1.0,
        layer_scale=0.5,
        num_classes=7,
        param_dtype=jnp.float64,
    )
    compare(module, model)


def test_stochastic_depth_grows_from_zero_with_depth():
    module = torchs_small(stochastic_depth_prob=0.4)
    theirs = [m.p for m in module.modules() if isinstance(m, torchvision.ops.StochasticDepth)]
    rates = {}

    def record(next_call, args, kwargs, context):
        if context.module.name == "stochastic_depth":
            rates[context.module.path] = context.module.rate
        return next_call(*args, **kwargs)

    with nn.intercept_methods(record):
        x = jnp.zeros((1, 32, 32, 3))
        jax.eval_shape(small(stochastic_depth_prob=0.4).init, jax.random.key(0), x)
    assert list(rates.values()) == theirs
    assert theirs[0] == 0 and theirs[-1] == 0.4


def test_conversion_keeps_the_shape_of_layer_scale():
    module = torchs_small()
    randomize(module, seed=0)
    state_dict = module.state_dict()
    variables = convert.from_torch(state_dict, small())
    scale = variables["params"]["features"]["1"]["0"]["layer_scale"]
    assert scale.shape == (8, 1, 1)
    back = convert.to_torch(variables)
    unchecked = convert.state_dict.from_torch_unchecked(state_dict)
    jax.tree.map(np.testing.assert_array_equal, unchecked, variables)
    assert back.keys() == state_dict.keys()
    for name, value in state_dict.items():
        np.testing.assert_array_equal(back[name], value.numpy())


def test_an_invalid_stochastic_depth_prob_is_refused():
    with pytest.raises(UserError, match="stochastic_depth_prob=1.5 is not a probability"):
        small(stochastic_depth_prob=1.5).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def test_a_single_block_is_never_skipped():
    model = ConvNeXt((8,), (1,), stochastic_depth_prob=0.5)
    x = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    # Training needs no random numbers.
    jax.eval_shape(lambda key, x: model.init(key, x, train=True), jax.random.key(0), x)
