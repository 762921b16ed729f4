"""The cost of a network, counted in its jaxpr."""

import math
from unittest import mock

import jax
import jax.extend
import jax.numpy as jnp


def multiply_adds(model, channels: int = 3) -> int:
    """Multiply-adds of a forward pass of one image, in convolutions and matrix products."""
    image = jax.ShapeDtypeStruct((1, model.input_size, model.input_size, channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    # On a CPU some convolutions are computed by other operations, which are not counted.
    with mock.patch("jax.default_backend", return_value="gpu"):
        return _count(jax.make_jaxpr(model.apply)(variables, image).jaxpr)


def _count(jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, out = equation.primitive.name, equation.outvars[0].aval
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape  # [kh, kw, in / groups, out]
            total += out.size * math.prod(kernel[:3])
        elif name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += out.size * math.prod(shape[axis] for axis in contracted)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            total += _count(inner)
    return total
