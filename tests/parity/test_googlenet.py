"""GoogLeNet: what test_torchvision.py does not compare."""

import jax
import jax.numpy as jnp
import pytest
from compare import images, pair, worst_logits_error

from jaxcnn import models
from jaxcnn.errors import UserError
from jaxcnn.testing.arrays import LOGITS


@pytest.mark.slow
def test_the_smallest_images():
    """There the windows of the pooling layers are larger than the maps."""
    model, variables, module = pair("googlenet", num_classes=7)
    error = worst_logits_error(model, variables, module, images(2, 3, 15, 15), train=False)
    assert error <= LOGITS
    with pytest.raises(UserError, match="14x14.*too small.*works from 15x15"):
        jax.eval_shape(model.apply, variables, jnp.zeros((2, 14, 14, 3)))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_transform_input_needs_three_channels(name):
    model = models.create_model(name, transform_input=True)
    x = jax.ShapeDtypeStruct((1, 299, 299, 1), jnp.float32)
    with pytest.raises(UserError, match="three channels.*these have 1"):
        jax.eval_shape(model.init, jax.random.key(0), x)
