"""What is refused before anything starts."""

import math
import os
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict

from jaxcnn.data import pipeline
from jaxcnn.errors import UserError
from jaxcnn.training.config.keys import KEYS, check_value
from jaxcnn.training.config.rules import RULES, evaluation_size

if TYPE_CHECKING:
    from jaxcnn.data.source import Source


def validate(config: ConfigDict, device_count: int, process_count: int = 1) -> None:
    """Check a resolved config, as far as the model and the data do not matter.

    Args:
        config: from :func:`resolve`.
        device_count: number of devices over all processes.
        process_count: number of processes.

    Raises:
        UserError: for the first key whose value is not allowed, or does not fit another's.
    """
    for key in KEYS:
        value = _get(config, key.name)
        if not (value is None and key.stays_open):
            check_value(key, value)
    for rule in RULES:
        if problem := rule(config):
            raise UserError(problem)
    _check_memory(config, process_count)
    if config.batch_size % device_count:
        lower = config.batch_size // device_count * device_count
        counts = [n for n in range(1, device_count) if config.batch_size % n == 0]
        raise UserError(
            f"config.batch_size={config.batch_size} is not divisible by the {device_count} "
            f"devices; use a multiple of {device_count}, for example {lower or device_count}. To "
            f"resume a run with this batch size, use {_either(counts)} device(s)."
        )
    if config.batch_size // device_count % config.accumulate_steps:
        raise UserError(
            f"config.accumulate_steps={config.accumulate_steps} does not divide the "
            f"{config.batch_size // device_count} images of each device's batch; use a divisor of "
            f"it."
        )


def _either(numbers: list[int]) -> str:
    """The largest numbers, joined by "or"."""
    *others, last = map(str, numbers[-5:])
    return f"{', '.join(others)} or {last}" if others else last


def training_sizes(config: ConfigDict) -> list[int]:
    """The sizes of the images that a network is trained on, ``image_size`` first."""
    return [config.image_size, *(size for _, size in config.image_sizes or ())]


def host_memory() -> int | None:
    """The memory of this machine in bytes; None where it cannot be told."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # on Windows
        return None


def _check_memory(config: ConfigDict, process_count: int) -> None:
    """Check that a batch of images fits into the host's memory: making it would end in a traceback.

    Raises:
        UserError: if it does not.
    """
    memory = host_memory()
    evaluated = (config.eval.batch_size or config.batch_size) * config.eval.crops
    for name, size, batch_size in (
        ("image_size", max(training_sizes(config)), config.batch_size),
        (*evaluation_size(config), evaluated),
    ):
        images = math.ceil(batch_size / process_count)
        needed = 3 * images * size**2
        if memory is not None and needed > memory / 2:
            raise UserError(
                f"config.{name}={size} with batches of {images} images needs "
                f"{needed / 1e9:,.0f} GB for one batch, more than half of this machine's "
                f"{memory / 1e9:,.0f} GB; use smaller images or batches."
            )


def validate_data(config: ConfigDict, train: "Source", evaluation: "Source") -> None:
    """Check that a config fits its data.

    Args:
        config: from :func:`resolve`.
        train: the training split.
        evaluation: the evaluation split.

    Raises:
        UserError: if the channels, classes or number of examples do not fit.
    """
    channels = config.channels or train.channels
    for name in ("mean", "std"):
        count = len(config[name])
        # An unequal number would be broadcast into more channels than there are.
        if count not in (1, channels):
            raise UserError(
                f"config.{name} has {count} values, but the images of {config.dataset} have "
                f"{channels} channel(s); give one value, or one per channel."
            )
    if config.augment.lighting and channels != 3:
        raise UserError(
            f"config.augment.lighting={config.augment.lighting} needs images of 3 channels, but "
            f"these have {channels}; set it to 0, or config.channels=3."
        )
    if config.num_classes is not None and config.num_classes < train.num_classes:
        raise UserError(
            f"config.num_classes={config.num_classes} is less than the {train.num_classes} classes "
            f"of {config.dataset}; leave it out, or make it at least as large."
        )
    for name, source in ((config.train_split, train), (config.eval.split, evaluation)):
        if source.num_examples == 0:
            raise UserError(f"The split {name!r} of {config.dataset} is empty; choose another.")
    repeats = config.augment.repeats
    steps = pipeline.steps_per_epoch(train.num_examples, config.batch_size, repeats)
    if repeats > 1 and not steps:
        raise UserError(
            f"config.augment.repeats={config.augment.repeats} takes a multiple of 256 of the "
            f"{train.num_examples} training examples of {config.dataset} in an epoch, fewer than "
            f"config.batch_size={config.batch_size}; set config.augment.repeats=1, or use a "
            f"smaller batch."
        )
    if not steps:
        raise UserError(
            f"config.batch_size={config.batch_size} is more than the {train.num_examples} training "
            f"examples of {config.dataset}; use a smaller one."
        )


def _get(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config
