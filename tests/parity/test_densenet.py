"""A small DenseNet against torchvision's class: training steps, dropout, memory_efficient."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from compare import images, nhwc
from flax import traverse_util
from steps import worst_step_error
from torchvision.models import DenseNet as TorchDenseNet

from jaxcnn import convert
from jaxcnn.models import DenseNet
from jaxcnn.models.densenet import DenseBlock, DenseLayer
from jaxcnn.testing import randomize
from jaxcnn.testing.arrays import STEPS

SMALL = {
    "growth_rate": 6,
    "block_config": (2, 3),
    "num_init_features": 10,
    "bn_size": 2,
    "num_classes": 5,
}


def pair(**kwargs):
    # Never torch's memory_efficient: it updates the running statistics twice for each batch.
    torch.manual_seed(0)
    module = TorchDenseNet(**SMALL).double()
    randomize(module, seed=0)
    return DenseNet(**SMALL, **kwargs, param_dtype=jnp.float64), module


@pytest.mark.slow
@pytest.mark.parametrize("memory_efficient", [False, True])
def test_three_training_steps(memory_efficient):
    model, module = pair(memory_efficient=memory_efficient)
    error, where = worst_step_error(model, module, (4, 3, 33, 39))
    assert error <= STEPS, where


def gradient_function(memory_efficient: bool):
    model, module = pair(memory_efficient=memory_efficient, drop_rate=0.4)
    variables = convert.from_torch(module.state_dict(), model)
    x = nhwc(images(4, 3, 33, 39))

    def loss(params):
        logits, updates = model.apply(
            variables | {"params": params},
            x,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(0)},
        )
        return jnp.square(logits).sum(), updates

    return jax.value_and_grad(loss, has_aux=True), variables["params"]


@pytest.mark.slow
def test_memory_efficient_has_the_same_variables_and_gradients():
    (plain, params), (efficient, same) = gradient_function(False), gradient_function(True)
    a, b = jax.jit(plain)(params), jax.jit(efficient)(same)
    a, b = (traverse_util.flatten_dict({"loss": x[0][0], **x[0][1], "grad": x[1]}) for x in (a, b))
    assert a.keys() == b.keys()
    for name, value in a.items():
        np.testing.assert_allclose(b[name], value, rtol=1e-9, atol=1e-12, err_msg=str(name))


def channels_kept(depth: int, memory_efficient: bool) -> int:
    """The number of channels, over all maps, that a dense block keeps for the gradient."""
    block = partial(DenseBlock, depth, memory_efficient=memory_efficient)
    block = block(partial(DenseLayer, 6, memory_efficient=memory_efficient))
    x = jnp.zeros((3, 8, 8, 10))
    variables = jax.eval_shape(block.init, jax.random.key(0), x)

    def pullback(variables, x):
        def apply(variables, x):
            return block.apply(variables, x, train=True, mutable=["batch_stats"])

        return jax.vjp(apply, variables, x)[1]

    leaves = jax.tree.leaves(jax.eval_shape(pullback, variables, x))
    return sum(leaf.shape[3] for leaf in leaves if leaf.shape[:3] == x.shape[:3])


@pytest.mark.slow
def test_the_memory_of_memory_efficient_grows_linearly_with_depth():
    def growth_of_growth(memory_efficient):
        a, b, c = (channels_kept(depth, memory_efficient) for depth in (4, 8, 12))
        return (c - b) - (b - a)

    assert growth_of_growth(memory_efficient=True) == 0
    assert growth_of_growth(memory_efficient=False) > 0
