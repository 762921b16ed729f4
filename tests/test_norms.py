"""Norms are torch's, or their papers', in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from layer_parity import assert_same

from jaxcnn import models
from jaxcnn.errors import UserError
from jaxcnn.models import layers


@pytest.fixture(autouse=True, scope="module")
def float64():
    with jax.enable_x64(True):
        yield


def array(*shape: int) -> np.ndarray:
    return 3 * np.random.default_rng(0).standard_normal(shape) + 1


class ChannelNorm(torch.nn.LayerNorm):
    """As torchvision's ConvNeXt has it."""

    def forward(self, x):
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class TorchSwitchableNorm(torch.nn.Module):
    """Equations 3 to 5 of Luo et al. 2018."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = (torch.nn.Parameter(torch.ones(channels)) for _ in range(2))
        self.mean_weight, self.var_weight = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        statistics = []
        for axes in ((2, 3), (1, 2, 3), (0, 2, 3)):
            statistics.append((x.mean(axes, True), x.var(axes, keepdim=True, correction=0)))
        if self.training:
            with torch.no_grad():
                for running, value in zip(
                    (self.running_mean, self.running_var), statistics[2], strict=True
                ):
                    running.lerp_(value.reshape(-1), 0.1)
        else:
            own = (self.running_mean[:, None, None], self.running_var[:, None, None])
            statistics[2] = own
        means, variances = zip(*statistics, strict=True)
        mean = sum(w * s for w, s in zip(self.mean_weight.softmax(0), means, strict=True))
        var = sum(w * s for w, s in zip(self.var_weight.softmax(0), variances, strict=True))
        y = (x - mean) / torch.sqrt(var + 1e-5)
        return y * self.weight[:, None, None] + self.bias[:, None, None]


NORMS = {
    "group": (layers.GroupNorm(num_groups=3), torch.nn.GroupNorm(3, 6)),
    "group of 32 and 6": (layers.GroupNorm(), torch.nn.GroupNorm(2, 6)),
    "layer": (layers.NORMS["layer"](), torch.nn.GroupNorm(1, 6)),
    "channels of a pixel": (layers.LayerNorm(eps=1e-6), ChannelNorm(6, eps=1e-6)),
    "instance": (layers.InstanceNorm(), torch.nn.InstanceNorm2d(6)),
    "affine instance": (layers.NORMS["instance"](), torch.nn.InstanceNorm2d(6, affine=True)),
    "batch": (layers.NORMS["batch"](), torch.nn.BatchNorm2d(6)),
    "switchable": (layers.NORMS["switchable"](), TorchSwitchableNorm(6)),
}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("name", NORMS)
def test_a_norm_and_its_gradients_equal_torchs(name, train):
    ours, theirs = NORMS[name]
    assert_same(ours.clone(param_dtype=jnp.float64), theirs, array(4, 5, 3, 6), train=train)


@pytest.mark.parametrize("norm", sorted(layers.NORMS))
def test_a_large_mean_costs_no_digits_in_float32(norm):
    x = (array(4, 8, 8, 6) + 1e4).astype(np.float32)
    layer = layers.NORMS[norm]()
    y, _ = layer.init_with_output(jax.random.key(0), x)
    y, _ = layer.apply(layer.init(jax.random.key(0), x), x, train=True, mutable=["batch_stats"])
    assert 0.5 < y.std() < 1.5


@pytest.mark.parametrize("norm", sorted(layers.NORMS))
def test_a_norm_computes_in_bfloat16_with_float32_parameters(norm):
    x = jnp.asarray(array(4, 5, 5, 6), jnp.float32)
    layer = layers.NORMS[norm](dtype=jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("norm", sorted(layers.NORMS))
def test_norm_layer_takes_a_norm_by_name(norm):
    model = models.resnet18(norm_layer=norm, num_classes=3, zero_init_residual=True)
    images = jnp.ones((2, 33, 33, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    kind = layers.NORMS[norm](name="bn1")
    with jax.enable_x64(False):
        own = jax.eval_shape(kind.init, jax.random.key(0), jnp.ones((1, 4, 4, 64)))
    assert jax.tree.structure(variables["params"]["bn1"]) == jax.tree.structure(own["params"])


def test_an_unknown_norm_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match="'groups'; did you mean 'group'"):
        models.resnet18(norm_layer="groups")


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (functools.partial(layers.GroupNorm, 4), "6 channels into 4 groups"),
        (layers.InstanceNorm, "one value per channel"),
    ],
)
def test_errors_say_what_is_wrong(layer, words):
    with pytest.raises(UserError, match=words):
        layer().apply({}, jnp.ones((2, 1, 1, 6)), train=True)
