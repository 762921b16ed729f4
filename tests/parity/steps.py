"""Three SGD-momentum steps in torch and here, side by side."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from compare import as_tuple, nhwc, worst
from quick_jit import jit

from jaxcnn import convert
from jaxcnn.models.classifier import Classifier
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import TrainState, make_train_step

MOMENTUM, WEIGHT_DECAY, STEPS = 0.9, 1e-4, 3

Arrays = dict[str, np.ndarray]


def torch_steps(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
    aux_weight: float,
) -> tuple[list[float], Arrays, Arrays]:
    """Losses, state dict and momentum buffers after training ``module`` in place."""
    module.train()
    optimizer = torch.optim.SGD(
        module.parameters(), lr=learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    losses = []
    for batch, target in zip(images, labels, strict=True):
        optimizer.zero_grad()
        losses_of_heads = [
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(target))
            for logits in as_tuple(module(torch.from_numpy(batch)))
        ]
        loss = losses_of_heads[0] + aux_weight * sum(losses_of_heads[1:])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    momenta = {
        name: optimizer.state[parameter]["momentum_buffer"].numpy()
        for name, parameter in module.named_parameters()
    }
    return losses, {k: v.numpy() for k, v in module.state_dict().items()}, momenta


def our_steps(
    model: Classifier, variables: Any, images: np.ndarray, labels: np.ndarray, learning_rate: float
) -> tuple[list[float], Arrays, Arrays]:
    """The same with ``make_train_step``, under torch's names."""
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
    return losses, convert.to_torch(state.variables), momenta


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
    images = rng.standard_normal((STEPS, *shape))
    labels = rng.integers(0, model.num_classes, (STEPS, shape[0]))
    variables = convert.from_torch(module.state_dict(), model)
    ours = our_steps(model, variables, images, labels, learning_rate)
    theirs = torch_steps(module, images, labels, learning_rate, aux_weight)
    for state in (ours[1], theirs[1]):  # torch counts batches, we do not
        for name in [name for name in state if name.endswith("num_batches_tracked")]:
            del state[name]
    kinds = ("loss", "state", "momentum")
    as_arrays = [{"loss": np.array(x[0])} for x in (ours, theirs)]
    pairs = [(as_arrays[0], as_arrays[1]), (ours[1], theirs[1]), (ours[2], theirs[2])]
    errors = [(worst(a, b), kind) for kind, (a, b) in zip(kinds, pairs, strict=True)]
    (error, name), kind = max(errors)
    return error, f"{kind} {name}"
