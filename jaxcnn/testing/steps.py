"""Gradients, and steps of SGD with momentum, in PyTorch and in Flax, side by side."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import linen as nn

from jaxcnn.convert.state_dict import from_torch_unchecked, to_torch
from jaxcnn.testing.arrays import channels_first, relative_errors
from jaxcnn.testing.compiling import jit
from jaxcnn.testing.randomize import reference_copy

__all__ = ["compare_gradients", "compare_steps", "torch_sgd_steps"]

MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4

Arrays = dict[str, np.ndarray]


def compare_gradients(
    flax_module: nn.Module,
    torch_module: torch.nn.Module,
    example: Any,
    *,
    train: bool = False,
    seed: int | None = 0,
) -> dict[str, float]:
    """Compare the gradients of the sum of the outputs' sines, in float64.

    Args:
        flax_module: called as ``flax_module(x, train=train)``.
        torch_module: has the same names of layers; a copy is compared.
        example: the input, as the Flax module takes it: images ``[N, H, W, C]``, or ``[N, C]``.
        train: whether in training mode; dropout must be off.
        seed: of random parameters; None: those of the PyTorch module.

    Returns:
        The relative errors: of the ``input`` and of each parameter, by PyTorch's names.

    Raises:
        AssertionError: if the networks have different parameters.
    """
    reference = reference_copy(torch_module, train, seed)
    example = np.asarray(example, np.float64)
    with jax.enable_x64(True):
        variables = from_torch_unchecked(reference.state_dict())

        def loss(params: Any, x: jax.Array) -> jax.Array:
            outputs, _ = flax_module.apply(
                {**variables, "params": params}, x, train=train, mutable=["batch_stats"]
            )
            return sum(jnp.sin(output).sum() for output in jax.tree.leaves(outputs))

        gradients, of_input = jit(jax.grad(loss, argnums=(0, 1)))(
            variables["params"], jnp.asarray(example)
        )
        ours = to_torch({"params": gradients}) | {"input": channels_first(np.asarray(of_input))}
    x = torch.from_numpy(channels_first(example)).requires_grad_()
    sum(torch.sin(output).sum() for output in as_tuple(reference(x))).backward()
    theirs = {name: parameter.grad.numpy() for name, parameter in reference.named_parameters()}
    return relative_errors(ours, theirs | {"input": x.grad.numpy()})


def compare_steps(
    flax_module: nn.Module,
    torch_module: torch.nn.Module,
    example: Any,
    *,
    steps: int = 3,
    learning_rate: float = 0.01,
    aux_weight: float = 0.0,
    seed: int | None = 0,
) -> dict[str, float]:
    """Compare training steps in float64: SGD with momentum 0.9 and weight decay 1e-4.

    Args:
        flax_module: called as ``flax_module(x, train=True)``; dropout must be off.
        torch_module: has the same names of layers; a copy is trained.
        example: images of the shape of a batch, ``[N, H, W, C]``; the batches are random.
        steps: how many.
        learning_rate: of both. Where a network is chaotic, a smaller one measures the port.
        aux_weight: weight of the loss of each output after the first.
        seed: of random parameters, images and labels; None: parameters of the PyTorch module.

    Returns:
        The relative errors after the last step: of the ``losses``, of each parameter and running
        statistic by PyTorch's names, and of each ``momentum of`` a parameter.

    Raises:
        AssertionError: if the networks have different parameters, or diverge.
    """
    reference = reference_copy(torch_module, True, seed)
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((steps, *np.shape(example)))
    with jax.enable_x64(True):
        variables = from_torch_unchecked(reference.state_dict())
        outputs = jax.eval_shape(flax_module.apply, variables, jnp.asarray(images[0]))
        labels = rng.integers(0, outputs.shape[-1], (steps, images.shape[1]))
        ours = _flax_sgd_steps(flax_module, variables, images, labels, learning_rate, aux_weight)
    batches = np.stack([channels_first(batch) for batch in images])
    theirs = torch_sgd_steps(reference, batches, labels, learning_rate, aux_weight)
    return relative_errors(ours, theirs)


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    """The logits alone, or with those of the auxiliary heads."""
    return tuple(outputs) if isinstance(outputs, (tuple, list)) else (outputs,)


def torch_sgd_steps(
    module: torch.nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
    aux_weight: float = 0.0,
) -> Arrays:
    """Train a PyTorch module in place.

    Args:
        module: in float64.
        images: a batch per step, ``[steps, N, C, H, W]``.
        labels: of each, ``[steps, N]``.
        learning_rate: constant.
        aux_weight: weight of the loss of each output after the first.

    Returns:
        ``losses``, the parameters and running statistics by name, and ``momentum of NAME``.
    """
    module.train()
    optimizer = torch.optim.SGD(
        module.parameters(), lr=learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    losses = []
    for batch, target in zip(images, labels, strict=True):
        optimizer.zero_grad()
        loss, *others = (
            torch.nn.functional.cross_entropy(logits, torch.from_numpy(target))
            for logits in as_tuple(module(torch.from_numpy(batch)))
        )
        loss = loss + aux_weight * sum(others)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    momenta = {
        name: optimizer.state[parameter]["momentum_buffer"].numpy()
        for name, parameter in module.named_parameters()
    }
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    return by_name(losses, state, momenta)


def by_name(losses: list[float], state: Arrays, momenta: Arrays) -> Arrays:
    """What is compared after some steps, without PyTorch's counts of batches."""
    counted = {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")}
    return {
        "losses": np.array(losses),
        **counted,
        **{f"momentum of {name}": value for name, value in momenta.items()},
    }


def _flax_sgd_steps(
    module: nn.Module,
    variables: dict[str, Any],
    images: np.ndarray,
    labels: np.ndarray,
    learning_rate: float,
    aux_weight: float,
) -> Arrays:
    """The same here, with ``optax``."""
    optimizer = optax.chain(
        optax.add_decayed_weights(WEIGHT_DECAY), optax.trace(MOMENTUM), optax.scale(-learning_rate)
    )

    @jit
    def step(variables: dict[str, Any], state: Any, batch: jax.Array, target: jax.Array) -> Any:
        def loss_function(params: Any) -> tuple[jax.Array, Any]:
            outputs, new = module.apply(
                {**variables, "params": params}, batch, train=True, mutable=["batch_stats"]
            )
            loss, *others = (
                optax.softmax_cross_entropy_with_integer_labels(logits, target).mean()
                for logits in as_tuple(outputs)
            )
            return loss + aux_weight * sum(others), new

        params = variables["params"]
        (loss, new), gradients = jax.value_and_grad(loss_function, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params)
        return loss, {"params": optax.apply_updates(params, updates), **new}, state

    losses, state = [], optimizer.init(variables["params"])
    for batch, target in zip(images, labels, strict=True):
        loss, variables, state = step(variables, state, jnp.asarray(batch), jnp.asarray(target))
        losses.append(float(loss))
    momenta = to_torch({"params": optax.tree.get(state, "trace")})
    return by_name(losses, to_torch(variables), momenta)
