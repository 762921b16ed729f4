"""What a run says where a device has too little memory."""

import contextlib
from collections.abc import Iterator

import jax

from jaxcnn.errors import UserError, one_sentence
from jaxcnn.training.build import Experiment


@contextlib.contextmanager
def memory_errors(advice: str) -> Iterator[None]:
    """Report within the block that a device has too little memory as a UserError with advice."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = one_sentence(error).partition("RESOURCE_EXHAUSTED: ")[2][:200].rstrip(".")
        raise UserError(f"Out of memory{advice}. What was saved is kept. ({reason}.)") from error


def less_memory(experiment: Experiment) -> str:
    """How large the batch of a training step is, and what makes it smaller."""
    batch, devices = experiment.plan.batch_size, jax.device_count()
    parts, own = experiment.accumulate_steps, batch // devices
    sentence = (
        f": config.batch_size={batch} with config.accumulate_steps={parts} is {own // parts} "
        f"image(s) at once on each of {devices} device(s)"
    )
    more = next((n for n in range(parts + 1, own + 1) if own % n == 0), None)
    if more is None:
        return f"{sentence}; use smaller images, more devices, or config.dtype=bfloat16"
    return (
        f"{sentence}; set config.accumulate_steps={more}, which computes {own // more} at once, "
        f"and start the same command again (or lower config.batch_size in another --workdir)"
    )


def less_memory_in_evaluation(experiment: Experiment) -> str:
    """How many images an evaluation scores at once, and what makes them fewer."""
    batch = experiment.inputs.evaluation.batch_size
    return (
        f" in the evaluation, which scores {batch} images at once on {jax.device_count()} "
        f"device(s); set a lower config.eval.batch_size, and start the same command again"
    )
