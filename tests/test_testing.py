"""The public harness: it finds what is planted, and names the layer."""

import copy
from functools import partial

import jax
import numpy as np
import pytest
import torch
import torchvision
from flax import linen as nn
from tiny import TinyNet
from torch.nn import functional as F

from jaxcnn import models, testing
from jaxcnn.models import layers

IMAGES = np.random.default_rng(0).standard_normal((2, 33, 33, 3))


class TorchTinyNet(torch.nn.Module):
    """``TinyNet`` in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(8)
        self.conv3 = torch.nn.Conv2d(8, 8, 3, stride=2)
        self.fc = torch.nn.Linear(8, 10)
        self.activation = F.relu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.activation(self.bn2(self.conv2(x)))
        x = F.relu(self.conv3(x))
        return self.fc(x.mean((2, 3)))


def tiny(**changes) -> TorchTinyNet:
    module = TorchTinyNet()
    for name, value in changes.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize("train", [False, True])
def test_equal_networks_are_equal(train, capsys):
    module = TorchTinyNet()
    before = copy.deepcopy(module.state_dict())
    comparison = testing.compare(TinyNet(), module, IMAGES, train=train)
    assert comparison.equal and comparison.first_difference is None
    assert [row.path for row in comparison.rows] == [
        *("conv1", "bn1", "conv2", "bn2", "conv3", "fc", "")
    ]
    table = capsys.readouterr().out
    assert "All 7 layers are equal to 1e-12." in table
    assert table.splitlines()[4].split()[:4] == ["conv2", "Conv", "Conv2d", "2x33x33x8"]
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])


PLANTED = {
    "epsilon": ({"bn2": torch.nn.BatchNorm2d(8, eps=1e-3)}, "in 'bn2': its input is the same"),
    "padding": ({"conv1": torch.nn.Conv2d(3, 8, 3, bias=False)}, "in 'conv1': its input is the"),
    "activation": ({"activation": F.gelu}, "between 'bn2', whose output is the same, and 'conv3'"),
    "stride": ({"conv3": torch.nn.Conv2d(8, 8, 3, stride=1)}, r"\[2, 16, 16, 8\] here, \[2, 8, 31"),
}


@pytest.mark.parametrize(("changes", "words"), PLANTED.values(), ids=PLANTED)
def test_planted_difference_is_named(changes, words):
    comparison = testing.compare(TinyNet(), tiny(**changes), IMAGES)
    assert not comparison.equal and comparison.problems == ()
    with pytest.raises(AssertionError, match=words):
        assert comparison.equal, comparison.first_difference


def test_parameters_of_one_network_only_are_named():
    missing = tiny(fc=torch.nn.Linear(8, 10, bias=False), conv1=torch.nn.Conv2d(3, 8, 3, padding=1))
    comparison = testing.compare(TinyNet(), missing, IMAGES)
    assert comparison.problems == (
        "fc.bias exists in the Flax module only.",
        "conv1.bias exists in the PyTorch module only.",
    )
    assert "in 'conv1': its input is the same" in comparison.first_difference
    wider = testing.compare(TinyNet(num_classes=9), tiny(), IMAGES)
    assert "fc.bias has shape [9] in the Flax module; PyTorch's has [10]." in wider.problems


def test_network_that_ends_with_an_error_is_compared_up_to_it():
    broken = tiny(conv3=torch.nn.Conv2d(4, 8, 3))
    comparison = testing.compare(TinyNet(), broken, IMAGES)
    assert any("PyTorch module ended with an error: Runtime" in p for p in comparison.problems)
    assert [row.path for row in comparison.rows] == ["conv1", "bn1", "conv2", "bn2"]

    class Broken(TinyNet):
        @nn.compact
        def forward(self, x: jax.Array, train: bool = False) -> jax.Array:
            x = layers.Conv(8, 3, padding=1, use_bias=False, name="conv1")(x)
            if not self.is_initializing():
                raise ValueError("not finished")
            return x

    comparison = testing.compare(Broken(), TorchTinyNet(), IMAGES)
    assert "The Flax module ended with an error: ValueError: not finished" in comparison.problems
    assert [row.path for row in comparison.rows] == ["conv1"]


def test_gradients_and_steps():
    for train in (False, True):
        errors = testing.compare_gradients(TinyNet(), TorchTinyNet(), IMAGES, train=train)
        assert errors.keys() == {"input", *dict(TorchTinyNet().named_parameters())}
        assert max(errors.values()) < 1e-11
    errors = testing.compare_steps(TinyNet(), TorchTinyNet(), IMAGES)
    assert {"losses", "bn1.running_var", "momentum of conv1.weight"} <= errors.keys()
    assert max(errors.values()) < 1e-10


def test_gradients_and_steps_see_a_difference():
    module = tiny(bn2=torch.nn.BatchNorm2d(8, eps=1e-3, momentum=0.2))
    assert max(testing.compare_gradients(TinyNet(), module, IMAGES).values()) > 1e-4
    errors = testing.compare_steps(TinyNet(), module, IMAGES)
    assert errors["losses"] > 1e-6 and errors["bn2.running_var"] > 1e-2


def planted_in_resnet50(module: torch.nn.Module, kind: str) -> tuple[str, str]:
    if kind == "epsilon":
        module.layer2[1].bn2.eps = 1e-3
        return "in 'layer2.1.bn2': its input is the same", ""
    if kind == "padding":
        module.layer3[0].conv2.padding = (0, 0)
        return "in 'layer3.0.conv2': its input is the same", "The PyTorch module ended with"
    if kind == "bias":
        module.layer2[0].conv1.bias = torch.nn.Parameter(torch.zeros(128))
        return "in 'layer2.0.conv1': its input is", "layer2.0.conv1.bias exists in the PyTorch"
    module.layer4[1].relu = torch.nn.Softplus()
    return "in 'layer4.1', between 'layer4.1.bn1'", ""


def planted_in_efficientnet(module: torch.nn.Module, kind: str) -> tuple[str, str]:
    if kind == "epsilon":
        module.features[3][0].block[1][1].eps = 1e-3
        return "in 'features.3.0.block.1.1': its input is the same", ""
    if kind == "padding":
        module.features[4][0].block[1][0].padding = (0, 0)
        return "in 'features.4.0.block.1.0': its input is the same", ""
    if kind == "bias":
        module.features[2][0].block[2].fc1.bias = None
        return "features.2.0.block.2.fc1.bias exists in the Flax", "fc1.bias exists in the Flax"
    module.features[5][1].block[0][2] = torch.nn.ReLU()
    return "in 'features.5.1.block.0.2': its input is the same", ""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "epsilon", "padding", "bias", "activation"])
@pytest.mark.parametrize(
    ("name", "plant"),
    [("resnet50", planted_in_resnet50), ("efficientnet_b0", planted_in_efficientnet)],
)
def test_difference_planted_in_a_network_of_torchvisions_is_named(name, plant, kind):
    module = getattr(torchvision.models, name)()
    images = np.random.default_rng(0).standard_normal((2, 65, 65, 3))
    where, problem = ("", "") if kind == "none" else plant(module, kind)
    comparison = testing.compare(models.create_model(name), module, images)
    if kind == "none":
        assert comparison.equal and len(comparison.rows) > 100
        return
    assert where in comparison.first_difference
    assert not problem or any(problem in text for text in comparison.problems)
    assert bool(problem) == bool(comparison.problems)


@pytest.mark.slow
def test_difference_in_the_flax_module_is_named():
    ours = models.resnet18(norm_layer=partial(layers.BatchNorm, eps=1e-3))
    comparison = testing.compare(ours, torchvision.models.resnet18(), IMAGES)
    assert "in 'bn1': its input is the same" in comparison.first_difference
    assert "eps=0.001" in comparison.first_difference and "eps=1e-05" in comparison.first_difference
