"""Compiling for tests."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from jaxcnn.models import layers


def jit(function: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    """``jax.jit`` for this machine's CPU, in less time.

    Most of the time is LLVM's: what XLA makes of a network is the same without its last polish.
    """

    @functools.wraps(function)
    def traced(*args: Any, **kwargs: Any) -> Any:
        with layers.traced_for("cpu"):
            return function(*args, **kwargs)

    return jax.jit(traced, compiler_options={"xla_backend_optimization_level": 0}, **kwargs)
