"""From a config to the objects of a run: model, optimizer, augmentation, inputs, plan.

This is the only place, beside :mod:`jaxcnn.training.config` itself, that reads config keys.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxcnn import models
from jaxcnn.convert.pretrained import load_pretrained
from jaxcnn.data import pipeline
from jaxcnn.data.source import Source, open_source
from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier, check_image_size
from jaxcnn.training import distributed
from jaxcnn.training.augmentation import Augmentation
from jaxcnn.training.config import (
    RESUMABLE,
    as_json,
    evaluation_size,
    host_memory,
    training_sizes,
    validate,
    validate_data,
)
from jaxcnn.training.ema import Ema
from jaxcnn.training.inputs import Inputs
from jaxcnn.training.losses import Teacher
from jaxcnn.training.optimizer import WeightDecay, make_optimizer
from jaxcnn.training.parameters import Freeze, head_rate, layer_rates
from jaxcnn.training.plan import Plan
from jaxcnn.training.progress import warn
from jaxcnn.training.schedules import Plateau, make_schedule
from jaxcnn.training.step import AXIS, make_train_step
from jaxcnn.training.workdir import CLASSES, has_other_classes


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The objects of a run.

    Attributes:
        name: of the architecture.
        dataset: its name.
        model: the network.
        image_shape: ``(1, H, W, C)``.
        optimizer: the optimizer.
        schedule: the learning rate by step.
        plateau: lowers the rate after evaluations; None: nothing does.
        freeze: what does not train, until the plan unfreezes it; None: everything trains.
        augmentation: of the training step.
        make_train_step: :func:`jaxcnn.training.step.make_train_step` but for ``normalize`` and
            ``freeze``.
        max_nonfinite: steps in a row that are skipped, if any are, before the run stops.
        accumulate_steps: parts in which a device computes its share of a batch.
        with_ema: whether the variables are averaged.
        teacher_variables: of the teacher; None: there is none.
        mean: of each channel, of values in 0 to 1.
        std: standard deviation, likewise.
        subtract_mean_image: whether the training images' mean takes the place of ``mean``.
        inputs: the data.
        plan: the length of the run and what is due when.
        seed: of everything random.
        init_from: weights to initialize from; None: random ones.
        keep_checkpoints: how many of the last checkpoints are kept.
        save_every_minutes: minutes from one checkpoint to the next, beside those of the plan;
            None: none.
        best_by: the figure by which the best checkpoint is kept, one of
            :data:`jaxcnn.training.best.BEST_BY`; None: none is.
        settings: the resolved config as JSON has it, for ``config.json``.
        resumable: the keys of it that may change when the run resumes.
    """

    name: str
    dataset: str
    model: Classifier
    image_shape: tuple[int, int, int, int]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    plateau: Plateau | None
    freeze: Freeze | None
    augmentation: Augmentation
    make_train_step: Callable[..., Callable[..., Any]]
    max_nonfinite: int
    accumulate_steps: int
    with_ema: bool
    teacher_variables: Any
    mean: Sequence[float]
    std: Sequence[float]
    subtract_mean_image: bool
    inputs: Inputs
    plan: Plan
    seed: int
    init_from: str | None
    keep_checkpoints: int
    save_every_minutes: float | None
    best_by: str | None
    settings: Mapping[str, Any]
    resumable: frozenset[str] = RESUMABLE


def build(
    config: ConfigDict,
    data_dir: str | None = None,
    *,
    report: Callable[[str], None] = warn,
) -> Experiment:
    """Make the objects of a run; nothing is written, but a dataset may be prepared.

    Args:
        config: from :func:`jaxcnn.training.config.resolve`.
        data_dir: where prepared datasets are; None: tfds's own default.
        report: called with a sentence about each bad image.

    Raises:
        UserError: if the config does not fit itself, the devices, the data or the network.

    Example::

        experiment = build(resolve(open_config("lenet5", "digits")))
        train_and_evaluate(experiment, pathlib.Path("runs/lenet5"))
    """
    distributed.on_all_processes(lambda: validate(config, jax.device_count(), jax.process_count()))
    train, evaluation = _open_splits(config, data_dir)
    validate_data(config, train, evaluation)
    channels = config.channels or train.channels
    image_shape = (1, config.image_size, config.image_size, channels)
    model = make_model(config, config.num_classes or train.num_classes)
    distributed.on_all_processes(lambda: check_network(config, model, image_shape))

    plan = Plan(
        steps_per_epoch=pipeline.steps_per_epoch(
            train.num_examples, config.batch_size, config.augment.repeats
        ),
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        log_every_steps=config.log_every_steps,
        evaluate_every_epochs=config.eval.every_epochs,
        save_every_epochs=config.checkpoint.every_epochs,
        save_every_steps=config.checkpoint.every_steps,
        check_replicas_every=config.check_replicas_every,
        save_evaluated=config.checkpoint.best_by is not None,
        unfreeze_epoch=config.unfreeze_epoch,
    )
    schedule = _schedule(config, plan)
    optimizer = _optimizer(config, schedule, model, image_shape)
    teacher, teacher_variables = _teacher(config, model.num_classes, train.classes, image_shape)
    ema = _ema(config, plan)
    augmentation = _augmentation(config)
    return Experiment(
        name=config.model,
        dataset=config.dataset,
        model=model,
        image_shape=image_shape,
        optimizer=optimizer,
        schedule=schedule,
        plateau=_plateau(config),
        freeze=_freeze(config, model),
        augmentation=augmentation,
        make_train_step=functools.partial(
            make_train_step,
            model,
            optimizer,
            label_smoothing=config.label_smoothing,
            augmentation=augmentation,
            seed=config.seed,
            accumulate_steps=config.accumulate_steps,
            ema=ema,
            teacher=teacher,
            log_norms=config.log_norms,
            skip_nonfinite=config.on_nonfinite == "skip",
        ),
        max_nonfinite=config.max_nonfinite,
        accumulate_steps=config.accumulate_steps,
        with_ema=ema is not None,
        teacher_variables=teacher_variables,
        mean=tuple(config.mean),
        std=tuple(config.std),
        subtract_mean_image=config.subtract_mean_image,
        inputs=_inputs(config, train, evaluation, channels, report),
        plan=plan,
        seed=config.seed,
        init_from=config.init_from,
        keep_checkpoints=config.checkpoint.keep,
        save_every_minutes=config.checkpoint.every_minutes,
        best_by=config.checkpoint.best_by,
        settings=as_json(config),
    )


def _scaled_rate(config: ConfigDict, learning_rate: float) -> float:
    """A learning rate for this batch size (Goyal et al. 2017, the linear scaling rule)."""
    return learning_rate * config.batch_size / (config.base_batch_size or config.batch_size)


def _schedule(config: ConfigDict, plan: Plan) -> optax.Schedule:
    return make_schedule(
        config.schedule,
        _scaled_rate(config, config.learning_rate),
        steps_per_epoch=plan.steps_per_epoch,
        num_epochs=plan.num_epochs,
        by=config.schedule_by,
        warmup_epochs=config.warmup_epochs,
        warmup_method=config.warmup_method,
        warmup_decay=config.warmup_decay,
        decay_epochs=config.decay_epochs,
        decay_factor=config.decay_factor,
        milestones=config.milestones or (),
        power=config.power,
        min_learning_rate=_scaled_rate(config, config.min_learning_rate),
    )


def _plateau(config: ConfigDict) -> Plateau | None:
    if config.schedule != "plateau":
        return None
    return Plateau(
        metric=config.plateau.metric,
        learning_rate=_scaled_rate(config, config.learning_rate),
        factor=config.decay_factor,
        patience=config.plateau.patience,
        threshold=config.plateau.threshold,
        min_learning_rate=_scaled_rate(config, config.min_learning_rate),
    )


def _optimizer(
    config: ConfigDict, schedule: optax.Schedule, model: Classifier, image_shape: Sequence[int]
) -> optax.GradientTransformation:
    rates = []
    if config.head_learning_rate is not None:
        rates.append(head_rate(model, config.head_learning_rate / config.learning_rate))
    if config.layer_decay is not None:
        rates.append(layer_rates(model, config.layer_decay, image_shape))
    arguments = {k: v for k, v in config.optimizer_args.items() if v is not None}
    return make_optimizer(
        config.optimizer,
        schedule,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=WeightDecay(
            config.weight_decay, norms=config.norm_weight_decay, biases=config.bias_weight_decay
        ),
        arguments=arguments,
        clip_norm=config.clip_grad_norm or None,
        clip_adaptive=config.clip_grad_adaptive or None,
        rates=rates,
        filter_radius=config.renormalize_filters or None,
        plateau=config.schedule == "plateau",
    )


def _freeze(config: ConfigDict, model: Classifier) -> Freeze | None:
    if config.freeze is None:
        return None
    return Freeze.parse(config.freeze, model, batch_stats=config.freeze_batch_stats)


def _ema(config: ConfigDict, plan: Plan) -> Ema | None:
    if not config.ema.decay:
        return None
    return Ema.adjusted(
        config.ema.decay,
        batch_size=config.batch_size,
        num_epochs=plan.num_epochs,
        every_steps=config.ema.steps,
        steps_per_epoch=plan.steps_per_epoch,
        warmup_epochs=config.warmup_epochs,
    )


def _teacher(
    config: ConfigDict, num_classes: int, classes: Sequence[str], image_shape: Sequence[int]
) -> tuple[Teacher | None, Any]:
    """The teacher and its variables."""
    if config.teacher is None:
        return None, None

    def load() -> tuple[Classifier, Any]:
        model, variables = load_pretrained(config.teacher, config.teacher_weights)
        if model.num_classes != num_classes:
            raise UserError(
                f"it has {model.num_classes} classes where this network has {num_classes}; use "
                f"weights for the same classes."
            )
        if has_other_classes(config.teacher_weights, classes):
            path = Path(config.teacher_weights).parent / CLASSES
            raise UserError(f"{path} names other classes, or in another order.")
        for size in training_sizes(config):
            images = jax.ShapeDtypeStruct((1, size, size, image_shape[-1]), jnp.float32)
            jax.eval_shape(model.apply, variables, images)
        return model, variables

    try:
        # The main process downloads them if need be.
        model, variables = distributed.on_all_processes(
            lambda: distributed.main_process_first("teacher", load)
        )
    except UserError as error:
        raise UserError(
            f"config.teacher={config.teacher} with "
            f"config.teacher_weights={config.teacher_weights} cannot teach: {error}"
        ) from error
    return Teacher(model, config.teacher_temperature, config.teacher_weight), variables


def _open_splits(config: ConfigDict, data_dir: str | None) -> tuple[Source, Source]:
    def open_both() -> tuple[Source, Source]:
        return (
            open_source(config.dataset, config.train_split, data_dir),
            open_source(config.dataset, config.eval.split, data_dir),
        )

    # The main process prepares the dataset if need be.
    train, evaluation = distributed.main_process_first("dataset", open_both)
    distributed.check_equal(
        lambda: (train.digest ^ evaluation.digest) % 2**31,
        f"The processes do not find the same examples in {config.dataset}; give all of them the "
        f"same files.",
    )
    return train, evaluation


def make_model(config: ConfigDict, num_classes: int) -> Classifier:
    """The network of a resolved config."""
    arguments = dict(config.model_args)
    if config.sync_batch_norm:
        arguments["axis_name"] = AXIS
    # Under float32, None: whatever the parameters and images promote to.
    dtype = None if config.dtype == "float32" else config.dtype
    return models.create_model(config.model, num_classes=num_classes, dtype=dtype, **arguments)


@dataclasses.dataclass(frozen=True)
class EvaluationSettings:
    """What a config says of evaluating its network, for the commands that work with a trained one.

    Attributes:
        name: of the architecture.
        make_model: makes the network from the number of its classes.
        num_classes: None: that of the dataset.
        image_size: height and width of the images for which the parameters have their shapes.
        make_preprocess: makes the preprocessing of evaluation images from the number of channels.
        mean: of each channel, of values in 0 to 1.
        std: standard deviation, likewise.
        subtract_mean_image: whether the training images' mean takes the place of ``mean``.
        dataset: its name.
        split: that the run is evaluated on; None: the validation split, or else the test split.
        batch_size: images per step.
        max_skipped: the fraction of the images that may be bad.
    """

    name: str
    make_model: Callable[[int], Classifier]
    num_classes: int | None
    image_size: int
    make_preprocess: Callable[[int], pipeline.EvalPreprocess]
    mean: Sequence[float]
    std: Sequence[float]
    subtract_mean_image: bool
    dataset: str
    split: str | None
    batch_size: int
    max_skipped: float


def evaluation_settings(config: ConfigDict) -> EvaluationSettings:
    """What a resolved config says of evaluating its network."""
    return EvaluationSettings(
        name=config.model,
        # Without the replicas of training.
        make_model=lambda num_classes: make_model(config, num_classes).clone(axis_name=None),
        num_classes=config.num_classes,
        image_size=config.image_size,
        make_preprocess=functools.partial(_eval_preprocess, config),
        mean=tuple(config.mean),
        std=tuple(config.std),
        subtract_mean_image=config.subtract_mean_image,
        dataset=config.dataset,
        split=config.eval.split,
        batch_size=config.eval.batch_size or config.batch_size,
        max_skipped=config.max_skipped,
    )


def _eval_preprocess(config: ConfigDict, channels: int) -> pipeline.EvalPreprocess:
    return pipeline.EvalPreprocess(
        image_size=evaluation_size(config)[1],
        channels=channels,
        crop=config.eval.crop,
        fit=config.fit,
        interpolation=config.interpolation,
        resize_size=config.eval.resize_size,
        crops=config.eval.crops,
    )


def check_network(config: ConfigDict, model: Classifier, image_shape: Sequence[int]) -> None:
    """Check that a network can be trained on images of a shape, without computing anything.

    Args:
        config: resolved.
        model: the network.
        image_shape: ``(1, H, W, C)``.

    Raises:
        UserError: if the images of any size that the config gives the network are too small or too
            large, a pattern of what is frozen names nothing, or there are no batch norms to
            synchronize.
    """
    replicas = 1 if config.sync_batch_norm else jax.device_count()
    # As many as a batch norm sees.
    images = config.batch_size // (replicas * config.accumulate_steps)
    sizes = {config.image_size: "image_size"}
    for size in training_sizes(config):
        sizes.setdefault(size, "image_sizes")
    name, size = evaluation_size(config)
    sizes.setdefault(size, name)
    shapes: Any = None
    for size, name in sizes.items():
        shape = (images, size, size, image_shape[-1])
        try:
            variables = check_image_size(model, shape, train=name != "eval.image_size")
        except UserError as error:
            what = "evaluated" if name == "eval.image_size" else "trained"
            raise UserError(
                f"config.model={config.model} cannot be {what} at config.{name}={size}: {error}"
            ) from error
        shapes = shapes or variables
        if shapes["params"] != variables["params"]:
            raise UserError(
                f"config.model={config.model} has parameters of other shapes at "
                f"config.{name}={size} than at config.image_size={config.image_size}: it takes "
                f"images of one size."
            )
    if config.sync_batch_norm and "batch_stats" not in shapes:
        raise UserError(
            f"config.sync_batch_norm=True, but {config.model} has no batch norms; leave it False."
        )
    leaves = jax.tree.leaves(shapes["params"])
    needed = 3 * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    available = host_memory()
    if available is not None and needed > available:
        raise UserError(
            f"config.model={config.model} at config.image_size={config.image_size} needs "
            f"{needed / 1e9:,.0f} GB for its parameters, gradients and momenta, more than this "
            f"machine's {available / 1e9:,.0f} GB; use smaller images."
        )
    if (freeze := _freeze(config, model)) is not None:
        freeze.check(shapes["params"])


def _augmentation(config: ConfigDict) -> Augmentation:
    augment = config.augment
    return Augmentation(
        color_jitter=tuple(augment.color_jitter),
        grayscale=augment.grayscale,
        lighting=augment.lighting,
        erasing=augment.erasing,
        mixup=augment.mixup,
        cutmix=augment.cutmix,
    )


def _inputs(
    config: ConfigDict,
    train: Source,
    evaluation: Source,
    channels: int,
    report: Callable[[str], None],
) -> Inputs:
    train_preprocess = pipeline.TrainPreprocess(
        image_size=config.image_size,
        channels=channels,
        fit=config.fit,
        interpolation=config.interpolation,
        crop=config.augment.crop,
        resize_size=config.augment.resize_size,
        padding=config.augment.padding,
        flip=config.augment.flip,
        policy=config.augment.policy,
    )
    return Inputs(
        train,
        evaluation,
        train_preprocess,
        _eval_preprocess(config, channels),
        batch_size=config.batch_size,
        eval_batch_size=config.eval.batch_size or config.batch_size,
        image_sizes=config.image_sizes or (),
        repeats=config.augment.repeats,
        seed=config.seed,
        max_skipped=config.max_skipped,
        report=report,
    )
