"""Network in network against a definition in torch."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from compare import images, worst_logits_error
from steps import worst_step_error
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jaxcnn import convert, models
from jaxcnn.testing import randomize
from jaxcnn.testing.arrays import LOGITS, STEPS


class TorchMlpConv(nn.Module):
    def __init__(self, in_channels: int, channels: int, *window: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, *window)
        self.mlp1 = nn.Conv2d(channels, channels, 1)
        self.mlp2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x):
        return self.mlp2(self.mlp1(self.conv(x).relu()).relu()).relu()


class TorchNiN(nn.Module):
    def __init__(self, channels: int = 3, num_classes: int = 1000):
        super().__init__()
        self.mlpconv1 = TorchMlpConv(channels, 96, 11, 4)
        self.mlpconv2 = TorchMlpConv(96, 256, 5, 1, 2)
        self.mlpconv3 = TorchMlpConv(256, 384, 3, 1, 1)
        self.mlpconv4 = TorchMlpConv(384, num_classes, 3, 1, 1)

    def forward(self, x):
        for block in (self.mlpconv1, self.mlpconv2, self.mlpconv3):
            x = nn.functional.max_pool2d(block(x), 3, 2)
        return self.mlpconv4(x).mean((2, 3))  # without dropout, which `pair` turns off in ours


def pair(channels: int, num_classes: int):
    torch.manual_seed(0)
    module = TorchNiN(channels, num_classes).double()
    for parameter in module.parameters():
        if parameter.ndim > 1:  # with torch's own initial weights the activations vanish
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    randomize(module, seed=0)
    return models.nin(num_classes=num_classes, dropout=0.0, param_dtype=jnp.float64), module


@pytest.mark.parametrize("channels", [1, 3])
def test_logits(channels):
    model, module = pair(channels, num_classes=7)
    variables = convert.from_torch(module.state_dict(), model)
    for train in (False, True):
        x = images(2, channels, 127, 139)
        assert worst_logits_error(model, variables, module, x, train=train) <= LOGITS


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
def test_three_training_steps(channels):
    model, module = pair(channels, num_classes=10)
    error, where = worst_step_error(model, module, (4, channels, 95, 95))
    assert error <= STEPS, where


def test_parameters_and_multiply_adds():
    module, info = TorchNiN(), models.model_info("nin")
    assert sum(p.numel() for p in module.parameters()) == info.parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * info.multiply_adds


def test_dropout_is_before_the_last_block():
    model, module = pair(3, num_classes=7)
    variables = convert.from_torch(module.state_dict(), model)
    dropped = model.clone(dropout=1.0).apply(variables, jnp.ones((1, 95, 95, 3)), train=True)
    last = module.mlpconv4(torch.zeros(1, 384, 2, 2).double()).mean((2, 3))
    np.testing.assert_allclose(dropped, last.detach(), rtol=1e-12)
