"""Three SGD-momentum steps in torch and here, side by side."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from compare import nhwc, worst

from jaxcnn import convert
from jaxcnn.models.classifier import Classifier
from jaxcnn.testing.compiling import jit
from jaxcnn.testing.steps import MOMENTUM, WEIGHT_DECAY, Arrays, by_name, torch_sgd_steps
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import TrainState, make_train_step

COUNT = 3


def our_steps(
    model: Classifier, variables: Any, images: np.ndarray, labels: np.ndarray, learning_rate: float
) -> Arrays:
    """What :func:`torch_sgd_steps` gives, with ``make_train_step``."""
    optimizer = sgd(learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    step = jit(make_train_step(model, optimizer), static_argnames="axis_name")
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=optimizer.init(variables["params"]),
    )
    losses = []
    for batch, target in zip(images, labels, strict=True):
        state, metrics = step(state, {"image": nhwc(batch), "label": target}, axis_name=None)
        losses.append(float(metrics["loss"]))
    traces = [s for s in jax.tree.leaves(state.opt_state, is_leaf=_has_trace) if _has_trace(s)]
    momenta = convert.to_torch({"params": traces[0].trace})
    return by_name(losses, convert.to_torch(state.variables), momenta)


def _has_trace(node: Any) -> bool:
    return hasattr(node, "trace")


def worst_step_error(
    model: Classifier,
    module: torch.nn.Module,
    shape: tuple[int, int, int, int],
    *,
    learning_rate: float = 0.01,
    aux_weight: float = 0.0,
    seed: int = 0,
) -> tuple[float, str]:
    """The largest relative error after three steps, and of what.

    Args:
        model: ours.
        module: torch's, in float64 and randomized; it is trained.
        shape: of a batch, ``[N, C, H, W]``.
        learning_rate: of both.
        aux_weight: what each auxiliary head's loss counts in torch.
        seed: of the images and labels.
    """
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((COUNT, *shape))
    labels = rng.integers(0, model.num_classes, (COUNT, shape[0]))
    variables = convert.from_torch(module.state_dict(), model)
    ours = our_steps(model, variables, images, labels, learning_rate)
    return worst(ours, torch_sgd_steps(module, images, labels, learning_rate, aux_weight))
