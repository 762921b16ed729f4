"""The NNX modules compute what the Linen modules compute, to the last bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torchvision
from flax import nnx
from smallest import quick_variables, smallest_of_families
from tiers import tiers

from jaxcnn import convert, models
from jaxcnn import nnx as jaxcnn_nnx
from jaxcnn.errors import UserError

QUICK = ("lenet5",)
SLOW = ("resnet18",)
SGD = optax.sgd(0.01, momentum=0.9)


def same(ours, reference) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, reference)


def loss_of(model, outputs, labels):
    """As in the papers: that of each auxiliary head counts, too."""
    heads = outputs if isinstance(outputs, tuple) else (outputs,)
    losses = [optax.softmax_cross_entropy_with_integer_labels(h, labels).mean() for h in heads]
    return losses[0] + model.aux_weight * sum(losses[1:])


def network_and_batch(name):
    model = models.create_model(name, num_classes=5)
    size = max(33, models.classifier.smallest_image_size(model))
    size = 32 if name == "lenet5" else size
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.standard_normal((4, size, size, 3), np.float32))
    return model, quick_variables(model, images), images, jnp.asarray([0, 3, 4, 1])


@pytest.mark.parametrize("name", tiers(smallest_of_families(), fast=QUICK, slow=SLOW))
def test_logits_and_three_training_steps_are_linens(name):
    model, variables, images, labels = network_and_batch(name)
    network = jaxcnn_nnx.from_linen(model, variables, rngs=nnx.Rngs(dropout=0))
    same(jaxcnn_nnx.to_linen(network), variables)
    logits = nnx.jit(lambda network, images: network(images))(network, images)
    same(logits, jax.jit(model.apply)(variables, images))

    keys = nnx.clone(network).to_nnx__rngs
    optimizer = nnx.Optimizer(network, SGD, wrt=nnx.Param)

    @nnx.jit
    def nnx_step(network, optimizer, images, labels):
        def loss(network):
            return loss_of(model, network(images, train=True), labels)

        value, gradients = nnx.value_and_grad(loss)(network)
        optimizer.update(network, gradients)
        return value

    @jax.jit
    def linen_step(variables, state, key, images, labels):
        params, rest = variables["params"], {k: v for k, v in variables.items() if k != "params"}

        def loss(params):
            outputs, new = model.apply(
                {"params": params, **rest},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            return loss_of(model, outputs, labels), new

        (value, new), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = SGD.update(gradients, state, params)
        return value, {"params": optax.apply_updates(params, updates), **new}, state

    start, state = variables, SGD.init(variables["params"])
    for _ in range(3):
        value = nnx_step(network, optimizer, images, labels)
        expected, variables, state = linen_step(variables, state, keys["dropout"](), images, labels)
        same(value, expected)
    same(jaxcnn_nnx.to_linen(network), variables)
    moved = jax.tree.map(lambda a, b: not np.array_equal(a, b), start, variables)
    assert all(jax.tree.leaves(moved["params"].get("conv1", True)))


def test_network_is_initialized_with_the_shapes_of_linen():
    network = jaxcnn_nnx.create_model("lenet5", channels=1, rngs=nnx.Rngs(0))
    model, images = models.lenet5(), jnp.zeros((1, 32, 32, 1))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jaxcnn_nnx.to_linen(network)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    assert np.std(network.conv2["kernel"].get_value()) > 0.01
    assert isinstance(network.conv2["kernel"], nnx.Param)


def test_torchvisions_weights_load(tmp_path):
    theirs = torchvision.models.squeezenet1_1(num_classes=5)
    path = tmp_path / "squeezenet.safetensors"
    state = {name: value.detach().numpy() for name, value in theirs.state_dict().items()}
    model = models.squeezenet1_1(num_classes=5)
    convert.save_torch(path, convert.from_torch(state, model))
    network = jaxcnn_nnx.load_pretrained("squeezenet1_1", path)
    for name, value in convert.to_torch(jaxcnn_nnx.to_linen(network)).items():
        np.testing.assert_array_equal(value, state[name])


@pytest.mark.slow
def test_batch_statistics_change_in_training_only():
    model, variables, images, _ = network_and_batch("shufflenet_v2_x0_5")
    network = jaxcnn_nnx.from_linen(model, variables)
    before = jaxcnn_nnx.to_linen(network)["batch_stats"]
    nnx.jit(lambda network, images: network(images))(network, images)
    same(jaxcnn_nnx.to_linen(network)["batch_stats"], before)
    nnx.jit(lambda network, images: network(images, train=True))(network, images)
    assert isinstance(network.conv1["1"]["mean"], nnx.BatchStat)
    assert (network.conv1["1"]["mean"].get_value() != before["conv1"]["1"]["mean"]).any()


def test_errors_are_the_linen_modules():
    with pytest.raises(UserError, match="Unknown model 'resnet17'"):
        jaxcnn_nnx.create_model("resnet17", rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="too small"):
        jaxcnn_nnx.create_model("alexnet", image_size=20, rngs=nnx.Rngs(0))
