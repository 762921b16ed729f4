"""Losses and accuracy."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier


def cross_entropy(logits: jax.Array, targets: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
    """``torch.nn.functional.cross_entropy`` of each example, ``[N]``, in at least float32.

    Args:
        logits: ``[N, num_classes]``.
        targets: labels ``[N]``, integers, or distributions over the classes ``[N, num_classes]``.
        label_smoothing: the fraction of the target that is spread evenly over all classes.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    if targets.ndim == 1:
        targets = jax.nn.one_hot(targets, logits.shape[-1], dtype=logits.dtype)
    elif targets.shape != logits.shape:
        raise UserError(
            f"Targets have shape {targets.shape}; for logits of shape {logits.shape} they must be "
            f"labels [N] or distributions [N, num_classes]."
        )
    targets = targets.astype(logits.dtype)
    return optax.softmax_cross_entropy(logits, optax.smooth_labels(targets, label_smoothing))


def in_top_k(logits: jax.Array, labels: jax.Array, k: int) -> jax.Array:
    """Whether each example's label is among the ``k`` highest logits, ``[N]`` float32.

    Of equal logits the lower class ranks higher, so that each example has exactly ``k`` guesses;
    a label whose logit is NaN never counts.
    """
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    classes = jnp.arange(logits.shape[-1])
    better = ~(logits <= own) | ((logits == own) & (classes < labels[:, None]))
    return jnp.float32(jnp.sum(better, axis=-1) < k)


def scores(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Loss and accuracy of each example, ``[N]``."""
    return {
        "loss": cross_entropy(logits, labels),
        "top1": in_top_k(logits, labels, 1),
        "top5": in_top_k(logits, labels, 5),
    }


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Knowledge distillation from a trained network (Hinton, Vinyals and Dean 2015).

    The loss is ``(1 - weight)`` times that of the targets, and ``weight * temperature**2`` times
    the Kullback-Leibler divergence of the student's from the teacher's softmax, both of logits
    divided by the temperature.

    Attributes:
        model: the teacher, which runs as in evaluation, in its own dtype, on the student's images
            as they are augmented and normalized for the student.
        temperature: see above.
        weight: see above.
    """

    model: Classifier
    temperature: float = 4.0
    weight: float = 0.5

    def divergence(self, logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
        """Squared temperature times the divergence, mean over the batch, in at least float32.

        Args:
            logits: the student's, ``[N, num_classes]``.
            teacher_logits: likewise.
        """
        dtype = jnp.promote_types(logits.dtype, jnp.float32)
        student, teacher = (
            jax.nn.log_softmax(x.astype(dtype) / self.temperature) for x in (logits, teacher_logits)
        )
        divergence = optax.losses.kl_divergence_with_log_targets(student, teacher)
        return self.temperature**2 * jnp.mean(divergence)
