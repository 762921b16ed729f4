"""The images of a run that TensorBoard shows."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.data.grid import filter_grid, image_grid
from jaxcnn.models.classifier import Classifier, first_kernel
from jaxcnn.training.augmentation import Normalize
from jaxcnn.training.build import Experiment
from jaxcnn.training.devices import unreplicate
from jaxcnn.training.step import TrainState, network_inputs, step_key

_INPUTS = 16
_INPUT_SIZE = 96  # pixels that smaller images are enlarged to, about


def first_filters(model: Classifier, state: TrainState) -> np.ndarray:
    """The filters of the first convolution.

    Args:
        model: the network.
        state: replicated.

    Returns:
        ``[height, width, 1 or 3]`` uint8; see :func:`jaxcnn.data.grid.filter_grid`.
    """
    return filter_grid(unreplicate(first_kernel(model, state.params)))


def first_inputs(experiment: Experiment, normalize: Normalize, batch: Any) -> np.ndarray:
    """Images of the run's first batch as the network sees them, but for the normalization.

    Args:
        experiment: of the run.
        normalize: maps the batch's images to the model's input.
        batch: the first one, split over the local devices; the images are the first device's.

    Returns:
        ``[height, width, C]`` uint8.
    """

    @jax.jit
    def shown(batch: Any) -> jax.Array:
        key = step_key(experiment.seed, 0, 0)
        images, _ = network_inputs(
            batch, experiment.augmentation, normalize, key, experiment.model.num_classes
        )
        # Normalization is linear in each value: what it makes of 0 and 1 tells how to undo it.
        zero, one = (normalize(jnp.full(images.shape[1:], value)) for value in (0.0, 1.0))
        return jnp.clip((images[:_INPUTS] - zero) / (one - zero), 0, 1)

    values = np.asarray(shown(unreplicate(batch)))  # its first part
    pixels = np.round(values * 255).astype(np.uint8)
    scale = max(1, math.ceil(_INPUT_SIZE / max(pixels.shape[1:3])))
    return image_grid(pixels, columns=8, scale=scale)
