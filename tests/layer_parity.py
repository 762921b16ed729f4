"""A layer against torch's: output, gradients of input and parameters, running statistics."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import linen as nn

from jaxcnn import convert
from jaxcnn.testing.compiling import jit


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def assert_close(ours: Any, theirs: Any, tolerance: float, what: str) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance, err_msg=what)


def assert_same(
    ours: nn.Module,
    theirs: torch.nn.Module,
    x: np.ndarray,
    *,
    train: bool = True,
    tolerance: float = 1e-11,
) -> None:
    """Compares in float64, with random parameters.

    Args:
        ours: a layer with ``param_dtype=jnp.float64``.
        theirs: torch's; it gets our parameters.
        x: ``[N, H, W, C]``.
        train: the mode of both.
        tolerance: relative and absolute.
    """
    theirs = theirs.double().train(train)
    theirs.zero_grad()
    rng = np.random.default_rng(0)
    variables = jax.eval_shape(ours.init, jax.random.key(0), jnp.asarray(x))
    # Positive, for running variances are among them.
    variables = jax.tree.map(lambda leaf: rng.uniform(0.5, 1.5, leaf.shape), variables)
    state = {k: torch.from_numpy(v) for k, v in convert.to_torch(variables).items()}
    theirs.load_state_dict(state)

    def loss(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
        y, new = ours.apply({**variables, "params": params}, x, train, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y)), (y, new)

    gradient = jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
    (grads, x_grad), (y, new) = gradient(variables.get("params", {}), jnp.asarray(x))
    tx = nchw(x).requires_grad_()
    ty = theirs(tx)
    torch.sin(ty).sum().backward()
    assert_close(np.moveaxis(np.asarray(y), -1, 1), ty.detach().numpy(), tolerance, "output")
    assert_close(np.moveaxis(np.asarray(x_grad), -1, 1), tx.grad.numpy(), tolerance, "input")
    for name, grad in convert.to_torch({"params": grads}).items():
        reference = theirs.get_parameter(name).grad.numpy()
        assert_close(grad, reference, tolerance, f"gradient of {name}")
    for name, value in convert.to_torch(new).items():
        if not name.endswith("num_batches_tracked"):
            assert_close(value, theirs.get_buffer(name).numpy(), tolerance, name)
