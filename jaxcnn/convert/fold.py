"""Networks without batch norms, for inference.

In evaluation a batch norm multiplies each channel by ``gamma / sqrt(var + eps)`` and adds a
constant. Where it follows a convolution or a dense layer, the factor goes into the kernel; the
constant stays, as the norm's bias.
"""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import Jaxpr, Literal

from jaxcnn.convert.state_dict import Path, expected_shapes
from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier, first_kernel
from jaxcnn.models.layers import BatchNorm, Conv, Linear, is_batch_norm

# Exactly these classes: a subclass may compute something that is not linear in its kernel.
_CONVOLUTIONS = (Conv, Linear, nn.Conv, nn.Dense)
# Primitives that compute their one jaxpr on their operands, by JAX's names. Others, such as scan
# and cond, are not looked into.
_CALLS = ("jit", "pjit", "checkpoint", "remat", "remat2")


def fold_batch_norm(
    model: Classifier, variables: Mapping[str, Any]
) -> tuple[Classifier, dict[str, Any]]:
    """Fold the batch norms of a network into its convolutions and dense layers, for inference.

    The network that results computes the same logits in evaluation, to rounding, without running
    statistics: the kernel of a convolution that a batch norm follows is multiplied by ``gamma /
    sqrt(var + eps)``, and the norm only adds its ``bias``. A batch norm that does not directly
    follow a convolution of its own (DenseNet's after a concatenation, say) keeps a ``scale``, too.
    Which convolution that is, is found in the traced network. Auxiliary heads, which evaluation
    does not use, are removed.

    Args:
        model: the network, with this package's batch norms or ``flax.linen.BatchNorm`` as its
            ``norm_layer``.
        variables: its variables, ``{"params": ..., "batch_stats": ...}``.

    Returns:
        The network, which cannot be trained, and its variables, ``{"params": ...}``, with the
        dtypes of those given; the factors are computed in float64. A network without
        ``batch_stats``, such as one with layer norms, is returned as it is.

    Raises:
        UserError: if the variables do not fit the network, or if it has running statistics that
            do not belong to such a batch norm (``norm_layer="switchable"``).

    Example::

        model, variables = convert.load_pretrained("resnet50")
        model, variables = convert.fold_batch_norm(model, variables)
        logits = jax.jit(model.apply)(variables, images)
    """
    leaves = traverse_util.flatten_dict(dict(variables))
    if not any(path[0] == "batch_stats" for path in leaves):
        return model, dict(variables)
    if getattr(model, "aux_logits", False):
        model = model.clone(aux_logits=False)
    channels = first_kernel(model, variables.get("params", {})).shape[2]
    norms = _batch_norms(model, variables, channels)
    unfolded = sorted(".".join(norm.path) for norm in norms if norm.convolution is None)
    folded = model.clone(folded=tuple(unfolded))

    for norm in norms:
        leaves |= _folded_leaves(norm, leaves)
    expected = expected_shapes(folded, channels)
    for path in expected:
        if path[0] == "batch_stats":
            raise UserError(
                f"The running statistics of {'.'.join(path[1:-1])!r} in this "
                f"{type(model).__name__} cannot be folded: only those of jaxcnn's BatchNorm, and "
                f"of flax.linen.BatchNorm as a norm_layer, can. Use this network unfolded."
            )
    return folded, traverse_util.unflatten_dict({path: leaves[path] for path in expected})


@dataclasses.dataclass(frozen=True)
class _Norm:
    """A batch norm.

    Attributes:
        path: its path.
        eps: added to the variance.
        convolution: the path of the convolution whose output it alone uses; None: there is none.
    """

    path: Path
    eps: float
    convolution: Path | None


def _folded_leaves(norm: _Norm, leaves: Mapping[Path, Any]) -> dict[Path, jax.Array]:
    """The leaves that change where a norm is folded, from all leaves."""
    own = [("params", *norm.path, leaf) for leaf in ("scale", "bias")]
    statistics = [("batch_stats", *norm.path, leaf) for leaf in ("mean", "var")]
    # kernel_g is the length of the kernel under weight norm.
    names = ("kernel", "kernel_g", "bias") if norm.convolution is not None else ()
    scaled = [path for leaf in names if (path := ("params", *norm.convolution, leaf)) in leaves]
    # Flax's norms may lack scale and bias, and their statistics may be float32 whatever the rest.
    dtype = next(leaves[path].dtype for path in (*own, *scaled, *statistics) if path in leaves)

    gamma, beta = (leaves.get(path, default) for path, default in zip(own, (1, 0), strict=True))
    mean, var = (np.asarray(leaves[path], np.float64) for path in statistics)
    scale = np.asarray(gamma, np.float64) / np.sqrt(var + norm.eps)
    bias = np.asarray(beta, np.float64) - mean * scale
    folded = {own[1]: bias.astype(dtype)}
    if norm.convolution is None:
        folded[own[0]] = scale.astype(dtype)
    for path in scaled:
        product = np.asarray(leaves[path], np.float64) * scale
        folded[path] = product.astype(leaves[path].dtype)
    return {path: jnp.asarray(value) for path, value in folded.items()}


def _batch_norms(model: Classifier, variables: Mapping[str, Any], channels: int) -> list[_Norm]:
    """The batch norms that run in evaluation.

    The network is traced, with marks (identities with a name) on the outputs of convolutions and
    the inputs of batch norms. Where one mark's output is used by the other only, they belong
    together.
    """
    marked: dict[str, nn.Module] = {}

    def mark(value: jax.Array, module: nn.Module, place: str) -> jax.Array:
        name = f"{place} {'.'.join(module.path)}"
        marked[name] = module
        return checkpoint_name(value, name)

    def intercept(
        function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return function(*args, **kwargs)
        if is_batch_norm(module) and args:
            args = (mark(args[0], module, "input of"), *args[1:])
        output = function(*args, **kwargs)
        return mark(output, module, "output of") if type(module) in _CONVOLUTIONS else output

    def forward(variables: Any, images: jax.Array) -> jax.Array:
        with nn.intercept_methods(intercept):
            return model.apply(variables, images)

    images = jax.ShapeDtypeStruct((1, model.input_size, model.input_size, channels), jnp.float32)
    shapes = jax.eval_shape(lambda leaves: leaves, dict(variables))
    jaxpr = jax.make_jaxpr(forward)(shapes, images).jaxpr
    values: dict[str, list[_Value]] = collections.defaultdict(list)
    outputs = _follow(jaxpr, [_Value() for _ in jaxpr.invars], values)
    for output in outputs:
        output.uses += 1

    norms = []
    for name, module in marked.items():
        if not is_batch_norm(module):
            continue
        source = values[name][0].mark
        convolution = None if source is None else marked.get(source)
        if not (
            type(convolution) in _CONVOLUTIONS
            and len(values[source]) == len(values[name]) == values[name][0].uses == 1
        ):
            convolution = None
        eps = module.eps if isinstance(module, BatchNorm) else module.epsilon
        norms.append(_Norm(module.path, eps, convolution and convolution.path))
    return norms


@dataclasses.dataclass(eq=False)
class _Value:
    """A value of a traced network.

    Attributes:
        mark: the name of the mark that it is the output of; None: it is not one's.
        uses: how many operations use it.
    """

    mark: str | None = None
    uses: int = 0


def _follow(
    jaxpr: Jaxpr, inputs: Sequence[_Value], marked: dict[str, list[_Value]]
) -> list[_Value]:
    """The outputs of a jaxpr; what each mark is applied to is appended to ``marked``."""
    values = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> _Value:
        return _Value() if isinstance(atom, Literal) else values.setdefault(atom, _Value())

    for equation in jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        if equation.primitive.name in _CALLS:
            inner = equation.params["jaxpr"]
            outputs = _follow(getattr(inner, "jaxpr", inner), operands, marked)
        else:
            for operand in operands:
                operand.uses += 1
            outputs = [_Value() for _ in equation.outvars]
            if equation.primitive.name == "name":
                marked[equation.params["name"]].append(operands[0])
                outputs[0].mark = equation.params["name"]
        values |= zip(equation.outvars, outputs, strict=True)
    return [read(atom) for atom in jaxpr.outvars]
