"""The gradients of one training step are torch's, for maps of many rows too.

In float64 at 224 pixels, with batches whose largest map has more than 16,384 rows (N * H * W),
where a release of JAX was found to compute wrong sums. Networks are as shallow as
their family's classes allow.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
import torchvision
from compare import as_tuple, images, nhwc
from families import FAMILIES
from tiers import tiers
from torch import nn
from torchvision.models import efficientnet as tv_efficientnet
from torchvision.models import mobilenetv3 as tv_mobilenet_v3
from torchvision.models import regnet as tv_regnet
from torchvision.models import resnet as tv_resnet
from torchvision.models import vgg as tv_vgg
from torchvision.models.convnext import CNBlockConfig

from jaxcnn import convert, models
from jaxcnn.models import densenet, mnasnet, mobilenet_v3, resnet
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.convnext import ConvNeXt
from jaxcnn.models.efficientnet import EfficientNet, FusedMBConv, MBConv, Stage
from jaxcnn.models.layers import BatchNorm
from jaxcnn.models.vgg import VGG
from jaxcnn.testing import randomize, relative_error, use_exact_hardsigmoid
from jaxcnn.testing.arrays import STEPS
from jaxcnn.testing.compiling import jit
from jaxcnn.training.step import TrainState, make_train_step

MANY_ROWS = 16_384
CLASSES = 10

Pair = tuple[Classifier, nn.Module]
ours = {"num_classes": CLASSES, "param_dtype": jnp.float64}
theirs = {"num_classes": CLASSES}


def whole(name: str, **kwargs: Any) -> Pair:
    """A network of torchvision's as it is."""
    module = getattr(torchvision.models, name)(**theirs, **kwargs)
    kwargs.pop("init_weights", None)
    return models.create_model(name, **ours, **kwargs), module


def shallow_resnet() -> Pair:
    layers = (1, 1, 1, 1)
    return (
        resnet.ResNet(resnet.BasicBlock, layers, **ours),
        tv_resnet.ResNet(tv_resnet.BasicBlock, list(layers), **theirs),
    )


def shallow_resnext() -> Pair:
    layers, groups = (1, 1, 1, 1), {"groups": 32, "width_per_group": 4}
    return (
        resnet.ResNet(resnet.Bottleneck, layers, **groups, **ours),
        tv_resnet.ResNet(tv_resnet.Bottleneck, list(layers), **groups, **theirs),
    )


def shallow_densenet() -> Pair:
    arguments = {"growth_rate": 32, "block_config": (1, 1, 1, 1)}
    return (
        densenet.DenseNet(**arguments, **ours),
        torchvision.models.DenseNet(**arguments, **theirs),
    )


def shallow_vgg() -> Pair:
    channels = (64, 128, 256, 512, 512)
    features = tv_vgg.make_layers([x for c in channels for x in (c, "M")], batch_norm=True)
    blocks = tuple((1, c) for c in channels)
    return (
        VGG(blocks, batch_norm=True, dropout=0.0, **ours),
        tv_vgg.VGG(features, dropout=0.0, init_weights=False, **theirs),
    )


def shallow_mobilenet_v2() -> Pair:
    rows = ((1, 16, 1, 1), (6, 24, 1, 2), (6, 32, 1, 2), (6, 64, 1, 2), (6, 96, 1, 2))
    return whole("mobilenet_v2", inverted_residual_setting=rows, width_mult=0.5, dropout=0.0)


def shallow_mobilenet_v3() -> Pair:
    rows = [  # channels, kernel, expanded, features, squeeze, activation, stride
        (16, 3, 16, 16, False, "RE", 1),
        (16, 3, 64, 24, False, "RE", 2),
        (24, 5, 72, 40, True, "RE", 2),
        (40, 3, 240, 80, False, "HS", 2),
        (80, 5, 480, 96, True, "HS", 2),
    ]
    configs = [tv_mobilenet_v3.InvertedResidualConfig(*row, 1, 0.5) for row in rows]
    activations = {"RE": jax.nn.relu, "HS": mobilenet_v3.nn.hard_swish}
    table = tuple(
        mobilenet_v3.Bneck(kernel, expanded, features, squeeze, activations[name], stride)
        for _, kernel, expanded, features, squeeze, name, stride in rows
    )
    return (
        mobilenet_v3.MobileNetV3(table, 256, width_mult=0.5, dropout=0.0, **ours),
        tv_mobilenet_v3.MobileNetV3(configs, 128, dropout=0.0, **theirs),
    )


def narrow_mnasnet() -> Pair:
    """As deep as all of them, but half as wide as the narrowest and less."""
    return (
        mnasnet.MNASNet(0.2, dropout=0.0, **ours),
        torchvision.models.MNASNet(0.2, dropout=0.0, **theirs),
    )


def shallow_efficientnet() -> Pair:
    rows = [  # fused, expansion, kernel, stride, channels, features
        (False, 1, 3, 1, 16, 16),
        (True, 4, 3, 2, 16, 24),
        (False, 6, 5, 2, 24, 40),
        (False, 6, 3, 2, 40, 80),
        (False, 6, 5, 2, 80, 112),
    ]
    configs, stages = [], []
    for fused, expansion, kernel, stride, channels, features in rows:
        if fused:
            config, block = tv_efficientnet.FusedMBConvConfig, FusedMBConv
        else:
            config, block = tv_efficientnet.MBConvConfig, MBConv
        configs.append(config(expansion, kernel, stride, channels, features, 1))
        stages.append(Stage(block, expansion, kernel, stride, features, 1))
    model = EfficientNet(
        stages,
        stem_features=16,
        last_channel=256,
        width_mult=1.0,
        depth_mult=1.0,
        batch_norm=BatchNorm,
        dropout=0.0,
        stochastic_depth_prob=0.0,
        **ours,
    )
    module = torchvision.models.EfficientNet(
        configs, dropout=0.0, stochastic_depth_prob=0.0, last_channel=256, **theirs
    )
    return model, module


def shallow_regnet() -> Pair:
    stages = {
        "depths": (1, 1, 1, 1),
        "widths": (48, 104, 208, 440),
        "group_widths": (8, 8, 8, 8),
        "strides": (2, 2, 2, 2),
    }
    params = tv_regnet.BlockParams(
        **{key: list(values) for key, values in stages.items()},
        bottleneck_multipliers=[1.0] * 4,
        se_ratio=0.25,
    )
    model = models.anynet(**stages, se_ratio=0.25, **ours)
    return model, tv_regnet.RegNet(params, **theirs)


def shallow_convnext() -> Pair:
    widths, depths = (24, 48, 96, 192), (1, 1, 1, 1)
    settings = zip(widths, (*widths[1:], None), depths, strict=True)
    configs = [CNBlockConfig(*setting) for setting in settings]
    return (
        ConvNeXt(widths, depths, layer_scale=0.5, **ours),
        torchvision.models.ConvNeXt(configs, layer_scale=0.5, **theirs),
    )


# By family: the pair, and the batch [N, C, H, W] whose largest map has many rows. Inception v3 is
# not here: its three steps in test_torchvision.py are at 299 pixels, on maps of 133,206 rows.
CASES: dict[str, tuple[Callable[[], Pair], tuple[int, int, int, int]]] = {
    "resnet": (shallow_resnet, (2, 3, 224, 224)),
    "resnext": (shallow_resnext, (2, 3, 224, 224)),
    "alexnet": (functools.partial(whole, "alexnet", dropout=0.0), (6, 3, 224, 224)),
    "densenet": (shallow_densenet, (2, 3, 224, 224)),
    "googlenet": (
        functools.partial(whole, "googlenet", dropout=0.0, dropout_aux=0.0, init_weights=False),
        (2, 3, 224, 224),
    ),
    "squeezenet": (functools.partial(whole, "squeezenet1_1", dropout=0.0), (2, 3, 224, 224)),
    "vgg": (shallow_vgg, (1, 3, 224, 224)),
    "mobilenet_v2": (shallow_mobilenet_v2, (2, 3, 224, 224)),
    "mobilenet_v3": (shallow_mobilenet_v3, (2, 3, 224, 224)),
    "mnasnet": (narrow_mnasnet, (2, 3, 224, 224)),
    "shufflenet_v2": (functools.partial(whole, "shufflenet_v2_x0_5"), (2, 3, 224, 224)),
    "efficientnet": (shallow_efficientnet, (2, 3, 224, 224)),
    "regnet": (shallow_regnet, (2, 3, 224, 224)),
    "convnext": (shallow_convnext, (6, 3, 224, 224)),
}


def rows_after_stride_2(shape: tuple[int, int, int, int]) -> int:
    """Rows (N * H * W) of the first map of a network whose first convolution has stride 2."""
    batch, _, height, width = shape
    return batch * ((height - 1) // 2) * ((width - 1) // 2)


def test_every_family_is_compared_on_maps_of_many_rows():
    by_their_steps = {
        name
        for name, family in FAMILIES.items()
        if any(rows_after_stride_2(shape) > MANY_ROWS for shape in family.steps.values())
    }
    assert set(FAMILIES) <= set(CASES) | by_their_steps


def torchs_gradients(
    module: nn.Module, x: np.ndarray, labels: np.ndarray, aux_weight: float
) -> tuple[float, dict[str, np.ndarray], int]:
    """Loss, gradients by name, and the rows of the largest map."""
    rows = 0

    def count(layer: nn.Module, inputs: Any, output: Any) -> None:
        nonlocal rows
        if isinstance(layer, nn.Conv2d):
            rows = max(rows, output[:, 0].numel())

    for layer in module.modules():
        layer.register_forward_hook(count)
    losses = [
        nn.functional.cross_entropy(logits, torch.from_numpy(labels))
        for logits in as_tuple(module.train()(torch.from_numpy(x)))
    ]
    loss = losses[0] + aux_weight * sum(losses[1:])
    loss.backward()
    return loss.item(), {n: p.grad.numpy() for n, p in module.named_parameters()}, rows


def our_gradients(
    model: Classifier, variables: Any, x: np.ndarray, labels: np.ndarray
) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients of ``make_train_step``, by torch's names."""
    optimizer = optax.trace(decay=0.0)  # keeps the gradients
    step = jit(make_train_step(model, optimizer), static_argnames="axis_name")
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
    )
    state, metrics = step(state, {"image": nhwc(x), "label": labels}, axis_name=None)
    return float(metrics["loss"]), convert.to_torch({"params": state.opt_state.trace})


@pytest.mark.parametrize(
    "case", tiers(CASES, slow=("resnet", "resnext", "alexnet", "mobilenet_v2"))
)
def test_gradients_of_a_step_at_full_size_equal_torchs(case):
    build, shape = CASES[case]
    family = FAMILIES.get(case, FAMILIES["resnet"])
    torch.manual_seed(0)
    model, module = build()
    module = module.double()
    use_exact_hardsigmoid(module)
    randomize(module, seed=0, norms_of_branch=family.norms_of_branch)
    variables = convert.from_torch(module.state_dict(), model)
    x, labels = images(*shape), np.arange(shape[0]) % CLASSES
    loss, gradients = our_gradients(model, variables, x, labels)
    expected_loss, expected, rows = torchs_gradients(module, x, labels, family.aux_weight)
    assert rows > MANY_ROWS
    assert relative_error(loss, expected_loss) <= STEPS
    assert gradients.keys() == expected.keys()
    # Of the network's largest: a gradient that is zero in exact arithmetic, such as that of a bias
    # before a batch norm, is noise on both sides.
    largest = max(np.abs(gradient).max() for gradient in expected.values())
    errors = {n: np.abs(gradients[n] - g).max() / largest for n, g in expected.items()}
    worst = max(errors, key=errors.__getitem__)
    assert errors[worst] <= STEPS, worst
