"""From a config to the objects of a run: model, optimiser, augmentation, inputs, plan.

This is the only place, beside :mod:`jaxcnn.training.config` itself, that reads config keys.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from jaxcnn import models
from jaxcnn.data import pipeline
from jaxcnn.data.source import Source, open_source
from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier, check_image_size
from jaxcnn.training import distributed
from jaxcnn.training.augmentation import Augmentation
from jaxcnn.training.config import RESUMABLE, as_json, host_memory, validate, validate_data
from jaxcnn.training.inputs import Inputs
from jaxcnn.training.optimizer import make_schedule, sgd
from jaxcnn.training.plan import Plan
from jaxcnn.training.progress import warn
from jaxcnn.training.step import AXIS


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The objects of a run.

    Attributes:
        name: of the architecture.
        dataset: its name.
        model: the network.
        image_shape: ``(1, H, W, C)``.
        optimizer: the optimiser.
        schedule: the learning rate by step.
        augmentation: on the devices.
        label_smoothing: of the loss.
        mean: of each channel, of values in 0 to 1.
        std: standard deviation, likewise.
        subtract_mean_image: whether the training images' mean takes the place of ``mean``.
        inputs: the data.
        plan: the length of the run and what is due when.
        seed: of everything random.
        init_from: weights to initialize from; None: random ones.
        keep_checkpoints: how many of the last checkpoints are kept.
        settings: the resolved config as JSON has it, for ``config.json``.
        resumable: the keys of it that may change when the run resumes.
    """

    name: str
    dataset: str
    model: Classifier
    image_shape: tuple[int, int, int, int]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    augmentation: Augmentation
    label_smoothing: float
    mean: Sequence[float]
    std: Sequence[float]
    subtract_mean_image: bool
    inputs: Inputs
    plan: Plan
    seed: int
    init_from: str | None
    keep_checkpoints: int
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
        steps_per_epoch=train.num_examples // config.batch_size,
        num_epochs=config.num_epochs,
        batch_size=config.batch_size,
        log_every_steps=config.log_every_steps,
        evaluate_every_epochs=config.eval.every_epochs,
        save_every_epochs=config.checkpoint.every_epochs,
    )
    schedule = make_schedule(
        config.schedule,
        config.learning_rate,
        steps_per_epoch=plan.steps_per_epoch,
        num_epochs=plan.num_epochs,
        warmup_epochs=config.warmup_epochs,
        decay_epochs=config.decay_epochs,
        decay_factor=config.decay_factor,
    )
    optimizer = sgd(
        schedule,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    return Experiment(
        name=config.model,
        dataset=config.dataset,
        model=model,
        image_shape=image_shape,
        optimizer=optimizer,
        schedule=schedule,
        augmentation=_augmentation(config),
        label_smoothing=config.label_smoothing,
        mean=tuple(config.mean),
        std=tuple(config.std),
        subtract_mean_image=config.subtract_mean_image,
        inputs=_inputs(config, train, evaluation, channels, report),
        plan=plan,
        seed=config.seed,
        init_from=config.init_from,
        keep_checkpoints=config.checkpoint.keep,
        settings=as_json(config),
    )


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


def check_network(config: ConfigDict, model: Classifier, image_shape: Sequence[int]) -> None:
    """Check that a network can be trained on images of a shape, without computing anything.

    Args:
        config: resolved.
        model: the network.
        image_shape: ``(1, H, W, C)``.

    Raises:
        UserError: if the images are too small or too large, or there are no batch norms to
            synchronise.
    """
    replicas = 1 if config.sync_batch_norm else jax.device_count()
    try:
        variables = check_image_size(model, (config.batch_size // replicas, *image_shape[1:]))
    except UserError as error:
        raise UserError(
            f"config.model={config.model} cannot be trained at config.image_size="
            f"{config.image_size}: {error}"
        ) from error
    if config.sync_batch_norm and "batch_stats" not in variables:
        raise UserError(
            f"config.sync_batch_norm=True, but {config.model} has no batch norms; leave it False."
        )
    leaves = jax.tree.leaves(variables["params"])
    needed = 3 * sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    available = host_memory()
    if available is not None and needed > available:
        raise UserError(
            f"config.model={config.model} at config.image_size={config.image_size} needs "
            f"{needed / 1e9:,.0f} GB for its parameters, gradients and momenta, more than this "
            f"machine's {available / 1e9:,.0f} GB; use smaller images."
        )


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
    common = {
        "image_size": config.image_size,
        "channels": channels,
        "fit": config.fit,
        "interpolation": config.interpolation,
    }
    train_preprocess = pipeline.TrainPreprocess(
        **common,
        crop=config.augment.crop,
        padding=config.augment.padding,
        flip=config.augment.flip,
        policy=config.augment.policy,
    )
    eval_preprocess = pipeline.EvalPreprocess(
        **common,
        crop=config.eval.crop,
        resize_size=config.eval.resize_size,
        crops=config.eval.crops,
    )
    return Inputs(
        train,
        evaluation,
        train_preprocess,
        eval_preprocess,
        batch_size=config.batch_size,
        eval_batch_size=config.eval.batch_size or config.batch_size,
        seed=config.seed,
        max_skipped=config.max_skipped,
        report=report,
    )
