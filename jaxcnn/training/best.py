"""Which step of a run is the best, by its evaluations."""

from collections.abc import Iterable, Mapping

# Figures of an evaluation that tell how good a step is, by whether lower is better.
_LOWER_IS_BETTER = {"top1": False, "top5": False, "loss": True}
EMA = "ema_"  # before the names of the average's figures
BEST_BY = (*_LOWER_IS_BETTER, *(EMA + name for name in _LOWER_IS_BETTER))

Evaluations = Mapping[int, Mapping[str, float]]


def ranked(steps: Iterable[int], evaluations: Evaluations, best_by: str) -> list[int]:
    """Sort steps from the best to the worst; of equal ones the earlier is better.

    Args:
        steps: those that lack the figure are left out.
        evaluations: figures by step, those of the average of the variables as ``ema_top1``.
        best_by: one of :data:`BEST_BY`.
    """
    sign = 1 if _LOWER_IS_BETTER[best_by.removeprefix(EMA)] else -1
    found = {step: evaluations[step][best_by] for step in steps if has(evaluations, step, best_by)}
    return sorted(found, key=lambda step: (sign * found[step], step))


def has(evaluations: Evaluations, step: int, figure: str) -> bool:
    """Whether a step has been evaluated, with a figure among the results."""
    return figure in evaluations.get(step, {})
