"""Compilation for a single call in a test."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.models import layers


def jit(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    """``jax.jit`` for the default device, in less time.

    On a CPU most of the time is LLVM's: what XLA makes of a network is the same without its last
    polish.
    """
    on_cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 0} if on_cpu else None

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with layers.traced_for("cpu" if on_cpu else "any"):
            return function(*args, **kwargs)

    return jax.jit(traced, compiler_options=options, **kwargs)
