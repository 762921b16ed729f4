"""What is GoogLeNet's own beyond test_torchvision.py."""

import jax
import jax.numpy as jnp
import pytest
from compare import LOGITS, images, pair, worst_logits_error

from jaxcnn import models
from jaxcnn.errors import UserError


def test_the_smallest_images_that_torch_takes():
    """Windows of the pools then hang over a map that is smaller than they are."""
    model, variables, module = pair("googlenet", num_classes=7)
    error = worst_logits_error(model, variables, module, images(2, 3, 15, 15), train=False)
    assert error <= LOGITS
    with pytest.raises(UserError, match="14x14.*too small.*works from 15x15"):
        jax.eval_shape(model.apply, variables, jnp.zeros((2, 14, 14, 3)))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_only_images_of_three_channels_are_transformed(name):
    model = models.create_model(name, transform_input=True)
    x = jax.ShapeDtypeStruct((1, 299, 299, 1), jnp.float32)
    with pytest.raises(UserError, match="three channels.*these have 1"):
        jax.eval_shape(model.init, jax.random.key(0), x)
