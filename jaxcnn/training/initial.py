"""Beginning with weights that are there."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxcnn.convert.pretrained import read_weights, without_auxiliary_heads
from jaxcnn.convert.state_dict import classes_of_heads, from_torch
from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier
from jaxcnn.training.step import TrainState


def initialized_from(
    state: TrainState, model: Classifier, name: str, weights: str
) -> tuple[TrainState, list[str]]:
    """A new state with the parameters and statistics of other weights.

    Args:
        state: the state before the first step.
        model: the network.
        name: its architecture.
        weights: torchvision's name of published weights, a file, or a repository; see
            :func:`jaxcnn.convert.load_pretrained`.

    Returns:
        The state, and the names of the heads that stay as they are in ``state``, for the weights
        are of another number of classes.

    Raises:
        UserError: if the weights cannot be had, or are not of this network.
    """
    state_dict, path = read_weights(name, weights)
    if not getattr(model, "aux_logits", True):
        state_dict = without_auxiliary_heads(state_dict)
    heads = classes_of_heads(state_dict, model)
    other_heads = [head for head, classes in heads.items() if classes != model.num_classes]
    classes = next(iter(heads.values()), model.num_classes)
    loaded = _flat(from_torch(state_dict, model.clone(num_classes=classes)))
    values = {}
    for place, value in _flat(state.variables).items():
        if _is_of(place, other_heads):
            values[place] = value
            continue
        if loaded[place].shape != value.shape:
            raise UserError(
                f"{path} has {place} of shape {loaded[place].shape} where this network has "
                f"{value.shape} for images of this size and number of channels; choose a dataset "
                f"or config.image_size as that of the weights."
            )
        values[place] = jnp.asarray(loaded[place], value.dtype)
    variables = traverse_util.unflatten_dict(values, sep="/")
    return dataclasses.replace(
        state,
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
    ), other_heads


def _flat(variables: Any) -> dict[str, jax.Array]:
    return traverse_util.flatten_dict(dict(variables), sep="/")


def _is_of(place: str, modules: list[str]) -> bool:
    _, _, path = place.partition("/")
    return any(path.startswith(f"{module.replace('.', '/')}/") for module in modules)
