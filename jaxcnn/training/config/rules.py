"""What several keys must satisfy together."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxcnn import models
from jaxcnn.data import tensor_operations
from jaxcnn.errors import UserError
from jaxcnn.training.best import EMA
from jaxcnn.training.config.keys import BY_NAME, KEYS, check_value
from jaxcnn.training.optimizer import OPTIMIZERS, WITH_MOMENTUM, WITH_NESTEROV
from jaxcnn.training.parameters import BODY

Rule = Callable[[ConfigDict], str | None]


def _hue(config: ConfigDict) -> str | None:
    hue = config.augment.color_jitter[3]
    if hue > 0.5:
        return f"config.augment.color_jitter has a hue of {hue}; the last number is at most 0.5."
    return None


def _policy(config: ConfigDict) -> str | None:
    accepted = tensor_operations.INTERPOLATIONS
    if config.augment.policy == "aug_mix" and config.interpolation not in accepted:
        return (
            f"config.augment.policy=aug_mix does not accept "
            f"config.interpolation={config.interpolation}, nor does torchvision's AugMix; set "
            f"config.interpolation=bilinear, or use another policy."
        )
    return None


def _crops(config: ConfigDict) -> str | None:
    if config.eval.crops == 10 and config.eval.crop == "none":
        return (
            "config.eval.crops=10 needs images that are larger than the crop; set "
            "config.eval.crop=resize_and_center_crop, or config.eval.crops=1."
        )
    return None


def evaluation_size(config: ConfigDict) -> tuple[str, int]:
    """The key that has the size of the images in evaluation, and the size."""
    if config.eval.image_size is None:
        return "image_size", config.image_size
    return "eval.image_size", config.eval.image_size


def _resize(config: ConfigDict) -> str | None:
    cropped = config.eval.crop == "resize_and_center_crop"
    name, size = evaluation_size(config)
    if cropped and config.eval.resize_size < size:
        return (
            f"config.eval.resize_size={config.eval.resize_size} is smaller than "
            f"config.{name}={size}, which is cut out of it; make it larger."
        )
    cropped = config.augment.crop == "resize_and_crop"
    if cropped and config.augment.resize_size < config.image_size:
        return (
            f"config.augment.resize_size={config.augment.resize_size} is smaller than "
            f"config.image_size={config.image_size}, which is cut out of it; make it larger."
        )
    return None


def _mean_image(config: ConfigDict) -> str | None:
    if not config.subtract_mean_image:
        return None
    if config.image_sizes is not None:
        return (
            "config.subtract_mean_image=True needs images of one size; leave config.image_sizes "
            "out, or set config.subtract_mean_image=False."
        )
    if config.eval.image_size not in (None, config.image_size):
        return (
            f"config.subtract_mean_image=True needs images of one size, but "
            f"config.eval.image_size={config.eval.image_size} is not "
            f"config.image_size={config.image_size}; make them equal."
        )
    return None


def _image_sizes(config: ConfigDict) -> str | None:
    last = config.image_sizes[-1][0] if config.image_sizes is not None else 0
    if last >= config.num_epochs:
        return (
            f"config.image_sizes has a size from epoch {last} on, but there are "
            f"config.num_epochs={config.num_epochs} epochs, counted from 0; train longer, or "
            f"leave it out."
        )
    return None


def _momentum(config: ConfigDict) -> str | None:
    if config.momentum and config.optimizer not in WITH_MOMENTUM:
        return (
            f"config.momentum={config.momentum} is not an argument of "
            f"config.optimizer={config.optimizer}; leave it out, or use "
            f"{', '.join(WITH_MOMENTUM)}."
        )
    if config.nesterov and not config.momentum:
        return "config.nesterov=True needs momentum; set config.momentum above 0."
    if config.nesterov and config.optimizer not in WITH_NESTEROV:
        return (
            f"config.nesterov=True is not an argument of config.optimizer={config.optimizer}; set "
            f"it to False."
        )
    return None


def _optimizer_args(config: ConfigDict) -> str | None:
    accepted = OPTIMIZERS[config.optimizer]
    for name, value in config.optimizer_args.items():
        if value is not None and name not in accepted:
            return (
                f"config.optimizer_args.{name}={value} is not an argument of "
                f"config.optimizer={config.optimizer}, which accepts "
                f"{', '.join(accepted) or 'none'}; leave it out."
            )
    return None


def _schedule(config: ConfigDict) -> str | None:
    if (config.schedule == "multistep") != (config.milestones is not None):
        return (
            f"config.schedule={config.schedule} with config.milestones={config.milestones}: the "
            f"schedule multistep, and no other, has milestones; set both, or neither."
        )
    if list(config.milestones or ()) != sorted(set(config.milestones or ())):
        return f"config.milestones={config.milestones} do not rise; put them in order."
    if config.schedule_by == "epoch":
        lengths = {"warmup_epochs": [config.warmup_epochs], "milestones": config.milestones or ()}
        if config.schedule == "step":
            lengths["decay_epochs"] = [config.decay_epochs]
        for name, epochs in lengths.items():
            if any(epoch != round(epoch) for epoch in epochs):
                return (
                    f"config.{name}={config[name]} is not whole, but with "
                    f"config.schedule_by=epoch the learning rate changes between epochs; use whole "
                    f"epochs, or config.schedule_by=step."
                )
    if config.milestones is not None and config.milestones[0] >= config.num_epochs:
        return (
            f"config.milestones={config.milestones} are all after the last of "
            f"config.num_epochs={config.num_epochs} epochs; lower them, or train longer."
        )
    if config.schedule in ("cosine", "plateau") and config.min_learning_rate > config.learning_rate:
        return (
            f"config.min_learning_rate={config.min_learning_rate} is above "
            f"config.learning_rate={config.learning_rate}; lower it."
        )
    return None


def _ema(config: ConfigDict) -> str | None:
    if not config.ema.decay:
        return None
    per_update = config.batch_size * config.ema.steps / config.num_epochs
    if (1 - config.ema.decay) * per_update >= 1:
        return (
            f"config.ema.decay={config.ema.decay}, adjusted by batch size and epochs as in "
            f"torchvision, leaves no average but a copy; use a decay above "
            f"{1 - 1 / per_update:.6f}, fewer config.ema.steps, or 0 for no average."
        )
    return None


def _best_by(config: ConfigDict) -> str | None:
    best_by = config.checkpoint.best_by
    if best_by is not None and best_by.startswith(EMA) and not config.ema.decay:
        return (
            f"config.checkpoint.best_by={best_by} needs an average of the parameters; set "
            f"config.ema.decay, or config.checkpoint.best_by={best_by.removeprefix(EMA)}."
        )
    return None


def _freezing(config: ConfigDict) -> str | None:
    if config.unfreeze_epoch is not None and config.freeze is None:
        return (
            f"config.unfreeze_epoch={config.unfreeze_epoch} needs something frozen; set "
            f"config.freeze, for example to body, or leave it out."
        )
    if config.unfreeze_epoch is not None and config.unfreeze_epoch >= config.num_epochs:
        return (
            f"config.unfreeze_epoch={config.unfreeze_epoch} is not before the end of "
            f"config.num_epochs={config.num_epochs} epochs; train longer, or leave it out."
        )
    if config.freeze == BODY and config.layer_decay and config.unfreeze_epoch is None:
        return (
            f"config.layer_decay={config.layer_decay} has no effect with config.freeze={BODY}, "
            f"which trains the head alone; leave one of them out, or set config.unfreeze_epoch."
        )
    if config.head_learning_rate is not None and not config.learning_rate:
        return (
            "config.head_learning_rate needs config.learning_rate above 0, to which it is in "
            "proportion; to train the head alone, set config.freeze=body."
        )
    return None


def _teacher(config: ConfigDict) -> str | None:
    if (config.teacher is None) != (config.teacher_weights is None):
        return (
            f"config.teacher={config.teacher} and config.teacher_weights={config.teacher_weights} "
            f"go together: an architecture, and its weights for this dataset's classes; set both, "
            f"or neither."
        )
    if config.teacher is not None:
        try:
            models.builder_arguments(config.teacher)
        except UserError as error:
            return f"config.teacher: {error}"
    return None


RULES: tuple[Rule, ...] = (
    _hue,
    _policy,
    _crops,
    _resize,
    _mean_image,
    _image_sizes,
    _momentum,
    _optimizer_args,
    _schedule,
    _ema,
    _best_by,
    _freezing,
    _teacher,
)


# Keys that act only where another has one of some values; none are listed: where it has any.
_ACTS_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "decay_epochs": ("schedule", ("step",)),
    "decay_factor": ("schedule", ("step", "multistep", "exponential", "plateau")),
    "power": ("schedule", ("polynomial",)),
    "min_learning_rate": ("schedule", ("cosine", "plateau")),
    "plateau.metric": ("schedule", ("plateau",)),
    "plateau.patience": ("schedule", ("plateau",)),
    "plateau.threshold": ("schedule", ("plateau",)),
    "ema.steps": ("ema.decay", ()),
    "freeze_batch_stats": ("freeze", ()),
    "max_nonfinite": ("on_nonfinite", ("skip",)),
    "teacher_temperature": ("teacher", ()),
    "teacher_weight": ("teacher", ()),
}


def check_given(given: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Check that what a config gives has an effect; a recipe may have more than it needs.

    Args:
        given: by key.
        settings: everything, with what was filled in.

    Raises:
        UserError: for the first key that has none.
    """
    if all(key.name in given for key in KEYS if not key.stays_open):
        return  # resolved before: what was filled in looks given
    for name, (other, values) in _ACTS_WITH.items():
        key = BY_NAME[name]
        if given.get(name) in (None, key.otherwise if key.default is None else key.default):
            continue
        check_value(key, given[name])
        if settings[other] in values or (not values and settings[other]):
            continue
        needed = f"config.{other}={' or '.join(values)}" if values else f"config.{other}"
        raise UserError(
            f"config.{name}={given[name]} has no effect without {needed}; set that, or leave this "
            f"out."
        )
