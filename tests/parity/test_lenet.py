"""LeNet-5 against a definition in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from compare import LOGITS, STEPS, nhwc, randomize, relative_error
from steps import worst_step_error

from jaxcnn import convert, models


class TorchLeNet5(torch.nn.Module):
    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(channels, 6, 5)
        self.conv2 = torch.nn.Conv2d(6, 16, 5)
        self.fc1 = torch.nn.Linear(400, 120)
        self.fc2 = torch.nn.Linear(120, 84)
        self.fc3 = torch.nn.Linear(84, num_classes)

    def forward(self, x):
        x = torch.nn.functional.max_pool2d(self.conv1(x).relu(), 2)
        x = torch.nn.functional.max_pool2d(self.conv2(x).relu(), 2)
        x = self.fc1(x.flatten(1)).relu()
        return self.fc3(self.fc2(x).relu())


def pair(channels: int, num_classes: int):
    module = TorchLeNet5(channels, num_classes).double()
    randomize(module, seed=0)
    return models.lenet5(num_classes=num_classes, param_dtype=jnp.float64), module


def test_logits():
    model, module = pair(channels=3, num_classes=7)
    x = np.random.default_rng(0).standard_normal((4, 3, 32, 32))
    logits = jax.jit(model.apply)(convert.from_torch(module.state_dict(), model), nhwc(x))
    assert relative_error(logits, module(torch.from_numpy(x)).detach()) <= LOGITS


def test_three_training_steps():
    model, module = pair(channels=1, num_classes=10)
    error, where = worst_step_error(model, module, (8, 1, 32, 32))
    assert error <= STEPS, where
