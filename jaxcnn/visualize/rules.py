"""Functions whose gradients follow other rules: a deconvnet's, or guided backpropagation's.

The transpose of a convolution is what reverse-mode differentiation computes, and batch norm with
running statistics is linear. So a deconvnet is the gradient of the network with other rules for
what is not linear, and no second network. The rules are applied to the network's program (its
jaxpr), where it calls these functions; the modules know nothing of them.

=============================  =============================  =============================
backward, through              deconvnet                      guided backpropagation
=============================  =============================  =============================
ReLU                           negative values become zero    likewise, then its derivative
ReLU6, SiLU, hard-swish, GELU  likewise: as ReLU              likewise, then its derivative
max pooling                    to the maximum of each window  its derivative
response normalisation         unchanged                      its derivative
layer, group, instance norm    with constant statistics       its derivative
sigmoid, hard-sigmoid (gates)  nothing: a gate is constant    its derivative
=============================  =============================  =============================

The rows for ReLU6 and so on also stand for the other functions of ``jax.nn`` that leave positive
values nearly as they are (leaky ReLU, ELU, SELU, CELU, Mish, Softplus); that for norms, for those
of :mod:`jaxcnn.models.layers`, without switchable norm. What a network is given beyond these has
its derivative.

Where two windows of max pooling chose one pixel, a deconvnet keeps one of the values, as torch's
``MaxUnpool2d`` does; the derivative is their sum.

Sources: Zeiler and Fergus 2013, "Visualizing and understanding convolutional networks", section
2.1; Springenberg et al. 2014, "Striving for simplicity", section 3.4 and figure 1. Both know ReLU
and max pooling only. The rows for the others are this package's: activations that grow without
bound act as ReLU does, and whatever only scales the signal is fixed at its scale.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxcnn.models.layers import max_unpool, window_switches

# A function of a program, such as one of jax.nn, or one of its primitive operations: from the
# equation that calls it, a function that computes the same and has another gradient.
Rule = Callable[[JaxprEqn], Callable[..., Any]]
# By the name of the function or the primitive.
Rules = Mapping[str, Rule]

# Primitives that call a function once, and where they have its program.
_CALLS = {
    **dict.fromkeys(("jit", "pjit", "remat", "remat2", "checkpoint", "closed_call"), "jaxpr"),
    **dict.fromkeys(("custom_jvp_call", "custom_vjp_call", "core_call"), "call_jaxpr"),
}


def with_rules(function: Callable[..., Any], rules: Rules) -> Callable[..., Any]:
    """The same function with other gradients.

    Args:
        function: of arrays, or trees of arrays, that JAX can trace.
        rules: by the names of what they are for.

    Example::

        guided = with_rules(lambda x: model.apply(variables, x), GUIDED)
        logits, vjp = jax.vjp(guided, images)
    """

    @functools.wraps(function)
    def wrapped(*args: Any) -> Any:
        program, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _evaluate(program.jaxpr, program.consts, jax.tree.leaves(args), rules)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return wrapped


def _evaluate(
    program: Jaxpr, consts: Sequence[Any], args: Sequence[Any], rules: Rules
) -> list[Any]:
    """Compute a program with rules for some of its equations."""
    values: dict[Any, Any] = dict(
        zip([*program.constvars, *program.invars], [*consts, *args], strict=True)
    )

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in program.eqns:
        operands = [read(variable) for variable in equation.invars]
        rule = rules.get(_name(equation))
        if rule is not None:
            results = rule(equation)(*operands)
        elif (inner := _program(equation)) is not None and _has_any(inner, rules):
            results = _evaluate(*_opened(inner), operands, rules)
        else:
            results = as_function(equation)(*operands)
        results = results if isinstance(results, (list, tuple)) else [results]
        values |= zip(equation.outvars, results, strict=True)
    return [read(variable) for variable in program.outvars]


def _name(equation: JaxprEqn) -> str:
    """The name of the compiled or differentiable function that is called, or of the primitive."""
    called = equation.params.get("name")
    return called if isinstance(called, str) and _program(equation) else equation.primitive.name


def _program(equation: JaxprEqn) -> Any | None:
    """The program of the function that an equation calls once; None: it does not."""
    return equation.params.get(_CALLS.get(equation.primitive.name, ""))


def _opened(program: Any) -> tuple[Jaxpr, Sequence[Any]]:
    """A program, and its constants if it is closed over some."""
    return getattr(program, "jaxpr", program), getattr(program, "consts", ())


def _has_any(program: Any, rules: Rules) -> bool:
    jaxpr, _ = _opened(program)
    return any(
        _name(equation) in rules
        or ((inner := _program(equation)) is not None and _has_any(inner, rules))
        for equation in jaxpr.eqns
    )


def as_function(equation: JaxprEqn) -> Callable[..., list[Any]]:
    """An equation as a function of its inputs, with its own gradient."""
    primitive = equation.primitive

    def call(*operands: Any) -> list[Any]:
        results = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
        return results if primitive.multiple_results else [results]

    return call


def _single(equation: JaxprEqn) -> Callable[[jax.Array], jax.Array]:
    call = as_function(equation)
    return lambda x: call(x)[0]


def rectified(equation: JaxprEqn) -> Callable[[jax.Array], jax.Array]:
    """The gradient is the signal from above, without its negative values."""
    return _with_pullback(_single(equation), lambda x, signal: jnp.maximum(signal, 0))


def guided(equation: JaxprEqn) -> Callable[[jax.Array], jax.Array]:
    """The function's own gradient, of the signal from above without its negative values."""
    function = _single(equation)

    def pullback(x: jax.Array, signal: jax.Array) -> jax.Array:
        _, vjp = jax.vjp(function, x)
        return vjp(jnp.maximum(signal, 0))[0]

    return _with_pullback(function, pullback)


def unchanged(equation: JaxprEqn) -> Callable[[jax.Array], jax.Array]:
    """The gradient is that of the identity."""
    return _with_pullback(_single(equation), lambda x, signal: signal)


def constant(equation: JaxprEqn) -> Callable[..., Any]:
    """The gradient is zero."""
    return lambda *operands: lax.stop_gradient(as_function(equation)(*operands))


def with_fixed_statistics(equation: JaxprEqn) -> Callable[..., Any]:
    """The gradient of a norm whose means and variances are constants."""
    program, consts = _opened(_program(equation))
    return lambda *operands: _evaluate(program, consts, operands, {"reduce_sum": constant})


def unpooled(equation: JaxprEqn) -> Callable[[jax.Array], jax.Array]:
    """Max pooling of ``[N, H, W, C]``: the signal goes to where the maxima were."""
    window, strides = (equation.params[key][1:3] for key in ("window_dimensions", "window_strides"))
    pads = equation.params["padding"][1:3]

    def pullback(x: jax.Array, signal: jax.Array) -> jax.Array:
        return max_unpool(signal, window_switches(x, window, strides, pads), x.shape[1:3])

    return _with_pullback(_single(equation), pullback)


def _with_pullback(
    function: Callable[[jax.Array], jax.Array],
    pullback: Callable[[jax.Array, jax.Array], jax.Array],
) -> Callable[[jax.Array], jax.Array]:
    """A function of one array with the gradient ``pullback(x, signal)``."""
    changed = jax.custom_vjp(function)
    changed.defvjp(
        lambda x: (function(x), x),
        lambda x, signal: (pullback(x, signal),),
    )
    return changed


_RECTIFIERS = (
    *("relu", "relu6", "silu", "hard_silu", "gelu"),
    *("leaky_relu", "elu", "selu", "celu", "mish", "softplus"),
)

DECONVNET: Rules = {
    **dict.fromkeys(_RECTIFIERS, rectified),
    "reduce_window_max": unpooled,
    "local_response_norm": unchanged,
    "_standardized": with_fixed_statistics,
    "logistic": constant,
    "hard_sigmoid": constant,
}

GUIDED: Rules = {
    **dict.fromkeys(_RECTIFIERS, guided),
    "hard_sigmoid": as_function,  # within it is a ReLU6, which rectifies nothing
}
