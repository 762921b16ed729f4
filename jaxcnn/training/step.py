"""What one replica does with one batch: pure functions, for both ``jax.pmap`` and ``jax.jit``.

Example, on all local devices::

    state = init_state(model, optimizer, (1, 32, 32, 3), seed=0)
    train_step = make_train_step(model, optimizer, normalize=normalizer(mean, std), seed=0)
    p_train_step = jax.pmap(train_step, axis_name="batch", donate_argnums=0)
    state, metrics = p_train_step(jax_utils.replicate(state), sharded_batch)

and on one device without replicas::

    step = jax.jit(functools.partial(train_step, axis_name=None), donate_argnums=0)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier
from jaxcnn.training.augmentation import Augmentation, Normalize, to_float

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

AXIS = "batch"  # the mapped axis along which replicas communicate

# Folded into a step's key, which is dropout's as it is, to give augmentation a key of its own.
_AUGMENTATION = 1


@chex.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes, and so everything that a checkpoint stores.

    Attributes:
        step: number of steps taken so far, int32.
        params: the model's parameters.
        batch_stats: the running statistics of its batch norms (empty if it has none).
        opt_state: the optimiser's state; with momentum, a tree like ``params``.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """The model's variables, as ``model.apply`` takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_state(
    model: Classifier,
    optimizer: optax.GradientTransformation,
    image_shape: Sequence[int],
    *,
    seed: int = 0,
) -> TrainState:
    """The state before the first step.

    Args:
        model: the network.
        optimizer: the optimiser.
        image_shape: ``(1, H, W, C)``.
        seed: of the initial weights.
    """

    @jax.jit  # with the images inside: the initial values do not depend on them, nor their size
    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros(image_shape, model.param_dtype))

    variables = init(jax.random.key(seed))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables.get("batch_stats", {}),
        opt_state=jax.jit(optimizer.init)(variables["params"]),
    )


def normalizer(mean: Sequence[float], std: Sequence[float]) -> Normalize:
    """``ToTensor`` and ``Normalize`` of torchvision, on the device.

    Args:
        mean: of each channel, of values in 0 to 1 (or one for all channels); or an image
            ``[H, W, C]``.
        std: standard deviation, likewise.

    Returns:
        A function of images ``[N, H, W, C]``: uint8, which it divides by 255, or floating, which
        are in 0 to 1 already. It returns float32, or the images' own dtype if that is wider.
    """

    def normalize(images: jax.Array) -> jax.Array:
        return (to_float(images) - jnp.asarray(mean)) / jnp.asarray(std)

    return normalize


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


def _scores(logits: jax.Array, labels: jax.Array) -> Metrics:
    """Loss and accuracy of each example, ``[N]``."""
    return {
        "loss": cross_entropy(logits, labels),
        "top1": in_top_k(logits, labels, 1),
        "top5": in_top_k(logits, labels, 5),
    }


def make_train_step(
    model: Classifier,
    optimizer: optax.GradientTransformation,
    *,
    normalize: Normalize = lambda images: images,
    label_smoothing: float = 0.0,
    augmentation: Augmentation | None = None,
    seed: int = 0,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Make the training step of a model.

    Args:
        model: the network.
        optimizer: the optimiser.
        normalize: maps the batch's images to the model's input.
        label_smoothing: see :func:`cross_entropy`.
        augmentation: applied to the batch before the model sees it, to each replica's batch by
            itself; None: only ``normalize``.
        seed: of dropout and augmentation, with the step's number and the replica's.

    Returns:
        ``train_step(state, batch, *, axis_name="batch") -> (state, metrics)``. The batch is one
        replica's ``image`` ``[N, H, W, C]`` and ``label`` ``[N]``; gradients, metrics and running
        statistics are averaged over the replicas along ``axis_name`` (None: a single replica).
        The loss is that of the logits plus ``model.aux_weight`` times that of each auxiliary
        head, for the targets as mixed by the augmentation. Metrics are ``loss``, ``top1`` and
        ``top5``, means over the batch of all replicas before the update; ``top1`` and ``top5``
        score the augmented images against the batch's own labels, not the mixed targets.
    """
    if augmentation == Augmentation():  # all off: the same computation as without
        augmentation = None

    def train_step(
        state: TrainState, batch: Batch, *, axis_name: str | None = AXIS
    ) -> tuple[TrainState, Metrics]:
        replica = 0 if axis_name is None else lax.axis_index(axis_name)
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), state.step), replica)
        labels = batch["label"]
        if augmentation is None:
            images, targets = normalize(batch["image"]), labels
        else:
            image_key, batch_key = jax.random.split(jax.random.fold_in(key, _AUGMENTATION))
            images = augmentation.images(image_key, batch["image"], normalize)
            distributions = jax.nn.one_hot(labels, model.num_classes)
            images, targets = augmentation.batch(batch_key, images, distributions)

        def loss_fn(params: Any) -> tuple[jax.Array, tuple[jax.Array, Any]]:
            outputs, mutated = model.apply(
                {"params": params, "batch_stats": state.batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
            logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = jnp.mean(cross_entropy(logits, targets, label_smoothing))
            for head in auxiliary:
                aux_loss = jnp.mean(cross_entropy(head, targets, label_smoothing))
                loss += model.aux_weight * aux_loss
            return loss, (logits, mutated.get("batch_stats", {}))

        grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
        (loss, (logits, batch_stats)), grads = grad_fn(state.params)
        scores = {name: jnp.mean(score) for name, score in _scores(logits, labels).items()}
        metrics = scores | {"loss": loss}
        if axis_name is not None:
            grads, batch_stats, metrics = lax.pmean((grads, batch_stats, metrics), axis_name)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        new_state = TrainState(
            step=state.step + 1,
            params=optax.apply_updates(state.params, updates),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return new_state, metrics

    return train_step


def _averaged(logits: jax.Array) -> jax.Array:
    """Logits ``[N, num_classes]`` whose softmax is the mean of those of ``[N, crops, ...]``."""
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    crops = jnp.log(jnp.asarray(logits.shape[1], logits.dtype))
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=1) - crops


def make_eval_step(
    model: Classifier, *, normalize: Normalize = lambda images: images
) -> Callable[..., Metrics]:
    """Make the evaluation step of a model.

    Args:
        model: the network.
        normalize: maps the batch's images to the model's input.

    Returns:
        ``eval_step(variables, batch, *, axis_name="batch") -> sums``. The batch also has ``mask``
        ``[N]``: 1 for examples that count, 0 for padding. Several crops of each image,
        ``[N, crops, H, W, C]``, are scored by the mean of their softmaxes (Krizhevsky et al.
        2012, section 4.1). The sums, over all replicas, are ``loss``, ``top1``, ``top5`` and
        ``examples``.
    """

    def eval_step(
        variables: Mapping[str, Any], batch: Batch, *, axis_name: str | None = AXIS
    ) -> Metrics:
        images = batch["image"]
        logits = model.apply(variables, normalize(images.reshape(-1, *images.shape[-3:])))
        if images.ndim == 5:
            logits = _averaged(logits.reshape(*images.shape[:2], -1))
        counts = batch["mask"] > 0
        sums = {
            # where, not a product: a NaN on padding must not spoil the sum
            name: jnp.sum(jnp.where(counts, score, 0))
            for name, score in _scores(logits, batch["label"]).items()
        }
        sums["examples"] = jnp.sum(counts, dtype=jnp.int32)
        return sums if axis_name is None else lax.psum(sums, axis_name)

    return eval_step
