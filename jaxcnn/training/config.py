"""Configuration: every key, what it may be, and how open keys are filled in.

A config file (``configs/NAME.py``) gives :func:`open_config`, in which most keys are ``None``:
open. Once the flags are read, :func:`resolve` fills them in from the model's recipe and the
dataset's preset, so that ``--config.model`` and ``--config.dataset`` bring their own settings, and
:func:`validate` checks the result. :func:`jaxcnn.training.build.build` makes objects of it; nothing
below that sees a config.

To add a key, add an entry to ``KEYS`` (and use it in ``build``).
"""

import dataclasses
import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flax import traverse_util
from ml_collections import ConfigDict, config_dict

from jaxcnn import models
from jaxcnn.convert.pretrained import needed_arguments
from jaxcnn.data.policies import POLICIES
from jaxcnn.data.presets import EVAL_CROPS, FITS, TRAIN_CROPS, base_name, preset
from jaxcnn.data.transforms import INTERPOLATIONS
from jaxcnn.errors import UserError, suggest
from jaxcnn.training.optimizer import SCHEDULES
from jaxcnn.training.recipes import recipe_for, training_settings

if TYPE_CHECKING:
    from jaxcnn.data.source import Source


# --- what a key may be


@dataclasses.dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]
    kind: type = str

    def __contains__(self, value: Any) -> bool:
        return any(value == known and type(value) is type(known) for known in self.values)

    def __str__(self) -> str:
        return f"one of {', '.join(map(str, self.values))}"


@dataclasses.dataclass(frozen=True)
class Number:
    """A number within bounds; ``kind`` int: a whole one."""

    kind: type = float
    at_least: float = -math.inf
    above: float = -math.inf
    at_most: float = math.inf
    below: float = math.inf

    def __contains__(self, value: Any) -> bool:
        numeric = isinstance(value, int if self.kind is int else (int, float))
        if not numeric or isinstance(value, bool) or not math.isfinite(value):
            return False
        return self.at_least <= value <= self.at_most and self.above < value < self.below

    @property
    def bounds(self) -> str:
        """The bounds in words: "at least 0 and below 1"; "" without any."""
        bounds = {
            "at least": self.at_least,
            "above": self.above,
            "at most": self.at_most,
            "below": self.below,
        }
        words = [f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound)]
        return " and ".join(words)

    def __str__(self) -> str:
        noun = "a whole number" if self.kind is int else "a number"
        return f"{noun}, {self.bounds}" if self.bounds else noun


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A tuple of numbers, each within bounds."""

    each: Number
    length: int | None = None
    kind: type = tuple

    def __contains__(self, value: Any) -> bool:
        if not isinstance(value, (tuple, list)) or not value:
            return False
        return len(value) == (self.length or len(value)) and all(v in self.each for v in value)

    def __str__(self) -> str:
        count = "numbers" if self.length is None else f"{self.length} numbers"
        return f"{count}, each {self.each.bounds}" if self.each.bounds else count


@dataclasses.dataclass(frozen=True)
class Boolean:
    """True or False."""

    kind: type = bool

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, bool)

    def __str__(self) -> str:
        return "True or False"


@dataclasses.dataclass(frozen=True)
class Text:
    """A string that is not empty."""

    what: str
    kind: type = str

    def __contains__(self, value: Any) -> bool:
        return isinstance(value, str) and bool(value)

    def __str__(self) -> str:
        return self.what


_COUNT = Number(int, at_least=1)
_NONNEGATIVE = Number(at_least=0)
_FRACTION = Number(at_least=0, at_most=1)


# --- the table


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        name: with dots where it is nested.
        default: its value where neither the config file nor a flag gives one; None: open.
        allowed: what it may be.
        meaning: in one line.
        open: what fills in an open key, in words; "": ``allowed`` forbids None.
        stays_open: whether ``None`` is a value of its own, which nothing fills in.
        resumable: whether a run may resume with another value: one that does not touch what has
            been computed so far.
    """

    name: str
    default: Any
    allowed: Choice | Number | Numbers | Boolean | Text
    meaning: str
    open: str = ""
    stays_open: bool = False
    resumable: bool = False


_RECIPE = "the recipe's"
_PRESET = "the dataset's preset"

# fmt: off
KEYS: tuple[Key, ...] = (
    Key("model", None, Text("the name of an architecture (see `jaxcnn models`)"), "architecture"),
    Key("num_classes", None, _COUNT, "number of classes; at least the dataset's",
        open="the dataset's", stays_open=True),
    Key("init_from", None, Text("a file, the name of published weights, or hf-hub:OWNER/NAME"),
        "weights to initialize from: a file, torchvision's name (`DEFAULT`, `IMAGENET1K_V1`) or "
        "`hf-hub:OWNER/NAME`; a head for other classes is re-initialized",
        open="random weights", stays_open=True),
    Key("dataset", None, Text("a tfds dataset, folder:/path or csv:/path"),
        "tfds name, `folder:/path` or `csv:/path`"),
    Key("train_split", None, Text("a split, such as train or train[:90%]"),
        "split to train on", open=_PRESET),
    Key("eval.split", None, Text("a split, such as validation or train[90%:]"),
        "split to evaluate on",
        open="the preset's, or else the validation or test split", stays_open=True),
    Key("eval.every_epochs", 1, _COUNT, "epochs from one evaluation to the next"),
    Key("eval.batch_size", None, _COUNT, "images per evaluation step, over all devices",
        open="`batch_size`", stays_open=True, resumable=True),
    Key("eval.crop", None, Choice(EVAL_CROPS), "how evaluation crops images", open=_PRESET),
    Key("eval.resize_size", None, _COUNT,
        "length of the shorter side before the centre crop, in pixels", open=_PRESET),
    Key("eval.crops", 1, Choice((1, 10), int),
        "1, or 10: the corners and the centre, mirrored too, softmax averaged"),
    Key("max_skipped", 0.001, _FRACTION,
        "fraction of a split's images that may be damaged before the run stops", resumable=True),
    Key("image_size", None, _COUNT,
        "height and width that the network gets, in pixels; crops and padding follow it",
        open="the recipe's, the preset's, or for photographs the network's own"),
    Key("channels", None, Choice((1, 3), int), "1 makes colours gray, 3 the reverse",
        open="the dataset's", stays_open=True),
    Key("mean", None, Numbers(Number()), "mean of each channel, of values in 0 to 1",
        open=_PRESET),
    Key("std", None, Numbers(Number(above=0)), "standard deviation of each channel, likewise",
        open=_PRESET),
    Key("subtract_mean_image", False, Boolean(),
        "subtract the mean of the training images, pixel by pixel, instead of `mean` "
        "(AlexNet, ZFNet)"),
    Key("fit", None, Choice(FITS),
        "how images reach `image_size` where no crop does it: resized, or padded with black",
        open=_PRESET),
    Key("interpolation", "bilinear", Choice(tuple(INTERPOLATIONS)), "of every resize; antialiased"),
    Key("augment.crop", None, Choice(TRAIN_CROPS), "how training crops images", open=_PRESET),
    Key("augment.padding", None, Number(int, at_least=0),
        "pixels on each side for `pad_and_crop`", open=_PRESET),
    Key("augment.flip", None, Boolean(), "mirror half of the training images", open=_PRESET),
    Key("augment.policy", "none", Choice(("none", *POLICIES)),
        "automatic augmentation on the host"),
    Key("augment.color_jitter", (0.0, 0.0, 0.0, 0.0), Numbers(_NONNEGATIVE, length=4),
        "brightness, contrast, saturation and hue (at most 0.5), as torchvision's `ColorJitter`"),
    Key("augment.grayscale", 0.0, _FRACTION, "probability, as torchvision's `RandomGrayscale`"),
    Key("augment.lighting", 0.0, _NONNEGATIVE,
        "standard deviation of AlexNet's noise along the colours' principal components, 0.1 there"),
    Key("augment.erasing", 0.0, _FRACTION, "probability, as torchvision's `RandomErasing`"),
    Key("augment.mixup", 0.0, _NONNEGATIVE, "alpha of torchvision's `MixUp`"),
    Key("augment.cutmix", 0.0, _NONNEGATIVE,
        "alpha of torchvision's `CutMix`; with `augment.mixup`, each batch gets one of the two"),
    Key("batch_size", None, _COUNT, "images per step, over all devices of all hosts",
        open=_RECIPE),
    Key("num_epochs", None, _COUNT, "epochs to train", open=_RECIPE),
    Key("learning_rate", None, _NONNEGATIVE, "highest learning rate", open=_RECIPE),
    Key("schedule", None, Choice(SCHEDULES), "how the learning rate falls", open=_RECIPE),
    Key("warmup_epochs", None, _NONNEGATIVE,
        "epochs in which the learning rate rises linearly from zero", open=_RECIPE),
    Key("decay_epochs", None, Number(above=0), "`step`: epochs from one decay to the next",
        open=_RECIPE),
    Key("decay_factor", None, Number(above=0, at_most=1),
        "`step`: what the learning rate is multiplied by", open=_RECIPE),
    Key("momentum", None, Number(at_least=0, below=1), "as `torch.optim.SGD`", open=_RECIPE),
    Key("nesterov", None, Boolean(), "as `torch.optim.SGD`", open=_RECIPE),
    Key("weight_decay", None, _NONNEGATIVE, "as `torch.optim.SGD`", open=_RECIPE),
    Key("label_smoothing", None, Number(at_least=0, below=1), "as `torch.nn.CrossEntropyLoss`",
        open=_RECIPE),
    Key("dtype", "float32", Choice(("float32", "bfloat16")),
        "of the computation; parameters and statistics stay float32"),
    Key("sync_batch_norm", False, Boolean(),
        "batch statistics over all replicas rather than per replica"),
    Key("seed", 0, Number(int, at_least=0, below=2**63),
        "of weights, shuffles, crops and dropout"),
    Key("log_every_steps", None, _COUNT, "steps from one line of metrics to the next",
        open=_RECIPE, resumable=True),
    Key("checkpoint.every_epochs", 1, _COUNT, "epochs from one checkpoint to the next",
        resumable=True),
    Key("checkpoint.keep", 3, _COUNT, "how many of the last checkpoints are kept",
        resumable=True),
)
# fmt: on
_BY_NAME = {key.name: key for key in KEYS}
RESUMABLE = frozenset(key.name for key in KEYS if key.resumable)

_MODEL_ARGS = "model_args."
# Builders' arguments that other keys set, or that are not plain values.
_NOT_MODEL_ARGS = {
    *("num_classes", "dtype", "param_dtype", "axis_name"),
    *("activation", "block_type", "stem_type"),
}


def _model_arguments(model: str) -> dict[str, Any]:
    arguments = models.builder_arguments(model)
    return {name: value for name, value in arguments.items() if name not in _NOT_MODEL_ARGS}


def open_config(model: str, dataset: str | None = None, **settings: Any) -> ConfigDict:
    """A config in which everything is open that depends on the model or the dataset.

    Args:
        model: an architecture, one of :func:`jaxcnn.models.list_models`.
        dataset: ``"digits"``, a tfds image-classification dataset, or images in files
            (``"folder:/path"``, ``"csv:/path"``); None: that of the model's recipe.
        **settings: values of other keys, such as ``batch_size=64``; nested keys with two
            underscores (``augment__mixup=0.2``).

    Returns:
        The config: each key of ``KEYS``, and under ``model_args`` each argument that any
        architecture takes.

    Example::

        config = open_config("resnet18", "cifar10", learning_rate=0.05)
        experiment = build(resolve(config))
    """
    arguments = {a for name in models.list_models() for a in _model_arguments(name)}
    values = {
        key.name: config_dict.placeholder(key.allowed.kind) if key.default is None else key.default
        for key in KEYS
    } | {f"{_MODEL_ARGS}{name}": config_dict.placeholder(object) for name in sorted(arguments)}
    config = ConfigDict(traverse_util.unflatten_dict(values, sep="."))
    config.model, config.dataset = model, dataset or recipe_for(model).dataset
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in settings.items()})
    return config


# --- resolving


def _image_settings(model: str, dataset: str, image_size: int | None) -> dict[str, Any]:
    """The values of the keys that a dataset's preset fills in.

    Photographs come at the size that the network was made for; the images of small datasets at
    the preset's. At another size, images are resized and the other lengths in proportion.
    """
    images = preset(dataset)
    photographs = images.train_crop == "random_resized_crop"
    default_size = models.create_model(model).input_size if photographs else images.image_size
    size = image_size or default_size
    other_size = size != images.image_size
    return {
        "train_split": images.train_split,
        "eval.split": images.eval_split,
        "image_size": size,
        "mean": images.mean,
        "std": images.std,
        "fit": "resize" if other_size else images.fit,
        "augment.crop": images.train_crop,
        "augment.padding": round(images.padding * size / images.image_size),
        "augment.flip": images.flip,
        "eval.crop": images.eval_crop,
        "eval.resize_size": round(size * images.resize_size / images.image_size),
    }


def resolve(config: ConfigDict) -> ConfigDict:
    """Fill in the keys that are open.

    In this order: what the config says; the model's recipe for the dataset; the dataset's preset.

    Args:
        config: from :func:`open_config`, with what a file and flags have set. It is not changed.

    Returns:
        A new config with a value for every key. ``None`` is left where it is a value of its own
        (:attr:`Key.stays_open`), and ``model_args`` has the arguments of this model.

    Raises:
        UserError: for an unknown model, arguments that it does not take, or unknown weights.
    """
    given = {name: value for name, value in _flat(config) if value is not None}
    for name in given:
        if name not in _BY_NAME and not name.startswith(_MODEL_ARGS):
            raise UserError(f"There is no config key {name!r}; {suggest(name, _BY_NAME)}")
    for name in ("model", "dataset"):
        _check_value(name, given.get(name))
    model, dataset = given["model"], given["dataset"]
    recipe = training_settings(model, base_name(dataset))
    settings = {key.name: key.default for key in KEYS} | recipe
    size = given.get("image_size", recipe.get("image_size"))
    if size is not None:
        _check_value("image_size", size)
    settings = _image_settings(model, dataset, size) | _without_none(settings) | given
    values = {key.name: settings.get(key.name) for key in KEYS}
    resolved = ConfigDict(traverse_util.unflatten_dict(values, sep="."))
    resolved.model_args = _resolved_arguments(model, settings)
    return resolved


def _resolved_arguments(model: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    arguments = {
        name.removeprefix(_MODEL_ARGS): value
        for name, value in settings.items()
        if name.startswith(_MODEL_ARGS)
    }
    if settings.get("init_from") is not None:
        arguments = needed_arguments(model, settings["init_from"]) | arguments
    models.create_model(model, **arguments)  # raises for an argument that it does not take
    defaults = _model_arguments(model)
    for name, value in arguments.items():
        if not _is_plain(value) or not _is_like(value, defaults[name]):
            like = "" if defaults[name] is None else f" as its default, {defaults[name]!r}, is"
            raise UserError(
                f"config.{_MODEL_ARGS}{name}={value!r} is not valid; it must be a number, a "
                f"boolean, a string or a tuple of them{like}."
            )
    return defaults | arguments


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value has the type of a default; None is like anything."""
    if default is None or value is None:
        return True
    if isinstance(default, (tuple, list)):
        return isinstance(value, (tuple, list))
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return type(value) is type(default)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in config:
        value = config[name]
        if isinstance(value, (ConfigDict, dict)):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _without_none(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _get(config: ConfigDict, name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


# --- validating


def _check_value(name: str, value: Any) -> None:
    allowed = _BY_NAME[name].allowed
    if value not in allowed:
        raise UserError(f"config.{name}={value!r} is not valid; it must be {allowed}.")


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
            _check_value(key.name, value)
    for rule in _RULES:
        if problem := rule(config):
            raise UserError(problem)
    _check_memory(config, process_count)
    if config.batch_size % device_count:
        lower = config.batch_size // device_count * device_count
        raise UserError(
            f"config.batch_size={config.batch_size} is not divisible by the {device_count} "
            f"devices; use a multiple of {device_count}, for example {lower or device_count}."
        )


def _hue(config: ConfigDict) -> str | None:
    hue = config.augment.color_jitter[3]
    if hue > 0.5:
        return f"config.augment.color_jitter has a hue of {hue}; the last number is at most 0.5."
    return None


def _crops(config: ConfigDict) -> str | None:
    if config.eval.crops == 10 and config.eval.crop == "none":
        return (
            "config.eval.crops=10 needs images that are larger than the crop; set "
            "config.eval.crop=resize_and_center_crop, or config.eval.crops=1."
        )
    return None


def _nesterov(config: ConfigDict) -> str | None:
    if config.nesterov and not config.momentum:
        return "config.nesterov=True needs momentum; set config.momentum above 0."
    return None


def _resize(config: ConfigDict) -> str | None:
    cropped = config.eval.crop == "resize_and_center_crop"
    if cropped and config.eval.resize_size < config.image_size:
        return (
            f"config.eval.resize_size={config.eval.resize_size} is smaller than "
            f"config.image_size={config.image_size}, which is cut out of it; make it larger."
        )
    return None


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
    images = math.ceil(max(config.batch_size, evaluated) / process_count)
    needed = 3 * images * config.image_size**2
    if memory is not None and needed > memory / 2:
        raise UserError(
            f"config.image_size={config.image_size} with batches of {images} images needs "
            f"{needed / 1e9:,.0f} GB for one batch, more than half of this machine's "
            f"{memory / 1e9:,.0f} GB; use smaller images or batches."
        )


# What several keys must satisfy together: each gives a sentence, or None.
_RULES: tuple[Callable[[ConfigDict], str | None], ...] = (_hue, _crops, _nesterov, _resize)


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
    if train.num_examples < config.batch_size:
        raise UserError(
            f"config.batch_size={config.batch_size} is more than the {train.num_examples} training "
            f"examples of {config.dataset}; use a smaller one."
        )


# --- other forms


def as_json(config: ConfigDict) -> dict[str, Any]:
    """A resolved config as ``config.json`` has it: nested dicts of plain values."""
    return json.loads(config.to_json())


def run_name(config: ConfigDict) -> str:
    """A name for a run's folder, such as ``"resnet18-cifar10"``."""
    return f"{config.model}-{config.dataset}".replace("/", "-").replace(":", "-")


def digest(config: ConfigDict) -> int:
    """A number of 31 bits that tells different configs apart."""
    return zlib.crc32(json.dumps(as_json(config), sort_keys=True).encode()) >> 1


def markdown_table() -> str:
    """The keys as a table in Markdown: what each may be, its default and its meaning."""
    lines = ["| key | default | accepted | meaning |", "|---|---|---|---|"]
    for key in KEYS:
        default = key.open or ("required" if key.default is None else f"`{key.default}`")
        lines.append(f"| `{key.name}` | {default} | {key.allowed} | {key.meaning} |")
        if key.name == "model":
            lines.append(
                "| `model_args.*` | the architecture's | its arguments | for example "
                "`--config.model_args.width_per_group=128` |"
            )
    return "\n".join(lines) + "\n"
