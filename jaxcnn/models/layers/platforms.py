"""Layers that are computed in another way on a CPU than elsewhere."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Within the block, trace layers for one platform.

    Without it, programs are right for whatever platform they are lowered for, but contain both
    ways of some layers until then, and take several times longer to trace where they have
    gradients. Every platform but ``"cpu"`` has XLA's own operations; ``"any"`` stands for all, in
    formats that do not know platforms, and for what reads a network's jaxpr::

        with traced_for("any"):
            jaxpr = jax.make_jaxpr(model.apply)(variables, images)

    Args:
        platform: ``"cpu"``, ``"cuda"``, ``"tpu"``, ..., or ``"any"``.
    """
    token = _platform.set(platform)
    try:
        yield
    finally:
        _platform.reset(token)


def by_platform(*args: jax.Array, cpu: Callable[..., Any], default: Callable[..., Any]) -> Any:
    """``cpu(*args)`` in a program for a CPU, and ``default(*args)`` in others."""
    platform = _platform.get()
    if platform is None:
        return lax.platform_dependent(*args, cpu=cpu, default=default)
    return cpu(*args) if platform == "cpu" else default(*args)
