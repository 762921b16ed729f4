"""What one replica does with one batch: pure functions, for both ``jax.pmap`` and ``jax.jit``.

Example, on all local devices (:mod:`jaxcnn.training.devices`)::

    state = init_state(model, optimizer, (1, 32, 32, 3), seed=0)
    train_step = make_train_step(model, optimizer, normalize=normalizer(mean, std), seed=0)
    p_train_step = jax.pmap(train_step, axis_name="batch", donate_argnums=0)
    state, metrics = p_train_step(devices.replicate(state), devices.split(batch))

and on one device without replicas::

    step = jax.jit(functools.partial(train_step, axis_name=None), donate_argnums=0)
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from jaxcnn.models.classifier import Classifier
from jaxcnn.training.augmentation import Augmentation, Normalize, to_float
from jaxcnn.training.ema import Ema
from jaxcnn.training.losses import Teacher, cross_entropy, scores
from jaxcnn.training.parameters import Freeze, merge

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]

AXIS = "batch"  # the mapped axis along which replicas communicate

# Folded into a step's key, which is dropout's as it is, to give others keys of their own:
# augmentation, and dropout where a batch is computed in parts.
_AUGMENTATION, _PARTS = 1, 2


@chex.dataclass(frozen=True)
class TrainState:
    """Everything that a step changes, and so everything that a checkpoint stores.

    Attributes:
        step: number of steps taken so far, int32.
        params: the model's parameters.
        batch_stats: the running statistics of its batch norms (empty if it has none).
        opt_state: the optimizer's state; with momentum, a tree like the parameters that train.
        ema: the average of the variables, like :attr:`variables`; empty if there is none.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any = dataclasses.field(default_factory=dict)

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
    freeze: Freeze | None = None,
    with_ema: bool = False,
) -> TrainState:
    """The state before the first step.

    Args:
        model: the network.
        optimizer: the optimizer.
        image_shape: ``(1, H, W, C)``.
        seed: of the initial weights.
        freeze: the parameters that do not train; the optimizer has no state for them.
        with_ema: whether the state has an average of the variables.
    """

    @jax.jit  # with the images inside: the initial values do not depend on them, nor their size
    def init(key: jax.Array) -> Any:
        return model.init(key, jnp.zeros(image_shape, model.param_dtype))

    variables = init(jax.random.key(seed))
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    trainable = params if freeze is None else freeze.split(params)[0]
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=jax.jit(optimizer.init)(trainable),
    )
    if not with_ema:
        return state
    return dataclasses.replace(state, ema=jax.tree.map(jnp.copy, state.variables))


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


def step_key(seed: int, step: jax.Array | int, replica: jax.Array | int) -> jax.Array:
    """The key of all that a replica draws in a step."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), step), replica)


def network_inputs(
    batch: Batch,
    augmentation: Augmentation | None,
    normalize: Normalize,
    key: jax.Array,
    num_classes: int,
) -> tuple[jax.Array, jax.Array]:
    """What a replica's network is trained on.

    Args:
        batch: the replica's ``image`` ``[N, H, W, C]`` and ``label`` ``[N]``.
        augmentation: None, or one with all off: only ``normalize``.
        normalize: maps the batch's images to the model's input.
        key: see :func:`step_key`.
        num_classes: number of logits.

    Returns:
        The images, ``[N, H, W, C]``, and the targets: the labels, or with augmentation
        distributions over the classes, ``[N, num_classes]``.
    """
    if augmentation is None or augmentation == Augmentation():
        return normalize(batch["image"]), batch["label"]
    image_key, batch_key = jax.random.split(jax.random.fold_in(key, _AUGMENTATION))
    images = augmentation.images(image_key, batch["image"], normalize)
    distributions = jax.nn.one_hot(batch["label"], num_classes)
    return augmentation.batch(batch_key, images, distributions)


def make_train_step(
    model: Classifier,
    optimizer: optax.GradientTransformation,
    *,
    normalize: Normalize = lambda images: images,
    label_smoothing: float = 0.0,
    augmentation: Augmentation | None = None,
    seed: int = 0,
    freeze: Freeze | None = None,
    accumulate_steps: int = 1,
    ema: Ema | None = None,
    teacher: Teacher | None = None,
    log_norms: bool = False,
    skip_nonfinite: bool = False,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """Make the training step of a model.

    Args:
        model: the network.
        optimizer: the optimizer.
        normalize: maps the batch's images to the model's input.
        label_smoothing: see :func:`cross_entropy`.
        augmentation: applied to the batch before the model sees it, to each replica's batch by
            itself; None: only ``normalize``.
        seed: of dropout and augmentation, with the step's number and the replica's.
        freeze: the parameters that do not train: their gradients are not computed.
        accumulate_steps: number of equal parts of a replica's batch, whose gradients are computed
            one after another, to save memory. Batch norms normalize with each part's statistics,
            and track them in turn; without batch norm the result is the same, to rounding.
        ema: averages the variables in ``state.ema``.
        teacher: what the step learns from beside the labels.
        log_norms: whether the metrics have the global norms ``gradient_norm`` (over all replicas,
            before clipping), ``parameter_norm`` (before the update) and ``update_norm``, of what
            trains.
        skip_nonfinite: whether a step whose loss or new state has a NaN or infinity leaves the
            state as it was, but for its number and that of the schedule; the metrics then have
            ``finite``, which is false for such a step. (``optax.apply_if_finite`` would look at the
            updates alone, keep counts in the optimizer's state, and let statistics pass.)

    Returns:
        ``train_step(state, batch, teacher_variables=None, *, axis_name="batch") -> (state,
        metrics)``. The batch is one replica's ``image`` ``[N, H, W, C]`` and ``label`` ``[N]``;
        gradients, metrics and running statistics are averaged over the replicas along
        ``axis_name`` (None: a single replica). The loss is that of the logits plus
        ``model.aux_weight`` times that of each auxiliary head, for the targets as mixed by the
        augmentation. Metrics are ``loss``, ``top1`` and ``top5``, means over the batch of all
        replicas before the update; ``top1`` and ``top5`` score the augmented images against the
        batch's own labels, not the mixed targets.
    """

    def loss_of(
        trainable: Any, frozen: Any, batch_stats: Any, part: Mapping[str, Any], key: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, Any]]:
        """The loss of a part of a batch, and its logits and new batch statistics."""
        with contextlib.nullcontext() if freeze is None else freeze.fixed_batch_norms():
            outputs, mutated = model.apply(
                {"params": merge(trainable, frozen), "batch_stats": batch_stats},
                part["images"],
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
        logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
        loss = jnp.mean(cross_entropy(logits, part["targets"], label_smoothing))
        for head in auxiliary:
            aux_loss = jnp.mean(cross_entropy(head, part["targets"], label_smoothing))
            loss += model.aux_weight * aux_loss
        if teacher is not None:
            divergence = teacher.divergence(logits, part["teacher_logits"])
            loss = (1 - teacher.weight) * loss + teacher.weight * divergence
        return loss, (logits, mutated.get("batch_stats", {}))

    def split(params: Any) -> tuple[Any, Any]:
        """The trainable and the frozen parameters."""
        return (params, {}) if freeze is None else freeze.split(params)

    def gradients_of(
        trainable: Any, frozen: Any, batch_stats: Any, batch: Mapping[str, Any], key: jax.Array
    ) -> tuple[jax.Array, jax.Array, Any, Any]:
        """Loss, logits, new batch statistics and gradients of a replica's batch."""
        grad_fn = jax.value_and_grad(loss_of, has_aux=True)
        if accumulate_steps == 1:
            (loss, (logits, batch_stats)), grads = grad_fn(
                trainable, frozen, batch_stats, batch, key
            )
            return loss, logits, batch_stats, grads

        def add(carry: tuple[Any, Any], part: Any) -> tuple[tuple[Any, Any], Any]:
            total, batch_stats = carry
            number, part = part
            part_key = jax.random.fold_in(jax.random.fold_in(key, _PARTS), number)
            (loss, (logits, batch_stats)), grads = grad_fn(
                trainable, frozen, batch_stats, part, part_key
            )
            return (jax.tree.map(jnp.add, total, grads), batch_stats), (loss, logits)

        parts = jax.tree.map(lambda x: x.reshape(accumulate_steps, -1, *x.shape[1:]), batch)
        zeros = jax.tree.map(jnp.zeros_like, trainable)
        # In a loop on a CPU, XLA computes the gradients of convolutions 16 times slower.
        unroll = accumulate_steps if jax.default_backend() == "cpu" else 1
        numbered = (jnp.arange(accumulate_steps), parts)
        (total, batch_stats), (losses, logits) = lax.scan(
            add, (zeros, batch_stats), numbered, unroll=unroll
        )
        grads = jax.tree.map(lambda g: g / accumulate_steps, total)
        return jnp.mean(losses), logits.reshape(-1, logits.shape[-1]), batch_stats, grads

    def updated(
        state: TrainState, grads: Any, batch_stats: Any, metrics: Metrics
    ) -> tuple[TrainState, Metrics]:
        """The next state, and more metrics, from the means over the replicas."""
        trainable, frozen = split(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, trainable)
        if log_norms:
            norms = {"gradient_norm": grads, "parameter_norm": trainable, "update_norm": updates}
            metrics |= {name: optax.tree.norm(tree) for name, tree in norms.items()}
        new_state = dataclasses.replace(
            state,
            step=state.step + 1,
            params=merge(optax.apply_updates(trainable, updates), frozen),
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if ema is not None:
            average = ema.update(state.ema, new_state.variables, state.step)
            new_state = dataclasses.replace(new_state, ema=average)
        if skip_nonfinite:  # of means over the replicas: the same on all of them
            metrics["finite"] = all_finite((metrics, new_state))
            new_state = _new_if(metrics["finite"], new_state, state)
        return new_state, metrics

    def train_step(
        state: TrainState,
        batch: Batch,
        teacher_variables: Any = None,
        *,
        axis_name: str | None = AXIS,
    ) -> tuple[TrainState, Metrics]:
        replica = 0 if axis_name is None else lax.axis_index(axis_name)
        key = step_key(seed, state.step, replica)
        labels = batch["label"]
        images, targets = network_inputs(batch, augmentation, normalize, key, model.num_classes)
        whole = {"images": images, "targets": targets}
        if teacher is not None:
            whole["teacher_logits"] = teacher.model.apply(teacher_variables, images)

        trainable, frozen = split(state.params)
        loss, logits, batch_stats, grads = gradients_of(
            trainable, frozen, state.batch_stats, whole, key
        )
        metrics = {name: jnp.mean(score) for name, score in scores(logits, labels).items()}
        metrics["loss"] = loss
        if axis_name is not None:
            grads, batch_stats, metrics = _pmean((grads, batch_stats, metrics), axis_name)
        update = updated if axis_name is None else _on_stacked(updated)
        return update(state, grads, batch_stats, metrics)

    return train_step


def all_finite(tree: Any) -> jax.Array:
    """Whether no value of the floating arrays in a tree is NaN or infinite, a bool scalar."""
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    floating = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in floating]))


def _new_if(condition: jax.Array, new: TrainState, old: TrainState) -> TrainState:
    """The new state, or the old one with the new numbers of the step and of the schedule."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def choose(new: Any, old: Any) -> Any:
        return new if is_schedule(new) else jnp.where(condition, new, old)

    chosen = jax.tree.map(choose, new, old, is_leaf=is_schedule)
    return dataclasses.replace(chosen, step=new.step)


def _on_stacked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of one replica's arrays that XLA sees with pmap's axis of devices, ``[1, ...]``.

    pmap adds that axis to all that leaves the program. XLA on a CPU would fuse the reshape with
    the whole update, momentum and all, compute that once more for the parameters, and copy the old
    momentum for it: a fifth of AlexNet's step, and a quarter of its memory.
    """

    def stacked(*args: Any) -> Any:
        # Scalars stay: a lax.cond on a step's number stays one.
        axes = jax.tree.map(lambda leaf: 0 if jnp.ndim(leaf) else None, args)
        args = jax.tree.map(lambda leaf: leaf[None] if jnp.ndim(leaf) else leaf, args)
        return jax.tree.map(lambda leaf: leaf[0], jax.vmap(function, axes)(*args))

    return stacked


def _pmean(tree: Any, axis_name: str) -> Any:
    """``lax.pmean`` of all leaves in one all-reduce per dtype.

    XLA itself combines at most 256 arrays, and 30 MB of them.
    """
    if lax.axis_size(axis_name) == 1:
        return tree
    leaves, structure = jax.tree.flatten(tree)
    means: dict[int, jax.Array] = {}
    for dtype in {leaf.dtype: None for leaf in leaves}:
        numbers = [n for n, leaf in enumerate(leaves) if leaf.dtype == dtype]
        flat = jnp.concatenate([leaves[n].ravel() for n in numbers])
        ends = np.cumsum([leaves[n].size for n in numbers])[:-1]
        parts = jnp.split(lax.pmean(flat, axis_name), ends)
        means |= {n: m.reshape(leaves[n].shape) for n, m in zip(numbers, parts, strict=True)}
    return structure.unflatten(means[n] for n in range(len(leaves)))


def class_logits(
    model: Classifier, variables: Mapping[str, Any], images: jax.Array, normalize: Normalize
) -> jax.Array:
    """The logits of images, or of several crops of each, as evaluation and prediction score them.

    Args:
        model: the network.
        variables: its variables.
        images: ``[N, H, W, C]``, or ``[N, crops, H, W, C]``.
        normalize: maps images ``[N, H, W, C]`` to the model's input.

    Returns:
        ``[N, num_classes]``. Of several crops: logits whose softmax is the mean of the crops'
        softmaxes (Krizhevsky et al. 2012, section 4.1).
    """
    logits = model.apply(variables, normalize(images.reshape(-1, *images.shape[-3:])))
    if images.ndim == 4:
        return logits
    logits = logits.reshape(*images.shape[:2], -1)
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    crops = jnp.log(jnp.asarray(logits.shape[1], logits.dtype))
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=1) - crops


def make_eval_step(
    model: Classifier, *, normalize: Normalize = lambda images: images
) -> Callable[..., tuple[Metrics, Metrics]]:
    """Make the evaluation step of a model.

    Args:
        model: the network.
        normalize: maps the batch's images to the model's input.

    Returns:
        ``eval_step(variables, batch, *, axis_name="batch") -> (sums, examples)``. The batch also
        has ``mask`` ``[N]``: 1 for examples that count, 0 for padding. Several crops of each
        image, ``[N, crops, H, W, C]``, are scored by the logits of :func:`class_logits`. The sums,
        over all replicas, are ``loss``, ``top1``, ``top5`` and ``examples``. Of each of the
        replica's own examples, ``[N]``: ``loss``, ``prediction`` (the class of the highest
        probability, int32), ``confidence`` (that probability) and ``top5`` (whether the label is
        among the five highest, bool); of padding they mean nothing.
    """

    def eval_step(
        variables: Mapping[str, Any], batch: Batch, *, axis_name: str | None = AXIS
    ) -> tuple[Metrics, Metrics]:
        logits = class_logits(model, variables, batch["image"], normalize)
        counts = batch["mask"] > 0
        each = scores(logits, batch["label"])
        # where, not a product: a NaN on padding must not spoil the sum
        sums = {name: jnp.sum(jnp.where(counts, score, 0)) for name, score in each.items()}
        sums["examples"] = jnp.sum(counts, dtype=jnp.int32)
        probabilities = jax.nn.softmax(logits.astype(each["loss"].dtype))
        examples = {
            "loss": each["loss"],
            "prediction": jnp.argmax(logits, axis=-1).astype(jnp.int32),
            "confidence": jnp.max(probabilities, axis=-1),
            "top5": each["top5"] > 0,
        }
        return sums if axis_name is None else lax.psum(sums, axis_name), examples

    return eval_step
