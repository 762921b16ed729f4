"""The ResNet family is torchvision's, in float64 to the last digits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from compare import FLOAT32_LOGITS, LOGITS, STEPS, nhwc, randomize, relative_error
from steps import worst_step_error

from jaxcnn import convert, models
from jaxcnn.models.layers import BatchNorm

RESNETS = [name for name in models.list_models() if "resne" in name]
BIGGEST = {"resnet152", "wide_resnet101_2", "resnext101_32x8d", "resnext101_64x4d"}
LAST_NORMS = {"resnet18": ("bn2",), "resnet34": ("bn2",)}
KEYWORDS = [
    ("resnet18", {"num_classes": 7}),
    ("resnet50", {"replace_stride_with_dilation": (False, True, True)}),
    ("resnet50", {"replace_stride_with_dilation": (True, False, True)}),
    ("resnet50", {"width_per_group": 32, "groups": 2}),
    ("wide_resnet50_2", {"num_classes": 3}),
    ("resnext50_32x4d", {"replace_stride_with_dilation": (False, False, True)}),
]


def pair(name: str, **kwargs):
    """Our model with its variables, and torchvision's with the same, both float64."""
    module = getattr(torchvision.models, name)(**kwargs).double()
    randomize(module, seed=0, last_norms=LAST_NORMS.get(name, ("bn3",)))
    model = models.create_model(name, **kwargs, param_dtype=jnp.float64)
    return model, convert.from_torch(module.state_dict(), model), module


def images(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def compare_logits(model, variables, module, x: np.ndarray) -> None:
    for train in (False, True):
        module.train(train)
        with torch.no_grad():
            reference = module(torch.from_numpy(x)).numpy()
        apply = functools.partial(model.apply, train=train, mutable=["batch_stats"])
        logits, _ = jax.jit(apply)(variables, nhwc(x))
        assert logits.dtype == jnp.float64
        assert relative_error(logits, reference) <= LOGITS, f"train={train}"


def test_the_family_is_complete():
    assert set(RESNETS) == {
        name
        for name in torchvision.models.list_models(torchvision.models)
        if name.startswith(("resnet", "resnext", "wide_resnet"))
    }


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in BIGGEST)) for n in RESNETS]
)
def test_logits_equal_torchvisions(name):
    compare_logits(*pair(name), images(2, 3, 65, 79))


@pytest.mark.parametrize(("name", "kwargs"), KEYWORDS)
def test_keyword_arguments_mean_what_they_mean_in_torchvision(name, kwargs):
    compare_logits(*pair(name, **kwargs), images(2, 3, 65, 79))


@pytest.mark.parametrize("size", [33, 224])
def test_other_image_sizes(size):
    compare_logits(*pair("resnet18"), images(2, 3, size, size))


def test_another_norm_layer():
    module = torchvision.models.resnet18(
        norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=1e-2, momentum=0.3)
    ).double()
    randomize(module, seed=0, last_norms=("bn2",))
    norm_layer = functools.partial(BatchNorm, eps=1e-2, momentum=0.3)
    model = models.resnet18(norm_layer=norm_layer, param_dtype=jnp.float64)
    variables = convert.from_torch(module.state_dict(), model)
    compare_logits(model, variables, module, images(2, 3, 65, 65))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d"])
def test_three_training_steps_equal_torchs(name):
    model, _, module = pair(name, num_classes=10)
    error, where = worst_step_error(model, module, (4, 3, 65, 65))
    assert error <= STEPS, where


def test_the_step_test_measures_the_port_and_not_chaos():
    """Torch against itself, its input moved by one unit in the last place."""
    module = pair("resnet50")[2].train()
    x = images(4, 3, 65, 65)
    with torch.no_grad():
        reference, moved = (
            module(torch.from_numpy(array)).numpy() for array in (x, np.nextafter(x, np.inf))
        )
    assert relative_error(moved, reference) <= LOGITS / 10


def test_float32_with_torchvisions_initial_weights():
    module = torchvision.models.resnet50().eval()
    model = models.resnet50()
    x = images(2, 3, 224, 224).astype(np.float32)
    with torch.no_grad():
        reference = module(torch.from_numpy(x)).numpy()
    logits = jax.jit(model.apply)(convert.from_torch(module.state_dict(), model), nhwc(x))
    assert logits.dtype == jnp.float32
    assert relative_error(logits, reference) <= FLOAT32_LOGITS


@pytest.mark.parametrize("channels", [1, 4])
def test_the_input_channels_follow_the_stem(channels):
    module = torchvision.models.resnet18()
    module.conv1 = torch.nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    module = module.double()
    model = models.resnet18(param_dtype=jnp.float64)
    variables = convert.from_torch(module.state_dict(), model)
    compare_logits(model, variables, module, images(2, channels, 64, 64))


def test_zero_init_residual_begins_every_branch_at_zero():
    model = models.resnet50(zero_init_residual=True)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    blocks = [block for stage in range(1, 5) for block in params[f"layer{stage}"].values()]
    assert len(blocks) == 16
    for block in blocks:
        assert not block["bn3"]["scale"].any()
        assert block["bn2"]["scale"].all()
