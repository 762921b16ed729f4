"""Groups of parameters: norms and biases, what is frozen, and what has a rate of its own.

A parameter is named by its dotted path in the tree of parameters, ``layer1.0.conv1.kernel``.
"""

import contextlib
import dataclasses
import fnmatch
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from flax import traverse_util

from jaxcnn.errors import UserError, suggest
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import BatchNorm, SwitchableNorm

Path = tuple[str, ...]
BODY = "body"  # every layer but those that output classes


def map_named(function: Callable[[Path, Any], Any], params: Any) -> Any:
    """Map a function of path and leaf over a tree of parameters."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict({path: function(path, leaf) for path, leaf in flat.items()})


def kinds(params: Any) -> Any:
    """The kind of each parameter, as torchvision's ``set_weight_decay`` tells them apart.

    Returns:
        A tree like ``params`` of ``"bias"`` and ``"norm_bias"``; ``"norm"``: what else a norm has,
        its scale and its weights of statistics; and ``"weight"``: kernels, and ConvNeXt's
        ``layer_scale``, which is not a norm's.
    """
    norms = {path[:-1] for path in traverse_util.flatten_dict(params) if path[-1] == "scale"}

    def kind(path: Path, leaf: Any) -> str:
        if path[:-1] in norms:
            return "norm_bias" if path[-1] == "bias" else "norm"
        return "bias" if path[-1] == "bias" else "weight"

    return map_named(kind, params)


def _is_within(path: Path, pattern: str) -> bool:
    """Whether a pattern names a parameter, or a module that has it."""
    return any(
        fnmatch.fnmatchcase(".".join(path[:end]), pattern) for end in range(1, len(path) + 1)
    )


def _is_head(path: Path, model: Classifier) -> bool:
    return any(_is_within(path, layer) for layer in model.classifier)


def head_rate(model: Classifier, factor: float) -> Callable[[Any], Any]:
    """Rates by which the layers that output classes learn ``factor`` times as fast as the others.

    Returns:
        A function of the parameters: a tree like them of floats.
    """
    return lambda params: map_named(
        lambda path, _: factor if _is_head(path, model) else 1.0, params
    )


def layer_rates(
    model: Classifier, decay: float, image_shape: Sequence[int]
) -> Callable[[Any], Any]:
    """Rates that fall by ``decay`` from each block to the one before it; 1 for all heads.

    A block is a module with kernels that runs after the one before it: one of the network's own
    (``conv1``, Inception's ``Mixed_5b`` with its branches), or of one of its stages
    (``layer1.0``). A norm between two of them belongs to the first. They are counted in the order
    in which an image meets them; auxiliary heads are not counted.

    Args:
        model: the network.
        decay: what the rate is multiplied by, per block.
        image_shape: ``(1, H, W, C)``, with which the network is traced.

    Returns:
        A function of the parameters: a tree like them of floats.
    """
    blocks = _blocks(model, image_shape)
    depth = max(blocks.values())
    auxiliary = _auxiliary_heads(model)

    def rate(path: Path, leaf: Any) -> float:
        if _is_head(path, model) or path[0] in auxiliary:
            return 1.0
        return decay ** (depth - blocks[_block(path)])

    return lambda params: map_named(rate, params)


def _auxiliary_heads(model: Classifier) -> set[str]:
    """The top-level modules of the layers that output classes beside the logits."""
    return {layer.partition(".")[0] for layer in model.classifier[1:]}


# Children that run one after another, as their names say: 0, block2, block2-1, denselayer3.
_IN_SEQUENCE = re.compile(r"\d+|(dense)?block\d+(-\d+)?|(denselayer|transition)\d+")


def _block(path: Path) -> Path:
    """The block of a parameter: its top-level module, or the innermost of those in sequence."""
    end = 1
    while end < len(path) - 1 and _IN_SEQUENCE.fullmatch(path[end]):
        end += 1
    return path[:end]


def _blocks(model: Classifier, image_shape: Sequence[int]) -> dict[Path, int]:
    """The number of each block, from 0, in the order of execution."""
    met: dict[Path, bool] = {}  # in order; whether it has a kernel

    def trace(images: jax.Array) -> Any:
        def record(function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext):
            result = function(*args, **kwargs)
            own = context.module.variables.get("params", {})
            for name, leaf in own.items():
                if not isinstance(leaf, Mapping):
                    block = _block((*context.module.path, name))
                    met[block] = met.get(block, False) or name == "kernel"
            return result

        with nn.intercept_methods(record):
            return model.init(jax.random.key(0), images)

    jax.eval_shape(trace, jax.ShapeDtypeStruct(tuple(image_shape), model.param_dtype))
    auxiliary = _auxiliary_heads(model)
    numbers, number = {}, -1
    for block, has_kernel in met.items():
        if block[0] in auxiliary:
            continue
        number += has_kernel or number < 0
        numbers[block] = number
    return numbers


@dataclasses.dataclass(frozen=True)
class Freeze:
    """The parameters that training leaves as they are.

    Attributes:
        patterns: of dotted paths of parameters or modules, with ``*`` for anything.
        kept: layers that are never frozen.
        batch_stats: whether the batch norms whose parameters are frozen normalize with their
            running statistics, as in evaluation, and leave those as they are, too.

    Example::

        freeze = Freeze(("layer1", "*.bn?"))
        trainable, frozen = freeze.split(params)
    """

    patterns: tuple[str, ...]
    kept: tuple[str, ...] = ()
    batch_stats: bool = True

    @classmethod
    def parse(cls, text: str, model: Classifier, *, batch_stats: bool = True) -> "Freeze":
        """From ``"body"``, all but the layers that output classes, or patterns with commas."""
        if text == BODY:
            return cls(("*",), kept=model.classifier, batch_stats=batch_stats)
        patterns = tuple(part.strip() for part in text.split(",") if part.strip())
        return cls(patterns, batch_stats=batch_stats)

    def __contains__(self, path: Path) -> bool:
        """Whether the parameter at a path is frozen."""
        if any(_is_within(path, layer) for layer in self.kept):
            return False
        return any(_is_within(path, pattern) for pattern in self.patterns)

    def split(self, params: Any) -> tuple[Any, Any]:
        """The trainable and the frozen parameters, each a tree without the others."""
        flat = traverse_util.flatten_dict(params)
        parts = ({}, {})
        for path, leaf in flat.items():
            parts[path in self][path] = leaf
        return tuple(map(traverse_util.unflatten_dict, parts))

    def check(self, params: Any) -> None:
        """Check that each pattern names a parameter, and that something is left to train.

        A norm is frozen as a whole: weight decay tells its parameters by their neighbors.

        Args:
            params: the parameters, or their shapes.

        Raises:
            UserError: otherwise.
        """
        paths = list(traverse_util.flatten_dict(params))
        modules = {".".join(path[:end]) for path in paths for end in range(1, len(path) + 1)}
        for pattern in self.patterns:
            if not any(_is_within(path, pattern) for path in paths):
                raise UserError(
                    f"config.freeze: the network has no parameter or module {pattern!r}; "
                    f"{suggest(pattern, sorted(modules))}"
                )
        for norm in [path[:-1] for path in paths if path[-1] == "scale"]:
            if len({path in self for path in paths if path[:-1] == norm}) > 1:
                raise UserError(
                    f"config.freeze={','.join(self.patterns)!r} freezes a part of the norm "
                    f"{'.'.join(norm)!r}; freeze the whole of it, or nothing."
                )
        if all(path in self for path in paths):
            raise UserError(
                f"config.freeze={','.join(self.patterns)!r} leaves no parameter to train; freeze "
                f"fewer, for example with config.freeze={BODY}."
            )

    @contextlib.contextmanager
    def fixed_batch_norms(self) -> Iterator[None]:
        """Within the block, frozen batch norms run as in evaluation, if ``batch_stats``."""

        def intercept(
            function: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext
        ) -> Any:
            module = context.module
            if (
                isinstance(module, (BatchNorm, SwitchableNorm))
                and context.method_name == "__call__"
                and (*module.path, "scale") in self
            ):
                args, kwargs = args[:1], {**kwargs, "train": False}
            return function(*args, **kwargs)

        with nn.intercept_methods(intercept) if self.batch_stats else contextlib.nullcontext():
            yield


def merge(*parts: Any) -> Any:
    """One tree of parameters from trees without common leaves."""
    flat: dict[Path, Any] = {}
    for part in parts:
        flat |= traverse_util.flatten_dict(part)
    return traverse_util.unflatten_dict(flat)


def count(params: Any, freeze: Freeze | None = None) -> int:
    """The number of parameters that train."""
    if freeze is not None:
        params, _ = freeze.split(params)
    return sum(leaf.size for leaf in jax.tree.leaves(params))
