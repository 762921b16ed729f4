"""Layers that are computed in other ways on CPUs and GPUs than elsewhere."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax import lax

# What JAX calls GPUs: the platform that a program is lowered for, and that of a device.
_GPUS = ("cuda", "rocm", "gpu")

_platform: contextvars.ContextVar[str | None] = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def traced_for(platform: str) -> Iterator[None]:
    """Within the block, trace layers for one platform.

    Without it, programs are right for whatever platform they are lowered for, but contain all
    ways of some layers until then, and take several times longer to trace where they have
    gradients. Platforms but CPUs and GPUs have XLA's own operations; ``"any"`` stands for all, in
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


def by_platform(
    *args: jax.Array,
    default: Callable[..., Any],
    cpu: Callable[..., Any] | None = None,
    gpu: Callable[..., Any] | None = None,
) -> Any:
    """``cpu(*args)`` in a program for a CPU, ``gpu(*args)`` in one for a GPU.

    And ``default(*args)`` in others, and in place of what is None.
    """
    platform = _platform.get()
    if platform is None:
        rules = {"cpu": cpu, "cuda": gpu, "rocm": gpu}
        rules = {name: rule for name, rule in rules.items() if rule is not None}
        return lax.platform_dependent(*args, default=default, **rules) if rules else default(*args)
    rule = cpu if platform == "cpu" else gpu if platform in _GPUS else None
    return (rule or default)(*args)
