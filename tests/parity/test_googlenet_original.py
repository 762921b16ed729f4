"""GoogLeNet as published against a definition in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from compare import images, nhwc, worst_logits_error
from steps import worst_step_error
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import GoogLeNetOutputs

from jaxcnn import convert, models
from jaxcnn.convert.state_dict import from_torch_unchecked
from jaxcnn.errors import UserError
from jaxcnn.models.googlenet import InceptionWidths
from jaxcnn.models.googlenet_original import Inception
from jaxcnn.testing import randomize, relative_error
from jaxcnn.testing.arrays import LOGITS, STEPS


class TorchInception(nn.Module):
    def __init__(self, channels, conv1x1, reduce3x3, conv3x3, reduce5x5, conv5x5, pool_proj):
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels, conv1x1, 1)
        self.reduce3x3 = nn.Conv2d(channels, reduce3x3, 1)
        self.conv3x3 = nn.Conv2d(reduce3x3, conv3x3, 3, padding=1)
        self.reduce5x5 = nn.Conv2d(channels, reduce5x5, 1)
        self.conv5x5 = nn.Conv2d(reduce5x5, conv5x5, 5, padding=2)
        self.pool_proj = nn.Conv2d(channels, pool_proj, 1)

    def forward(self, x):
        branches = (
            self.conv1x1(x),
            self.conv3x3(self.reduce3x3(x).relu()),
            self.conv5x5(self.reduce5x5(x).relu()),
            self.pool_proj(F.max_pool2d(x, 3, 1, 1)),
        )
        return torch.cat(branches, 1).relu()


class TorchNaiveInception(nn.Module):
    def __init__(self, channels: int, conv1x1: int, conv3x3: int, conv5x5: int):
        super().__init__()
        self.conv1x1 = nn.Conv2d(channels, conv1x1, 1)
        self.conv3x3 = nn.Conv2d(channels, conv3x3, 3, padding=1)
        self.conv5x5 = nn.Conv2d(channels, conv5x5, 5, padding=2)

    def forward(self, x):
        convolved = torch.cat((self.conv1x1(x), self.conv3x3(x), self.conv5x5(x)), 1)
        return torch.cat((convolved.relu(), F.max_pool2d(x, 3, 1, 1)), 1)


class TorchAuxiliaryHead(nn.Module):
    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, 128, 1)
        self.fc1 = nn.Linear(4 * 4 * 128, 1024)
        self.fc2 = nn.Linear(1024, num_classes)

    def forward(self, x):
        x = self.conv(F.avg_pool2d(x, 5, 3)).relu()
        return self.fc2(self.fc1(x.flatten(1)).relu())


class TorchGoogLeNet(nn.Module):
    """Without dropout, which `pair` turns off in ours."""

    def __init__(self, channels: int = 3, num_classes: int = 1000, aux_logits: bool = True):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3)
        self.conv2_reduce = nn.Conv2d(64, 64, 1)
        self.conv2 = nn.Conv2d(64, 192, 3, 1, 1)
        self.inception3a = TorchInception(192, 64, 96, 128, 16, 32, 32)
        self.inception3b = TorchInception(256, 128, 128, 192, 32, 96, 64)
        self.inception4a = TorchInception(480, 192, 96, 208, 16, 48, 64)
        self.inception4b = TorchInception(512, 160, 112, 224, 24, 64, 64)
        self.inception4c = TorchInception(512, 128, 128, 256, 24, 64, 64)
        self.inception4d = TorchInception(512, 112, 144, 288, 32, 64, 64)
        self.inception4e = TorchInception(528, 256, 160, 320, 32, 128, 128)
        self.inception5a = TorchInception(832, 256, 160, 320, 32, 128, 128)
        self.inception5b = TorchInception(832, 384, 192, 384, 48, 128, 128)
        self.aux1 = TorchAuxiliaryHead(512, num_classes) if aux_logits else None
        self.aux2 = TorchAuxiliaryHead(528, num_classes) if aux_logits else None
        self.fc = nn.Linear(1024, num_classes)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.norm = nn.LocalResponseNorm(5)

    def forward(self, x):
        x = self.norm(self.pool(self.conv1(x).relu()))
        x = self.conv2(self.conv2_reduce(x).relu()).relu()
        x = self.pool(self.norm(x))
        x = self.pool(self.inception3b(self.inception3a(x)))
        x4a = self.inception4a(x)
        x4d = self.inception4d(self.inception4c(self.inception4b(x4a)))
        x = self.pool(self.inception4e(x4d))
        x = self.inception5b(self.inception5a(x))
        logits = self.fc(x.mean((2, 3)))
        if self.training and self.aux1 is not None:
            return GoogLeNetOutputs(logits, self.aux2(x4d), self.aux1(x4a))
        return logits


def pair(channels: int, num_classes: int, aux_logits: bool = True):
    torch.manual_seed(0)
    module = TorchGoogLeNet(channels, num_classes, aux_logits).double()
    for parameter in module.parameters():
        if parameter.ndim > 1:  # with torch's own initial weights the activations vanish
            nn.init.kaiming_normal_(parameter, nonlinearity="relu")
    randomize(module, seed=0)
    model = models.googlenet_original(
        num_classes=num_classes,
        aux_logits=aux_logits,
        dropout=0.0,
        dropout_aux=0.0,
        param_dtype=jnp.float64,
    )
    return model, module


def compare_logits(channels: int, size: tuple[int, int], aux_logits: bool) -> None:
    model, module = pair(channels, 7, aux_logits)
    variables = convert.from_torch(module.state_dict(), model)
    for train in (False, True):
        x = images(2, channels, *size)
        assert worst_logits_error(model, variables, module, x, train=train) <= LOGITS


def test_logits_of_all_heads():
    compare_logits(3, (225, 239), aux_logits=True)


@pytest.mark.slow
def test_logits_without_auxiliary_heads_from_the_smallest_size():
    compare_logits(1, (31, 45), aux_logits=False)


@pytest.mark.slow
def test_three_training_steps():
    model, module = pair(channels=1, num_classes=10)
    error, where = worst_step_error(model, module, (2, 1, 223, 223), aux_weight=0.3)
    assert error <= STEPS, where


def test_parameters_and_multiply_adds():
    """Without the auxiliary heads."""
    module, info = TorchGoogLeNet(aux_logits=False), models.model_info("googlenet_original")
    assert sum(p.numel() for p in module.parameters()) == info.parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * info.multiply_adds


def test_the_naive_module():
    module = TorchNaiveInception(24, 8, 16, 4).double()
    randomize(module, seed=0)
    naive = Inception(InceptionWidths(8, 0, 16, 0, 4, 0), naive=True)
    x = images(2, 24, 9, 11)
    variables = from_torch_unchecked(module.state_dict())
    output = jax.jit(naive.apply)(variables, nhwc(x))
    assert output.shape == (2, 9, 11, 8 + 16 + 4 + 24)
    theirs = module(torch.from_numpy(x)).detach().numpy()
    assert relative_error(output, nhwc(theirs)) <= LOGITS


@pytest.mark.parametrize("size", [222, 271])
def test_images_of_a_size_the_auxiliary_heads_cannot_use_are_refused(size):
    model = models.googlenet_original()
    shape = jax.ShapeDtypeStruct((1, size, size, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), shape)
    with pytest.raises(UserError, match="need images 223 to 270.*aux_logits=False"):
        jax.eval_shape(lambda v, x: model.apply(v, x, train=True), variables, shape)
