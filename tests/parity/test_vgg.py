"""VGGs with other blocks than torchvision's variants, against torchvision's class."""

import jax
import jax.numpy as jnp
import pytest
import torch
from compare import images, worst_logits_error
from steps import worst_step_error
from torchvision.models.vgg import VGG, cfgs, make_layers

from jaxcnn import convert, models
from jaxcnn.errors import UserError
from jaxcnn.testing import randomize
from jaxcnn.testing.arrays import LOGITS, STEPS

BLOCKS = ((1, 8), (3, 16), (2, 12))


def pair(channels: int, num_classes: int, batch_norm: bool):
    layers = [x for n, width in BLOCKS for x in (*[width] * n, "M")]
    module = VGG(make_layers(layers, batch_norm), num_classes=num_classes, dropout=0.0)
    # torchvision's class assumes three input channels and 512 output channels.
    module.features[0] = torch.nn.Conv2d(channels, BLOCKS[0][1], 3, padding=1)
    module.classifier[0] = torch.nn.Linear(BLOCKS[-1][1] * 49, 4096)
    randomize(module.double(), seed=0)
    model = models.create_model(
        "vgg",
        blocks=BLOCKS,
        batch_norm=batch_norm,
        num_classes=num_classes,
        dropout=0.0,
        param_dtype=jnp.float64,
    )
    return model, module


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_logits(channels, batch_norm):
    model, module = pair(channels, num_classes=7, batch_norm=batch_norm)
    variables = convert.from_torch(module.state_dict(), model)
    x = images(2, channels, 33, 79)
    for train in (False, True):
        assert worst_logits_error(model, variables, module, x, train=train) <= LOGITS


@pytest.mark.slow
def test_three_training_steps():
    model, module = pair(channels=1, num_classes=10, batch_norm=True)
    error, where = worst_step_error(model, module, (4, 1, 17, 23))
    assert error <= STEPS, where


def test_torchvisions_variants_are_vggs_with_their_blocks():
    letters = {"vgg11": "A", "vgg13": "B", "vgg16": "D", "vgg19": "E"}
    for name, letter in letters.items():
        for batch_norm, suffix in ((False, ""), (True, "_bn")):
            named = models.create_model(f"{name}{suffix}")
            layers = [x for n, width in named.blocks for x in (*[width] * n, "M")]
            assert layers == cfgs[letter]
            assert named == models.vgg(blocks=named.blocks, batch_norm=batch_norm)
    assert models.vgg() == models.vgg11()


def test_model_info_has_the_counts_of_vgg11():
    info, images = models.model_info("vgg"), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(models.vgg().init, jax.random.key(0), images)["params"]
    assert info.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    size, channels, cost = 224, 3, 49 * 512 * 4096 + 4096 * 4096 + 4096 * 1000
    for convolutions, width in models.vgg().blocks:
        for _ in range(convolutions):
            cost, channels = cost + size**2 * 9 * channels * width, width
        size //= 2
    assert info.multiply_adds == cost


def test_blocks_may_be_lists():
    model = models.vgg(blocks=[[1, 8], [2, 16]])
    assert hash(model) == hash(models.vgg(blocks=((1, 8), (2, 16))))


@pytest.mark.parametrize("blocks", [(), 3, (64, 128), ((1, 64, 3),), ((0, 64),), ((1.0, 64),)])
def test_invalid_blocks_are_refused(blocks):
    with pytest.raises(UserError, match="are not pairs"):
        models.vgg(blocks=blocks)


def test_images_too_small_are_refused_with_the_smallest_size_that_works():
    model = models.vgg(blocks=BLOCKS)
    with pytest.raises(UserError, match="it works from 8x8"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 7, 9, 3)))
