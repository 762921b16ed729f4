"""Folding of batch norms: the same logits in float64, without running statistics."""

import functools
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import traverse_util
from tiny import TinyNet

from jaxcnn import convert, models
from jaxcnn.convert.fold import fold_batch_norm
from jaxcnn.errors import UserError
from jaxcnn.models import layers
from jaxcnn.models.classifier import Classifier

LOGITS = 1e-12

# The smallest network of each family that has batch norms, or of a variant of its own, and the
# smallest images that it takes.
NETWORKS = {
    "densenet121": 32,
    "efficientnet_b0": 32,
    "googlenet": 32,
    "inception_v3": 75,
    "mnasnet0_5": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "regnet_x_400mf": 32,
    "resnet18": 32,
    "shufflenet_v2_x0_5": 32,
    "vgg11_bn": 32,
}
OTHERS = {"efficientnet_v2_s": 32, "regnet_y_400mf": 32, "resnet50": 32, "resnext50_32x4d": 32}

# What XLA makes of a network is the same without LLVM's last polish, which takes most of the time.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_variables(model: Classifier, size: int | None = None, seed: int = 0) -> dict:
    """Variables with random biases and running statistics, too."""
    size = size or model.input_size
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))

    def value(path: tuple[str, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        noise = rng.standard_normal(leaf.shape)
        if path[-1] == "var":
            noise = rng.uniform(0.5, 1.5, leaf.shape)
        elif path[-1] in ("bias", "mean"):
            noise = 0.1 * noise
        elif path[-1] in ("scale", "kernel_g"):
            noise = 1 + 0.1 * noise
        else:
            noise *= np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return jnp.asarray(noise, leaf.dtype)

    flat = traverse_util.flatten_dict(shapes)
    return traverse_util.unflatten_dict({path: value(path, leaf) for path, leaf in flat.items()})


def images(size: int, dtype=np.float64) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).standard_normal((2, size, size, 3)), dtype)


def error(folded, original, size: int) -> float:
    """The largest difference of logits relative to the largest logit."""
    ours, reference = (jit(m.apply)(variables, images(size)) for m, variables in (folded, original))
    assert ours.dtype == reference.dtype == np.float64
    assert np.isfinite(reference).all()
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def paths(tree) -> set[str]:
    return {"/".join(path) for path in traverse_util.flatten_dict(tree)}


def tree_shapes(tree):
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def assert_folds(model: Classifier, size: int, seed: int = 0) -> tuple[Classifier, dict]:
    """Folding changes no logit, and leaves the tree that the folded network initializes."""
    variables = random_variables(model, size, seed)
    folded, fewer = fold_batch_norm(model, variables)
    assert error((folded, fewer), (model, variables), size) <= LOGITS
    assert fewer.keys() == {"params"}
    initial = jax.eval_shape(folded.init, jax.random.key(0), images(size))
    assert tree_shapes(fewer) == tree_shapes(initial)
    return folded, fewer


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_network_computes_the_same_logits(name):
    assert_folds(models.create_model(name, param_dtype=np.float64), NETWORKS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_folded_variant_computes_the_same_logits(name):
    assert_folds(models.create_model(name, param_dtype=np.float64), OTHERS[name])
