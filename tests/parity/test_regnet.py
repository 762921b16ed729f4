"""AnyNet and the RegNets: what test_torchvision.py does not compare."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from compare import images, worst_logits_error
from flax import linen as nn
from torchvision.models.regnet import BlockParams, RegNet

from jaxcnn import convert, models
from jaxcnn.errors import UserError
from jaxcnn.models.blocks import ConvNormActivation
from jaxcnn.models.layers import BatchNorm
from jaxcnn.testing import randomize
from jaxcnn.testing.arrays import LOGITS

# A network small enough to be compared in seconds. It is not a RegNet: it has other strides, and a
# stage narrower than the one before.
STAGES = {
    "depths": (1, 2, 1),
    "widths": (32, 64, 48),
    "group_widths": (8, 8, 4),
    "strides": (1, 2, 3),
}


def compare(module: torch.nn.Module, **kwargs) -> None:
    """Assert that AnyNet with these arguments computes what torch's module does."""
    module = module.double()
    randomize(module, seed=0, norms_of_branch=r"(trunk_output\.block\d\.block\d-\d+)\.f\.\w\.1$")
    model = models.anynet(**kwargs, num_classes=7, param_dtype=jnp.float64)
    variables = convert.from_torch(module.state_dict(), model)
    for train in (False, True):
        error = worst_logits_error(model, variables, module, images(4, 3, 33, 47), train=train)
        assert error <= LOGITS, f"train={train}"


def torchs(ratios: tuple[float, ...] = (1, 1, 1), se_ratio: float | None = None, **kwargs):
    multipliers = [1 / ratio for ratio in ratios]
    stages = {name: list(values) for name, values in STAGES.items()}
    params = BlockParams(**stages, bottleneck_multipliers=multipliers, se_ratio=se_ratio)
    return RegNet(params, num_classes=7, **kwargs)


@pytest.mark.parametrize("se_ratio", [None, 0.25])
def test_stages_that_are_not_a_regnets(se_ratio):
    ratios = (1, 2, 0.5)
    compare(torchs(ratios, se_ratio), **STAGES, bottleneck_ratios=ratios, se_ratio=se_ratio)


@pytest.mark.slow
def test_another_activation_and_norm():
    compare(
        torchs(
            se_ratio=0.25,
            activation=torch.nn.SiLU,
            norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=1e-2, momentum=0.3),
        ),
        **STAGES,
        se_ratio=0.25,
        activation=nn.silu,
        norm_layer=functools.partial(BatchNorm, eps=1e-2, momentum=0.3),
    )


class TorchStem(torchvision.ops.Conv2dNormActivation):
    def __init__(self, width_in, width_out, norm_layer, activation_layer):
        super().__init__(width_in, width_out, 7, 4, 3, 1, norm_layer, activation_layer)


class TorchPlainBlock(torchvision.ops.Conv2dNormActivation):
    def __init__(self, width_in, width_out, stride, norm_layer, activation, *others):
        super().__init__(width_in, width_out, 3, stride, None, 1, norm_layer, activation)


def plain_block(width, stride, norm_layer, activation, name, **others):
    return ConvNormActivation(
        width, 3, stride, norm_layer=norm_layer, activation=activation, name=name
    )


@pytest.mark.slow
def test_another_stem_and_block():
    compare(
        torchs(stem_type=TorchStem, stem_width=16, block_type=TorchPlainBlock),
        **STAGES,
        stem_type=functools.partial(ConvNormActivation, kernel_size=7, stride=4),
        stem_width=16,
        block_type=plain_block,
    )


def test_regnet_stages_equal_torchvisions():
    rng = random.Random(0)
    for _ in range(300):
        rule = {
            "depth": rng.randint(1, 64),
            "w_0": 8 * rng.randint(1, 64),
            "w_a": round(rng.uniform(0, 256), 2),
            "w_m": round(rng.uniform(1.05, 3), 2),
            "group_width": 8 * rng.randint(1, 40),
        }
        ratio = rng.choice([0.5, 1, 2, 4])
        theirs = BlockParams.from_init_params(**rule, bottleneck_multiplier=1 / ratio)
        ours = models.regnet_stages(**rule, bottleneck_ratio=ratio)
        expected = (theirs.depths, theirs.widths, theirs.group_widths)
        assert tuple(map(list, ours)) == expected, rule


def test_a_regnet_is_the_anynet_of_its_stages():
    stages = models.regnet_stages(depth=16, w_0=48, w_a=27.89, w_m=2.09, group_width=8)
    lists = {name: list(values) for name, values in stages._asdict().items()}
    anynet = models.create_model("anynet", num_classes=7, se_ratio=0.25, **lists)
    regnet = models.regnet_y_400mf(num_classes=7)
    x = images(2, 33, 33, 3)
    shapes, others = (jax.eval_shape(m.init, jax.random.key(0), x) for m in (regnet, anynet))
    assert shapes == others
    rng = np.random.default_rng(0)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.0, 0.1, leaf.shape), shapes)
    logits, same = (jax.jit(m.apply)(variables, x) for m in (regnet, anynet))
    assert np.ptp(logits) > 0
    np.testing.assert_array_equal(logits, same)


def test_anynet_is_regnet_x_400mf_by_default():
    shapes = convert.state_dict.expected_torch_shapes(models.anynet())
    running = ("running_mean", "running_var")
    sizes = [np.prod(shape) for name, shape in shapes.items() if not name.endswith(running)]
    info, same = models.model_info("anynet"), models.model_info("regnet_x_400mf")
    assert sum(sizes) == info.parameters == same.parameters
    assert info.multiply_adds == same.multiply_adds
    assert shapes == convert.state_dict.expected_torch_shapes(models.regnet_x_400mf())


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"depths": (1, 1)}, "2 depths, 4 widths"),
        ({"depths": (), "widths": (), "group_widths": ()}, "0 depths"),
        ({"strides": (1, 2, 0, 2)}, "strides must be at least 1"),
        ({"bottleneck_ratios": (1, 1, 0, 1)}, "bottleneck_ratios must be more than 0"),
        (
            {"group_widths": (16, 24, 16, 16)},
            "block2-0.*64 channels.*not divisible by the group width, 24",
        ),
        ({"se_ratio": 0.001}, "larger se_ratio"),
    ],
)
def test_invalid_arguments_of_anynet_are_refused(kwargs, words):
    with pytest.raises(UserError, match=words):
        jax.eval_shape(models.anynet(**kwargs).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"w_0": 20}, "multiple of 8"),
        ({"w_m": 1.0}, "w_m > 1"),
        ({"group_width": 0}, "group_width >= 1"),
        ({"bottleneck_ratio": 100}, "without channels"),
    ],
)
def test_invalid_arguments_of_regnet_stages_are_refused(changed, words):
    rule = {"depth": 22, "w_0": 24, "w_a": 24.48, "w_m": 2.54, "group_width": 16}
    with pytest.raises(UserError, match=words):
        models.regnet_stages(**{**rule, **changed})
