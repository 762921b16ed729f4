"""Looking inside: every family, and what the methods promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TinyNet

from jaxcnn import models, visualize
from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.visualize.rules import DECONVNET, GUIDED, with_rules


def test_rules_leave_the_values_as_they_are():
    model = models.mobilenet_v3_small(num_classes=5)  # ReLU, hard-swish, gates
    x = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    variables = jax.jit(model.init)(jax.random.key(0), x)
    for rules in (DECONVNET, GUIDED):
        ours = jax.jit(with_rules(model.apply, rules))(variables, x)
        np.testing.assert_allclose(ours, jax.jit(model.apply)(variables, x), rtol=1e-6)


@pytest.mark.parametrize("activation", [jax.nn.relu, jax.nn.relu6, jax.nn.silu, jax.nn.hard_swish])
def test_rectifiers(activation):
    x = jnp.array([-4.0, -1.0, 0.5, 2.0, 7.0])
    signal = jnp.array([1.0, -2.0, 3.0, -4.0, 5.0])
    _, down = jax.vjp(with_rules(activation, DECONVNET), x)
    assert down(signal)[0].tolist() == [1, 0, 3, 0, 5]
    _, down = jax.vjp(with_rules(activation, GUIDED), x)
    _, own = jax.vjp(activation, x)
    np.testing.assert_array_equal(down(signal)[0], own(jnp.maximum(signal, 0))[0])
