"""What is frozen does not train, costs no gradient and no state, and other rates are as asked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import TinyNet

from jaxcnn import models
from jaxcnn.errors import UserError
from jaxcnn.training.optimizer import make_optimizer
from jaxcnn.training.parameters import Freeze, head_rate, kinds, layer_rates
from jaxcnn.training.step import init_state, make_train_step

SHAPE = (1, 12, 12, 3)


def data(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"image": rng.standard_normal((8, *SHAPE[1:])), "label": rng.integers(0, 10, 8)}


def trained(freeze: Freeze | None, **kwargs):
    """The state before and after two steps, and the step."""
    model = TinyNet()
    optimizer = make_optimizer("sgd", 0.1, momentum=0.9, **kwargs)
    before = init_state(model, optimizer, SHAPE, freeze=freeze)
    step = functools.partial(make_train_step(model, optimizer, freeze=freeze), axis_name=None)
    compiled, state = jax.jit(step), before
    for seed in range(2):
        state, _ = compiled(state, data(seed))
    return before, state, step


def changed(before, after) -> set[str]:
    """The names of the layers of which a leaf changed by any bit."""
    return {
        name for name in before for leaf in before[name]
        if (np.asarray(before[name][leaf]) != np.asarray(after[name][leaf])).any()
    }  # fmt: skip


def convolutions(function, *arguments) -> int:
    """The number of convolutions in a function as it is lowered."""
    return jax.jit(function).lower(*arguments).as_text().count("stablehlo.convolution")


def test_frozen_body_keeps_every_bit_and_has_no_state_nor_gradient():
    model = TinyNet()
    before, after, step = trained(Freeze.parse("body", model))
    assert changed(before.params, after.params) == {"fc"}
    assert changed(before.batch_stats, after.batch_stats) == set()
    size = sum(leaf.size for leaf in jax.tree.leaves(after.opt_state))
    assert size == sum(leaf.size for leaf in jax.tree.leaves(after.params["fc"]))
    forward = convolutions(model.apply, before.variables, data()["image"])
    assert convolutions(step, before, data()) == forward == 3
    _, _, whole = trained(None)
    state = init_state(model, make_optimizer("sgd", 0.1, momentum=0.9), SHAPE)
    # None with respect to the image; with a stride of two, one for each phase of the input.
    assert convolutions(whole, state, data()) == 3 + 3 + 1 + 4


def test_batch_statistics_of_frozen_norms_are_tracked_on_request():
    freeze = Freeze.parse("conv1,bn1", TinyNet(), batch_stats=False)
    before, after, _ = trained(freeze)
    assert changed(before.params, after.params) == {"conv2", "bn2", "conv3", "fc"}
    assert changed(before.batch_stats, after.batch_stats) == {"bn1", "bn2"}
    fixed, after, _ = trained(Freeze.parse("conv1,bn1", TinyNet()))
    assert changed(fixed.batch_stats, after.batch_stats) == {"bn2"}


def test_patterns_name_parameters_and_modules():
    freeze = Freeze.parse("layer1.*.bn?, conv1, *.downsample", models.resnet18())
    frozen = ("layer1.0.bn1.scale", "conv1.kernel", "layer2.0.downsample.0.kernel")
    assert all(tuple(name.split(".")) in freeze for name in frozen)
    assert ("layer1", "0", "conv1", "kernel") not in freeze
    assert ("layer2", "0", "bn1", "scale") not in freeze


def test_patterns_that_name_nothing_or_everything_raise():
    model = TinyNet()
    params = model.init(jax.random.key(0), jnp.zeros(SHAPE))["params"]
    with pytest.raises(UserError, match="no parameter or module 'conv4'; did you mean 'conv"):
        Freeze.parse("conv1,conv4", model).check(params)
    with pytest.raises(UserError, match="freezes a part of the norm 'bn1'; freeze the whole"):
        Freeze.parse("*.scale", model).check(params)
    with pytest.raises(UserError, match="leaves no parameter to train; freeze fewer"):
        Freeze.parse("*", model).check(params)


def test_head_and_earlier_blocks_learn_at_their_own_rates():
    """Without momentum and weight decay an update is proportional to its rate."""
    model = TinyNet()
    params = model.init(jax.random.key(0), jnp.zeros(SHAPE))["params"]
    gradients = jax.tree.map(jnp.ones_like, params)
    optimizer = make_optimizer(
        "sgd", 0.1, rates=[head_rate(model, 10.0), layer_rates(model, 0.5, SHAPE)]
    )
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    rates = {name: {-float(leaf.ravel()[0]) for leaf in updates[name].values()} for name in updates}
    expected = {
        "conv1": 0.0125,
        "bn1": 0.0125,
        "conv2": 0.025,
        "bn2": 0.025,
        "conv3": 0.05,
        "fc": 1,
    }
    for name, rate in expected.items():
        np.testing.assert_allclose(list(rates[name]), rate, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "first", "last", "depth"),
    [
        ("resnet18", ("conv1", "bn1"), "layer4.1", 9),
        ("vgg11_bn", ("features.0", "features.1"), "classifier.3", 10),
        ("convnext_tiny", ("features.0",), "features.7.2", 22),
        ("googlenet", ("conv1",), "inception5b", 12),
        ("regnet_y_400mf", ("stem",), "trunk_output.block4.block4-5", 17),
    ],
)
def test_rates_fall_block_by_block(name, first, last, depth):
    model = models.create_model(name)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 96, 96, 3)))["params"]
    rates = layer_rates(model, 0.5, (1, 96, 96, 3))(shapes)

    def rate(path: str) -> set[float]:
        node = rates
        for part in path.split("."):
            node = node[part]
        return set(jax.tree.leaves(node))

    assert all(rate(path) == {0.5**depth} for path in first)
    assert rate(last) == {0.5}
    assert rate(model.classifier[0]) == {1.0}


def test_convnexts_layer_scale_is_not_a_norms():
    shapes = jax.eval_shape(
        models.convnext_tiny().init, jax.random.key(0), jnp.zeros((1, 96, 96, 3))
    )
    block = kinds(shapes["params"])["features"]["1"]["0"]
    assert block["layer_scale"] == "weight"
    assert block["block"]["2"] == {"scale": "norm", "bias": "norm_bias"}
    assert block["block"]["0"] == {"kernel": "weight", "bias": "bias"}
