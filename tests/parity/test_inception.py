"""Inception v3: its auxiliary head, and what test_torchvision.py does not compare."""

import functools

import jax
import jax.numpy as jnp
import pytest
import torch
from compare import images, nhwc, pair
from steps import worst_step_error
from torchvision.models.inception import InceptionAux as TorchInceptionAux

from jaxcnn import models
from jaxcnn.convert.state_dict import from_torch_unchecked
from jaxcnn.errors import UserError
from jaxcnn.models.inception import InceptionAux
from jaxcnn.testing import randomize, relative_error
from jaxcnn.testing.arrays import LOGITS, STEPS


def variables_for(model, size: int):
    shape = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), shape), shape


@pytest.mark.slow
@pytest.mark.parametrize("train", [False, True])
def test_the_auxiliary_head(train):
    torch.manual_seed(0)
    module = TorchInceptionAux(32, 7).double().train(train)
    randomize(module, seed=0)
    # Copies, because torch changes the running statistics in place.
    variables = jax.tree.map(jnp.array, from_torch_unchecked(module.state_dict()))
    x = images(4, 32, 18, 20)
    with torch.no_grad():
        reference = module(torch.from_numpy(x))
    apply = functools.partial(InceptionAux(7).apply, train=train, mutable=["batch_stats"])
    logits, updated = jax.jit(apply)(variables, nhwc(x))
    assert relative_error(logits, reference) <= LOGITS
    mean = updated["batch_stats"]["conv1"]["bn"]["mean"]
    assert relative_error(mean, module.conv1.bn.running_mean) <= LOGITS


@pytest.mark.slow
def test_three_training_steps_without_the_auxiliary_head_equal_torchs():
    model, _, module = pair("inception_v3", num_classes=10, aux_logits=False)
    error, where = worst_step_error(model, module, (4, 3, 107, 139), learning_rate=1e-4)
    assert error <= STEPS, where


def test_the_parameters_do_not_depend_on_the_image_size():
    model = models.inception_v3()
    small, large = (variables_for(model, size)[0] for size in (75, 299))
    assert "AuxLogits" in small["params"]
    assert jax.tree.map(jnp.shape, small) == jax.tree.map(jnp.shape, large)


@pytest.mark.slow
def test_images_too_small_for_the_auxiliary_head_are_refused_in_training_only():
    model = models.inception_v3(num_classes=7, dropout=0.0)
    variables, x = variables_for(model, 298)
    apply = functools.partial(model.apply, mutable=["batch_stats"])
    assert jax.eval_shape(apply, variables, x)[0].shape == (2, 7)
    with pytest.raises(UserError, match="298x298.*too small.*works from 299x299"):
        jax.eval_shape(functools.partial(apply, train=True), variables, x)
