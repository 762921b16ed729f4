"""Open configs, and what fills them in."""

from collections.abc import Iterator, Mapping
from typing import Any

from flax import traverse_util
from ml_collections import ConfigDict, config_dict

from jaxcnn import models
from jaxcnn.convert.pretrained import needed_arguments
from jaxcnn.errors import UserError, suggest
from jaxcnn.training.config.images import adapted, image_settings
from jaxcnn.training.config.keys import BY_NAME, KEYS, check_value
from jaxcnn.training.config.rules import check_given
from jaxcnn.training.optimizer import OPTIMIZERS, WITH_MOMENTUM, WITH_NESTEROV
from jaxcnn.training.recipes import recipe_for

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


def resolve(config: ConfigDict) -> ConfigDict:
    """Fill in the keys that are open.

    In this order: what the config says; the recipe, for the dataset; the preprocessing of
    published weights that the run starts from; the dataset's preset; the key's own default
    (:attr:`Key.otherwise`). ``None`` in a config is open: what a recipe turns on is turned off
    with 0 or False.

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
        if name not in BY_NAME and not name.startswith(_MODEL_ARGS):
            raise UserError(f"There is no config key {name!r}; {suggest(name, BY_NAME)}")
    for name in ("model", "dataset"):
        check_value(BY_NAME[name], given.get(name))
    for name in _CHECKED_FIRST & given.keys():
        check_value(BY_NAME[name], given[name])
    model = given["model"]
    used = recipe_for(model, given.get("recipe"))
    recipe = adapted(used.on(given["dataset"]), given) | {"recipe": used.name}
    if given.get("optimizer", recipe["optimizer"]) != recipe["optimizer"]:
        recipe = {k: v for k, v in recipe.items() if not k.startswith("optimizer_args.")}
    settings = {key.name: key.otherwise if key.default is None else key.default for key in KEYS}
    settings |= image_settings(given, recipe) | _without_none(recipe) | given
    _fill_in_optimizer(settings, given)
    check_given(given, settings)
    values = {key.name: settings.get(key.name) for key in KEYS}
    resolved = ConfigDict(traverse_util.unflatten_dict(values, sep="."))
    resolved.model_args = _resolved_arguments(model, settings)
    return resolved


def resolved_from_json(settings: Mapping[str, Any]) -> ConfigDict:
    """The resolved config that a run's ``config.json`` has.

    Args:
        settings: from :func:`jaxcnn.training.workdir.read_config`.

    Returns:
        Its values; a key that is missing because it is newer than the run has the value that a
        new run would have.

    Raises:
        UserError: for an unknown model or an invalid value.
    """
    for name in ("model", "dataset"):
        check_value(BY_NAME[name], settings[name])
    resolved = resolve(open_config(settings["model"], settings["dataset"]))
    saved = {name: value for name, value in _flat(settings) if name in BY_NAME}
    for name, value in _without_none(saved).items():
        check_value(BY_NAME[name], value)
    config = ConfigDict(traverse_util.unflatten_dict(dict(_flat(resolved)) | saved, sep="."))
    # None is a default, as 0.1.0 wrote it.
    arguments = _without_none(settings.get("model_args") or {})
    config.model_args = dict(resolved.model_args) | arguments
    return config


# What others are computed from.
_CHECKED_FIRST = {"image_size", "image_sizes", "eval.image_size", "num_epochs", "optimizer"}


def _fill_in_optimizer(settings: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Fill in the optimizer's arguments; it may not take what the recipe has for another."""
    optimizer = settings["optimizer"]
    if optimizer not in WITH_MOMENTUM and "momentum" not in given:
        settings["momentum"] = 0.0
    if (optimizer not in WITH_NESTEROV or not settings["momentum"]) and "nesterov" not in given:
        settings["nesterov"] = False
    for name, value in OPTIMIZERS[optimizer].items():
        key = f"optimizer_args.{name}"
        if settings.get(key) is None:
            settings[key] = value


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
