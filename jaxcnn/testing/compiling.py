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
    platform = jax.default_backend()
    options = {"xla_backend_optimization_level": 0} if platform == "cpu" else None

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with layers.traced_for(platform):
            return function(*args, **kwargs)

    return jax.jit(traced, compiler_options=options, **kwargs)
