"""ResNets: what test_torchvision.py does not compare."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from compare import FLOAT32_LOGITS, images, nhwc, pair, worst_logits_error

from jaxcnn import convert, models
from jaxcnn.models.layers import BatchNorm
from jaxcnn.testing import randomize, relative_error
from jaxcnn.testing.arrays import LOGITS


def compare_logits(model, variables, module, x: np.ndarray) -> None:
    for train in (False, True):
        assert worst_logits_error(model, variables, module, x, train=train) <= LOGITS


@pytest.mark.parametrize("size", [33, 224])
def test_other_image_sizes(size):
    compare_logits(*pair("resnet18"), images(2, 3, size, size))


def test_another_norm_layer():
    module = torchvision.models.resnet18(
        norm_layer=functools.partial(torch.nn.BatchNorm2d, eps=1e-2, momentum=0.3)
    ).double()
    randomize(module, seed=0, norms_of_branch=r"(layer\d\.\d+)\.bn\d$")
    norm_layer = functools.partial(BatchNorm, eps=1e-2, momentum=0.3)
    model = models.resnet18(norm_layer=norm_layer, param_dtype=jnp.float64)
    variables = convert.from_torch(module.state_dict(), model)
    compare_logits(model, variables, module, images(2, 3, 65, 65))


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
def test_from_torch_reads_the_input_channels_from_the_first_convolution(channels):
    module = torchvision.models.resnet18()
    module.conv1 = torch.nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    module = module.double()
    model = models.resnet18(param_dtype=jnp.float64)
    variables = convert.from_torch(module.state_dict(), model)
    compare_logits(model, variables, module, images(2, channels, 64, 64))


@pytest.mark.slow
def test_zero_init_residual_zeroes_the_last_norm_of_every_branch():
    model = models.resnet50(zero_init_residual=True)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    blocks = [block for stage in range(1, 5) for block in params[f"layer{stage}"].values()]
    assert len(blocks) == 16
    for block in blocks:
        assert not block["bn3"]["scale"].any()
        assert block["bn2"]["scale"].all()
