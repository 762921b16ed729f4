"""LeNet-5 against a definition in torch."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from compare import nhwc
from steps import worst_step_error
from torch_lenet import TorchLeNet5

from jaxcnn import convert, models
from jaxcnn.testing import randomize, relative_error
from jaxcnn.testing.arrays import LOGITS, STEPS


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
