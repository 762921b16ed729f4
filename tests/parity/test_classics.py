"""AlexNet as published and ZFNet, which torchvision lacks, against definitions in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from compare import images, worst_logits_error
from steps import worst_step_error
from torch import nn

from jaxcnn import convert, models
from jaxcnn.testing import randomize, relative_error
from jaxcnn.testing.arrays import LOGITS, STEPS


class TorchAlexNet(nn.Module):
    def __init__(self, size: int, channels: int, classes: int, columns: int, contrast: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 96, 11, stride=4)
        self.conv2 = nn.Conv2d(96, 256, 5, padding=2, groups=columns)
        self.conv3 = nn.Conv2d(256, 384, 3, padding=1)
        self.conv4 = nn.Conv2d(384, 384, 3, padding=1, groups=columns)
        self.conv5 = nn.Conv2d(384, 256, 3, padding=1, groups=columns)
        self.fc6 = nn.Linear(256 * size**2, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        self.norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 2) if contrast else nn.Identity()
        self.pool = nn.MaxPool2d(3, 2)

    def forward(self, x):
        x = self.pool(self.norm(self.conv1(x).relu()))
        x = self.pool(self.norm(self.conv2(x).relu()))
        x = self.conv4(self.conv3(x).relu()).relu()
        x = self.pool(self.conv5(x).relu()).flatten(1)
        return self.fc8(self.fc7(self.fc6(x).relu()).relu())


class TorchZFNet(nn.Module):
    def __init__(self, size: int, channels: int, classes: int, maps: tuple[int, int, int]):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 96, 7, stride=2, padding=1)
        self.conv2 = nn.Conv2d(96, 256, 5, stride=2)
        self.conv3 = nn.Conv2d(256, maps[0], 3, padding=1)
        self.conv4 = nn.Conv2d(maps[0], maps[1], 3, padding=1)
        self.conv5 = nn.Conv2d(maps[1], maps[2], 3, padding=1)
        self.fc6 = nn.Linear(maps[2] * size**2, 4096)
        self.fc7 = nn.Linear(4096, 4096)
        self.fc8 = nn.Linear(4096, classes)
        self.norm = nn.LocalResponseNorm(5, 1e-4, 0.75, 2)

    def forward(self, x):
        x = self.norm(nn.functional.max_pool2d(self.conv1(x).relu(), 3, 2, 1))
        x = self.norm(nn.functional.max_pool2d(self.conv2(x).relu(), 3, 2, 1))
        x = self.conv5(self.conv4(self.conv3(x).relu()).relu()).relu()
        x = nn.functional.max_pool2d(x, 3, 2).flatten(1)
        return self.fc8(self.fc7(self.fc6(x).relu()).relu())


def pair(name: str, module: nn.Module, size: int, **kwargs):
    """Our model, its variables and torch's module with the same weights, for one image size."""
    module = module.double()
    randomize(module, seed=0)
    classes = module.fc8.out_features
    model = models.create_model(
        name, num_classes=classes, dropout=0.0, param_dtype=jnp.float64, **kwargs
    ).clone(input_size=size)
    return model, convert.from_torch(module.state_dict(), model), module


ALEXNETS = {
    "as published": (TorchAlexNet(6, 3, 1000, 2, True), 227, {}),
    "textbooks'": (
        TorchAlexNet(6, 1, 10, 1, False),
        227,
        {"two_columns": False, "local_response_norm": False},
    ),
    "small": (TorchAlexNet(1, 3, 7, 2, True), 67, {}),
}
ZFNETS = {
    "as published": (TorchZFNet(6, 3, 1000, (384, 384, 256)), 224, {}),
    "small": (TorchZFNet(1, 3, 7, (384, 384, 256)), 70, {}),
    "wide and grayscale": (TorchZFNet(1, 1, 7, (512, 1024, 512)), 70, {"wide": True}),
}
CASES = [("alexnet_original", case) for case in ALEXNETS.values()]
CASES += [("zfnet", case) for case in ZFNETS.values()]


@pytest.mark.parametrize(("name", "case"), CASES, ids=[*ALEXNETS, *(f"zf {k}" for k in ZFNETS)])
def test_logits(name, case):
    module, size, kwargs = case
    model, variables, module = pair(name, module, size, **kwargs)
    x = images(2, module.conv1.in_channels, size, size)
    for train in (False, True):
        assert worst_logits_error(model, variables, module, x, train=train) <= LOGITS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "case"),
    [("alexnet_original", ALEXNETS["small"]), ("zfnet", ZFNETS["small"])],
    ids=["alexnet_original", "zfnet"],
)
def test_three_training_steps(name, case):
    module, size, kwargs = case
    model, _, module = pair(name, module, size, **kwargs)
    error, where = worst_step_error(model, module, (2, 3, size, size))
    assert error <= STEPS, where


def test_zfnets_pooling_layers_return_switches():
    model, variables, module = pair("zfnet", *ZFNETS["small"][:2])
    x = images(2, 3, 70, 70)
    logits, state = jax.jit(lambda v, x: model.apply(v, x, mutable=["switches"]))(
        variables, x.transpose(0, 2, 3, 1)
    )
    with torch.no_grad():
        first = module.conv1(torch.from_numpy(x)).relu()
        _, indices = nn.functional.max_pool2d(first, 3, 2, 1, return_indices=True)
        assert relative_error(logits, module(torch.from_numpy(x))) <= LOGITS
    ours = np.asarray(state["switches"]["pool1"]["indices"]).transpose(0, 3, 1, 2)
    # Of equal values, zeros after ReLU, both take the first.
    np.testing.assert_array_equal(ours, indices)
    assert state["switches"].keys() == {"pool1", "pool2", "pool5"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["alexnet_original", "zfnet"])
def test_initial_weights_follow_the_paper(name):
    model = models.create_model(name)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 99, 99, 3), jnp.float32))
    assert variables.keys() == {"params"}
    for layer, leaves in variables["params"].items():
        ones = name == "alexnet_original" and layer in ("conv2", "conv4", "conv5", "fc6", "fc7")
        assert (leaves["bias"] == ones).all()
        assert abs(leaves["kernel"].std() / 0.01 - 1) < 0.05
        assert abs(leaves["kernel"].mean()) < 0.0005
