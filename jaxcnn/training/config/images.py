"""What fills in the keys about images: presets, recipes and published weights."""

from collections.abc import Mapping
from typing import Any

from jaxcnn import models
from jaxcnn.convert.pretrained import published_weights
from jaxcnn.data.presets import Preset, preset

Settings = dict[str, Any]


def image_settings(given: Mapping[str, Any], recipe: Mapping[str, Any]) -> Settings:
    """The values that the dataset's preset, and weights to start from, fill in.

    Photographs come at the size that the network was made for, or the weights; the images of small
    datasets at the preset's. At another size, images are resized and the other lengths in
    proportion.

    Args:
        given: what the config says.
        recipe: for this dataset and these sizes (:func:`adapted`).
    """
    images = preset(given["dataset"])
    of_weights = _of_weights(given) if _are_photographs(images) else {}
    sizes = {name: {**of_weights, **recipe, **given}.get(name) for name in ("image_size", _EVAL)}
    size = sizes["image_size"] or _default_size(given["model"], images)
    eval_size = sizes[_EVAL] or size
    stages = {**recipe, **given}.get("image_sizes") or ()
    as_preset = {size, eval_size, *(stage for _, stage in stages)} == {images.image_size}
    settings = {
        "train_split": images.train_split,
        "eval.split": images.eval_split,
        "image_size": size,
        "mean": images.mean,
        "std": images.std,
        "fit": images.fit if as_preset else "resize",
        "augment.crop": images.train_crop,
        "augment.resize_size": _in_proportion(images.resize_size, size, images.image_size),
        "augment.padding": _in_proportion(images.padding, size, images.image_size),
        "augment.flip": images.flip,
        "eval.crop": images.eval_crop,
        "eval.resize_size": _in_proportion(images.resize_size, eval_size, images.image_size),
    }
    if eval_size != of_weights.get("image_size"):
        of_weights.pop("eval.resize_size", None)
    return settings | of_weights | {"image_size": size}


_EVAL = "eval.image_size"


def _are_photographs(images: Preset) -> bool:
    return images.train_crop == "random_resized_crop"


def _default_size(model: str, images: Preset) -> int:
    return models.create_model(model).input_size if _are_photographs(images) else images.image_size


def _of_weights(given: Mapping[str, Any]) -> Settings:
    """The preprocessing that published weights are made for."""
    if "init_from" not in given:
        return {}
    weights = published_weights(given["model"], given["init_from"])
    if weights is None:
        return {}
    images = weights.preprocessing
    return {
        "mean": tuple(images.mean),
        "std": tuple(images.std),
        "interpolation": images.interpolation,
        "image_size": images.crop_size,
        "eval.resize_size": images.resize_size,
    }


def _in_proportion(length: int, size: int, own_size: int) -> int:
    return round(length * size / own_size)


def adapted(recipe: Mapping[str, Any], given: Mapping[str, Any]) -> Settings:
    """A recipe's settings for the sizes and the number of epochs that the config gives.

    The ratio of training to evaluation size is part of a recipe, and so is the fraction of a run
    that a stage of progressive resizing takes.
    """
    settings = dict(recipe)
    own_size, size = recipe.get("image_size"), given.get("image_size")
    if size is None and given.get("image_sizes"):
        size = given["image_sizes"][-1][1]
    if size is not None:
        settings["image_size"] = size
    if None not in (own_size, size):
        for name in (_EVAL, "eval.resize_size", "augment.resize_size"):
            if name in recipe:
                settings[name] = _in_proportion(recipe[name], size, own_size)
        if "image_sizes" in recipe:
            settings["image_sizes"] = tuple(
                (epoch, _in_proportion(stage, size, own_size))
                for epoch, stage in recipe["image_sizes"]
            )
    own_eval_size = recipe.get(_EVAL, own_size)
    if "eval.resize_size" in recipe and None not in (own_eval_size, given.get(_EVAL)):
        settings["eval.resize_size"] = _in_proportion(
            recipe["eval.resize_size"], given[_EVAL], own_eval_size
        )
    if "image_sizes" in settings and "num_epochs" in given:
        # Of stages that start at one epoch the last is left.
        settings["image_sizes"] = tuple(
            {
                _in_proportion(epoch, given["num_epochs"], recipe["num_epochs"]): stage
                for epoch, stage in settings["image_sizes"]
            }.items()
        )
    return settings
