"""Whether a request makes sense, before anything is computed or written."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from ml_collections import ConfigDict

from jaxcnn import models
from jaxcnn.convert.pretrained import needed_arguments
from jaxcnn.data.policies import POLICIES
from jaxcnn.data.presets import EVAL_CROPS, FITS, TRAIN_CROPS
from jaxcnn.data.transforms import INTERPOLATIONS
from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_write
from jaxcnn.models.classifier import Classifier
from jaxcnn.training.optimizer import SCHEDULES

if TYPE_CHECKING:
    from jaxcnn.data.source import Source

AXIS = "batch"  # along which replicas meet

# Keys that a run may change when it goes on: they do not touch what has been computed so far.
_FREE_KEYS = {
    "config.log_every_steps",
    "config.checkpoint.every_epochs",
    "config.checkpoint.keep",
    "config.eval.batch_size",
    "config.max_skipped",
}

_CHOICES = {
    "augment.crop": TRAIN_CROPS,
    "augment.policy": ("none", *POLICIES),
    "eval.crop": EVAL_CROPS,
    "eval.crops": (1, 10),
    "fit": FITS,
    "interpolation": tuple(INTERPOLATIONS),
    "channels": (None, 1, 3),
    "schedule": SCHEDULES,
    "dtype": ("float32", "bfloat16"),
}
_AT_LEAST_ONE = (
    "batch_size",
    "num_epochs",
    "image_size",
    "log_every_steps",
    "eval.every_epochs",
    "eval.resize_size",
    "checkpoint.every_epochs",
    "checkpoint.keep",
)
_AT_LEAST_ZERO = (
    "learning_rate",
    "momentum",
    "weight_decay",
    "warmup_epochs",
    "augment.padding",
    "augment.lighting",
    "augment.mixup",
    "augment.cutmix",
    "seed",
)
_PARTS = ("max_skipped", "augment.grayscale", "augment.erasing")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _get(config: ConfigDict, dotted: str) -> Any:
    for key in dotted.split("."):
        config = config[key]
    return config


def check_config(config: ConfigDict) -> None:
    """Checks the values of a config, as far as the data do not matter.

    Raises:
        UserError: naming the first key whose value makes no sense.
    """
    for key, choices in _CHOICES.items():
        if _get(config, key) not in choices:
            raise UserError(
                f"config.{key} is {_get(config, key)!r}; it must be one of "
                f"{', '.join(map(str, choices))}."
            )
    for keys, least in ((_AT_LEAST_ONE, 1), (_AT_LEAST_ZERO, 0)):
        for key in keys:
            value = _get(config, key)
            if not (_is_number(value) and value >= least):
                raise UserError(f"config.{key} is {value!r}; it must be at least {least}.")
    for key in _PARTS:
        value = _get(config, key)
        if not (_is_number(value) and 0 <= value <= 1):
            raise UserError(f"config.{key} is {value!r}; it must be in 0 to 1.")
    for key in ("mean", "std", "augment.color_jitter"):
        values = _get(config, key)
        if not (isinstance(values, (tuple, list)) and all(map(_is_number, values))):
            raise UserError(f"config.{key} is {values!r}; it must be numbers, such as (0.5,).")
    if config.seed >= 2**63:
        raise UserError(f"config.seed is {config.seed}; it must be below 2**63.")
    jitter = config.augment.color_jitter
    if len(jitter) != 4 or min(jitter) < 0 or jitter[3] > 0.5:
        raise UserError(
            f"config.augment.color_jitter is {jitter}; it must be four numbers from 0 "
            f"(brightness, contrast, saturation, hue), the last of them to 0.5."
        )
    if config.eval.crops == 10 and config.eval.crop == "none":
        raise UserError(
            "config.eval.crops is 10, but config.eval.crop is 'none'; set config.eval.crop to "
            "resize_and_center_crop, or config.eval.crops to 1."
        )
    if config.eval.batch_size is not None and config.eval.batch_size < 1:
        raise UserError(
            f"config.eval.batch_size is {config.eval.batch_size}; it must be at least 1."
        )
    if not 0 <= config.label_smoothing < 1:
        raise UserError(
            f"config.label_smoothing is {config.label_smoothing}; it must be in 0 to 1."
        )
    if min(config.std, default=0) <= 0:
        raise UserError(f"config.std is {config.std}; each value must be above 0.")
    if config.nesterov and not config.momentum:
        raise UserError("config.nesterov needs momentum; set config.momentum above 0.")
    if config.eval.crop == "resize_and_center_crop" and config.eval.resize_size < config.image_size:
        raise UserError(
            f"config.eval.resize_size is {config.eval.resize_size}, smaller than "
            f"config.image_size, {config.image_size}, which is cut out of it; make it larger."
        )


def model_factory(config: ConfigDict) -> Callable[[int], Classifier]:
    """The config's model for a number of classes.

    Raises:
        UserError: for an unknown model, arguments that it does not take, or unknown weights.
    """
    arguments = {key: value for key, value in config.model_args.items() if value is not None}
    if config.init_from is not None:
        arguments = needed_arguments(config.model, config.init_from) | arguments
    if config.sync_batch_norm:
        arguments["axis_name"] = AXIS
    # Under float32, None: whatever the parameters and images promote to.
    dtype = None if config.dtype == "float32" else config.dtype
    factory = functools.partial(models.create_model, config.model, dtype=dtype, **arguments)
    factory(num_classes=1)
    return lambda num_classes: factory(num_classes=num_classes)


def check_devices(config: ConfigDict) -> None:
    """Checks that the devices divide the batch.

    Raises:
        UserError: if they do not.
    """
    devices = jax.device_count()
    if config.batch_size % devices:
        raise UserError(
            f"config.batch_size is {config.batch_size}, which {devices} devices do not divide "
            f"evenly; choose a multiple of {devices}."
        )


def check_data(config: ConfigDict, train: "Source", evaluation: "Source") -> None:
    """Checks that a config fits its data.

    Raises:
        UserError: if the channels, classes or number of examples do not fit.
    """
    channels = config.channels or train.channels
    for name in ("mean", "std"):
        values = config[name]
        # An unequal number would be broadcast into more channels than there are.
        if len(values) not in (1, channels):
            raise UserError(
                f"config.{name} has {len(values)} values, but the images of {config.dataset} have "
                f"{channels} channel(s) here; give one value, or one a channel."
            )
    if config.augment.lighting and channels != 3:
        raise UserError(
            f"config.augment.lighting is {config.augment.lighting}, but the images have "
            f"{channels} channel; it is for colours only."
        )
    if config.num_classes is not None and config.num_classes < train.num_classes:
        raise UserError(
            f"config.num_classes is {config.num_classes}, but {config.dataset} has "
            f"{train.num_classes} classes; leave it out, or make it at least as large."
        )
    if train.num_examples < config.batch_size:
        raise UserError(
            f"config.batch_size is {config.batch_size}, but {config.dataset} has "
            f"{train.num_examples} training examples; choose a smaller one."
        )
    if evaluation.num_examples == 0:
        raise UserError(f"The split {config.eval.split!r} of {config.dataset} is empty.")


def claim_workdir(workdir: Path, config: ConfigDict, *, write: bool) -> None:
    """Makes the workdir this run's: new, or one that the same run began.

    Args:
        workdir: the folder; it and its ``config.json`` are made if they are not there.
        config: the run's.
        write: whether this process writes for all.

    Raises:
        UserError: if the workdir is another run's, or cannot be written.
    """
    path = workdir / "config.json"
    text = json.dumps(json.loads(config.to_json()), indent=2) + "\n"
    try:
        if has_begun(workdir) and path.exists():
            _check_same_run(workdir, json.loads(path.read_text()), json.loads(text))
        elif has_begun(workdir):
            raise UserError(
                f"The workdir {workdir} holds checkpoints, but no config.json that says what "
                f"they are of; use another --workdir."
            )
        if not write and not path.exists():
            raise UserError(
                f"The workdir {workdir} of this process is not that of the first one; give all "
                f"processes one folder on a shared disk."
            )
        if write:
            workdir.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as file:
                file.write(text.encode())
    except OSError as error:
        raise UserError(
            f"The workdir {workdir} cannot be used ({error.strerror}); choose a --workdir in a "
            f"folder where you may write."
        ) from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"The file {path} is no JSON ({error}); use another --workdir, or remove that file "
            f"and the checkpoints beside it."
        ) from error


def has_begun(workdir: Path) -> bool:
    """Whether a run has saved its state in a workdir."""
    saved = workdir / "checkpoints"
    try:
        return saved.is_dir() and any(step.name.isdigit() for step in saved.iterdir())
    except OSError:  # claim_workdir says what is wrong
        return False


def _check_same_run(workdir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    old_values, new_values = _flatten(old), _flatten(new)
    # A key that only one of them has came or went between two versions of this package.
    changed = [
        f"{key} was {old_values[key]!r} and now is {new_values[key]!r}"
        for key in sorted(old_values.keys() & new_values.keys())
        if key not in _FREE_KEYS and old_values[key] != new_values[key]
    ]
    if changed:
        raise UserError(
            f"The workdir {workdir} holds another run: {'; '.join(changed)}. "
            f"Use another --workdir, or the same config to go on with that run."
        )


def _flatten(config: dict[str, Any], prefix: str = "config.") -> dict[str, Any]:
    flat = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
