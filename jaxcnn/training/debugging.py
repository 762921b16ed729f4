"""Which layer of a network is the first whose output is NaN or infinite."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn
from jax import lax

from jaxcnn.errors import UserError
from jaxcnn.training.devices import pmap, unreplicate
from jaxcnn.training.step import AXIS, TrainState, all_finite


def debugged(step: Callable[..., Any]) -> Callable[..., Any]:
    """A pmapped step that looks at its result, and is taken again layer by layer if it is bad.

    Slower than a plain one: it waits for each step, and keeps the state before it in memory.

    Args:
        step: from :func:`jaxcnn.training.step.make_train_step`, without ``skip_nonfinite``.

    Returns:
        A function like ``devices.pmap(step)``, which raises a UserError that names what is the
        first to be NaN or infinite.
    """
    pmapped, finite = pmap(step), jax.jit(all_finite)

    def run(state: TrainState, batch: Any, *others: Any) -> tuple[TrainState, Any]:
        new, metrics = pmapped(state, batch, *others)
        if not finite((new, metrics)):
            first = first_nonfinite(step, state, batch, *others)
            raise UserError(
                f"Step {int(unreplicate(new.step))}: {first}. Everything that is computed before "
                f"it is finite (--debug_nans)."
            )
        return new, metrics

    return run


def first_nonfinite(step: Callable[..., Any], state: TrainState, batch: Any, *others: Any) -> str:
    """Take a step once more, and say what is the first in it that is NaN or infinite.

    Args:
        step: as for :func:`debugged`.
        state: before the step, replicated.
        batch: split over the devices.
        others: the step's other arguments.

    Returns:
        A clause, such as "the output of layer1.0.conv1 is not finite on device 2".
    """
    if bad := _nonfinite_leaves(state):
        return f"{bad[0]} was not finite before the step"
    names: list[str] = []  # of what is looked at, in the order in which it is computed
    found: dict[int, set[int]] = {}  # of those that are not finite: on which devices

    def note(number: int, finite: Any, device: Any) -> None:
        if not finite:
            found.setdefault(number, set()).add(int(device))

    def look(name: str, value: Any) -> None:
        number = len(names)
        names.append(name)
        device = lax.axis_index(AXIS)
        jax.debug.callback(functools.partial(note, number), all_finite(value), device)

    def intercept(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        # A teacher is evaluated, and so changes no statistics.
        whose = "" if module.is_mutable_collection("batch_stats") else "the teacher's "
        if not module.path:
            look(f"{whose}input (the images, augmented and normalized)", args)
        outputs = call(*args, **kwargs)
        where = ".".join(module.path) or f"the whole {type(module).__name__}"
        look(f"the output of {whose}{where}", outputs)
        return outputs

    with nn.intercept_methods(intercept):
        # Another function than the one that was compiled without looking.
        new, metrics = pmap(lambda *args, **kwargs: step(*args, **kwargs))(state, batch, *others)
        jax.block_until_ready((new, metrics))
    jax.effects_barrier()
    if found:
        number = min(found)
        devices = ", ".join(map(str, sorted(found[number])))
        where = f" on device {devices} of {jax.device_count()}" if jax.device_count() > 1 else ""
        return f"{names[number]} is not finite{where}"
    here = " of this process" if jax.process_count() > 1 else ""
    outputs_are = f"every layer's output{here} is"
    if bad := [name for name, value in unreplicate(metrics).items() if not all_finite(value)]:
        return f"the {'loss' if 'loss' in bad else bad[0]} is not finite, though {outputs_are}"
    # Gradients are computed from the last layer to the first.
    order = [name.removeprefix("the output of ") for name in names]
    bad = _nonfinite_leaves(new)

    def position(leaf: str) -> int:
        return max((n for n, layer in enumerate(order) if f".{layer}." in leaf), default=-1)

    return f"the update of {max(bad, key=position)} is not finite, though {outputs_are}"


def _nonfinite_leaves(state: TrainState) -> list[str]:
    """The names of the replicated state's arrays that are not finite; parameters come first."""
    parts = {"params": state.params, "batch_stats": state.batch_stats, "state": state}
    return [
        f"{part}.{jax.tree_util.keystr(path, simple=True, separator='.')}"
        for part, tree in parts.items()
        for path, leaf in jax.tree_util.tree_leaves_with_path(unreplicate(tree))
        if not all_finite(leaf)
    ]
