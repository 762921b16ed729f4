"""The programs that GPUs get, lowered without one."""

import functools
import re

import jax
import jax.numpy as jnp
import pytest

from jaxcnn import models
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import init_state, make_train_step

IMAGES = 6  # no kernel begins with this dimension


def lowered_step(name: str, size: int = 64) -> str:
    """A bfloat16 training step for CUDA, as StableHLO."""
    model, optimizer = models.create_model(name, num_classes=10, dtype=jnp.bfloat16), sgd(0.01)
    state = jax.eval_shape(lambda: init_state(model, optimizer, (1, size, size, 3)))
    batch = {
        "image": jax.ShapeDtypeStruct((IMAGES, size, size, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((IMAGES,), jnp.int32),
    }
    step = jax.jit(functools.partial(make_train_step(model, optimizer), axis_name=None))
    return step.trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        pytest.param("mobilenet_v3_small", marks=pytest.mark.slow),
        pytest.param("regnet_y_400mf", marks=pytest.mark.slow),
        pytest.param("convnext_tiny", marks=pytest.mark.slow),
        pytest.param("densenet121", marks=pytest.mark.slow),
    ],
)
def test_bfloat16_step_for_gpus_multiplies_in_bfloat16_and_transposes_no_maps(name):
    program = lowered_step(name)
    operations = re.findall(
        r"stablehlo\.(?:convolution|dot_general).* : \((.*), (.*)\) -> (.*?)(?: loc.*)?\n", program
    )
    assert len(operations) > 50
    for types in operations:
        assert [re.search(r"(\w+)>$", t)[1].rpartition("x")[2] for t in types] == ["bf16"] * 3
    for shape in re.findall(r"stablehlo\.transpose.* : \(tensor<([\dx]+)x\w+>\)", program):
        sizes = [int(size) for size in shape.split("x")]
        # Maps have one pixel before the last layer, and images are cut into blocks.
        of_images = len(sizes) == 6 and sizes[2] == sizes[4] and sizes[5] == 3
        one_pixel = len(sizes) == 2 or sorted(sizes)[:2] == [1, 1]
        assert sizes[0] != IMAGES or one_pixel or of_images, shape
    assert "stablehlo.while" not in program and "stablehlo.scatter" not in program
