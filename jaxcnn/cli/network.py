"""The network that a command works with: ``--model`` and ``--weights``, or ``--workdir``.

This module imports nothing heavy; :func:`load` does.
"""

import argparse
import dataclasses
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.errors import UserError, one_sentence
from jaxcnn.io.paths import as_path

if TYPE_CHECKING:
    import jax
    import numpy as np

    from jaxcnn.data.pipeline import EvalPreprocess
    from jaxcnn.models.classifier import Classifier
    from jaxcnn.models.published import PublishedWeights
    from jaxcnn.training.build import EvaluationSettings


@dataclasses.dataclass(frozen=True)
class Network:
    """A network with its weights, and what these expect of an image.

    Attributes:
        name: of the architecture.
        model: the module.
        variables: ``{"params": ...}``, with ``"batch_stats"`` where it has batch norms.
        preprocess: from a decoded image to uint8 ``[H, W, C]``, or ``[10, H, W, C]`` with ten
            crops.
        mean: of each channel, of values in 0 to 1; or a mean image ``[H, W, C]``.
        std: standard deviation of each channel, likewise.
        channels: of the images, 1 or 3.
        classes: their names, one per logit; the numbers of those that have no name.
        settings: of the run's evaluation; None: the network is not from a run.
    """

    name: str
    model: "Classifier"
    variables: Mapping[str, Any]
    preprocess: "EvalPreprocess"
    mean: "Sequence[float] | np.ndarray"
    std: Sequence[float]
    channels: int
    classes: tuple[str, ...]
    settings: "EvaluationSettings | None" = None

    def normalize(self, images: "jax.Array | np.ndarray") -> "jax.Array":
        """Convert uint8 images ``[N, H, W, C]`` to the model's input; it can be compiled."""
        from jaxcnn.training.step import normalizer

        return normalizer(self.mean, self.std)(images)

    def with_crops(self, crops: int | None) -> "Network":
        """The same network with 1 or 10 crops of each image; None: as many as it has.

        Raises:
            UserError: for ten crops of images that are not larger than the crop.
        """
        if crops in (None, self.preprocess.crops):
            return self
        if crops == 10 and self.preprocess.crop == "none":
            raise UserError(
                f"--crops=10 needs images that are larger than the crop, but the preprocessing of "
                f"this {self.name} does not crop; use --crops=1."
            )
        preprocess = dataclasses.replace(self.preprocess, crops=crops)
        return dataclasses.replace(self, preprocess=preprocess)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that name a network."""
    group = parser.add_argument_group(
        "network", "--model, or --weights that name their architecture, or --workdir"
    )
    group.add_argument("--model", metavar="NAME", help="architecture (see jaxcnn models)")
    group.add_argument(
        "--weights",
        metavar="FILE_OR_NAME",
        help="a file, a name such as IMAGENET1K_V1, or hf-hub:OWNER/NAME or a folder, whose "
        "config.json names the architecture; by default the best that torchvision has published; "
        "with --workdir a file of the run, such as best.safetensors",
    )
    group.add_argument("--workdir", metavar="RUN", help="folder of a run of train.py")


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare ``--crops`` and ``--fold_batch_norm``, for :func:`load_for_evaluation`."""
    parser.add_argument(
        "--crops",
        type=int,
        choices=(1, 10),
        help="10: the mean of the corners and the center, mirrored too; by default 1, or as the "
        "run was evaluated",
    )
    add_folding_argument(parser)


def add_folding_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--fold_batch_norm``."""
    parser.add_argument(
        "--fold_batch_norm",
        action="store_true",
        help="fold batch norms into the convolutions before them: fewer operations, and the same "
        "results to rounding",
    )


def load_for_evaluation(arguments: argparse.Namespace) -> Network:
    """Load the network that is named, as it is to be evaluated.

    Args:
        arguments: see :func:`add_arguments` and :func:`add_evaluation_arguments`.

    Raises:
        UserError: see :func:`load`, :meth:`Network.with_crops` and
            :func:`jaxcnn.convert.fold_batch_norm`.
    """
    used = load(arguments).with_crops(arguments.crops)
    if not arguments.fold_batch_norm:
        return used
    from jaxcnn.convert import fold_batch_norm

    model, variables = fold_batch_norm(used.model, used.variables)
    return dataclasses.replace(used, model=model, variables=variables)


def load(arguments: argparse.Namespace) -> Network:
    """Load the network that is named.

    Args:
        arguments: with ``model``, ``weights`` and ``workdir``; see :func:`add_arguments`.

    Raises:
        UserError: if none or two are named, the model is unknown, or the weights are missing,
            damaged or of another model.
    """
    model, weights, workdir = arguments.model, arguments.weights, arguments.workdir
    if workdir is not None and model is not None:
        raise UserError("--workdir names the model; leave out --model.")
    if workdir is not None:
        folder = as_path(workdir).expanduser()
        return _of_run(folder, weights=_file_of_run(folder, weights) if weights else None)
    if weights is not None and (network := _of_saved(weights, model)) is not None:
        return network
    if model is None:
        if weights is not None:
            raise UserError(
                f"--weights={weights} needs --model, the name of its architecture; see jaxcnn "
                f"models."
            )
        raise UserError(
            "No network is named; give --model NAME, with or without --weights, or --workdir RUN."
        )
    return _of_model(model, "DEFAULT" if weights is None else weights)


def _of_saved(weights: str, name: str | None) -> Network | None:
    """The network of a folder or repository that `convert.save_pretrained` has written.

    Args:
        weights: the folder, or ``hf-hub:OWNER/NAME``.
        name: of the architecture that it must be; None: any.

    Returns:
        The network; None: it is neither a folder nor a repository, or an architecture is named
        and this program has not written it.
    """
    from jaxcnn.convert.hub import HUB, is_saved, read_config
    from jaxcnn.convert.pretrained import load_pretrained
    from jaxcnn.training.workdir import CLASSES

    source = weights if weights.startswith(HUB) else str(Path(weights).expanduser())
    if not is_saved(source):
        return None
    if (Path(source) / CLASSES).is_file():
        raise UserError(f"--weights={weights} is the folder of a run; use --workdir {weights}.")
    saved = read_config(source, foreign_ok=name is not None)
    if saved is None:
        return None
    if name not in (None, saved.architecture):
        raise UserError(
            f"{weights} has weights of {saved.architecture}, not of {name}; leave out --model."
        )
    from jaxcnn.data.pipeline import EvalPreprocess

    model, variables = load_pretrained(source)
    if not model.num_classes:
        raise UserError(f"{weights} has no classifier, which commands need; use it from Python.")
    channels = _input_channels(model, variables)
    if saved.preprocessing is None:
        preprocess, mean, std = _usual_preprocessing(saved.architecture, None, channels)
        mean, std = _per_channel(mean, channels), _per_channel(std, channels)
    else:
        how = dict(saved.preprocessing)
        mean, std, size = how["mean"], how["std"], how["resize_size"]
        preprocess = EvalPreprocess(
            image_size=how["crop_size"],
            channels=channels,
            crop="none" if size is None else "resize_and_center_crop",
            fit=how["fit"],
            interpolation=how["interpolation"],
            resize_size=size or 0,
            crops=how["crops"],
        )
    return Network(
        saved.architecture,
        model,
        variables,
        preprocess,
        mean,
        std,
        channels,
        _class_names(saved.classes, model.num_classes),
    )


def _of_model(name: str, weights: str) -> Network:
    """A network with published weights, or those of a file or a repository."""
    from jaxcnn import models
    from jaxcnn.convert.pretrained import load_pretrained, needed_arguments
    from jaxcnn.training.workdir import (
        BEST_WEIGHTS,
        CONFIG,
        EMA_WEIGHTS,
        WEIGHTS,
        read_classes,
    )

    models.model_info(name)  # refuses an unknown name
    path = as_path(weights).expanduser()
    if path.name in (WEIGHTS, EMA_WEIGHTS, BEST_WEIGHTS) and (path.parent / CONFIG).is_file():
        return _of_run(path.parent, name, path)
    published = _published(name, weights)
    arguments = needed_arguments(name, published.name) if published else {}
    try:
        model, variables = load_pretrained(name, path if path.is_file() else weights, **arguments)
    except UserError as error:
        raise UserError(_with_file(path, error)) from error
    classes = read_classes(path.parent) if path.is_file() else None
    channels = _input_channels(model, variables)
    preprocess, mean, std = _usual_preprocessing(name, published, channels)
    return Network(
        name,
        model,
        variables,
        preprocess,
        _per_channel(mean, channels),
        _per_channel(std, channels),
        channels,
        _class_names(classes, model.num_classes),
    )


def _published(name: str, weights: str) -> "PublishedWeights | None":
    """The published weights of this name, or in a file of their name."""
    from jaxcnn.convert.pretrained import pretrained_weights, published_weights

    by_file = {known.file: known for known in pretrained_weights(name)}
    return published_weights(name, weights) or by_file.get(os.path.basename(weights))


def _usual_preprocessing(
    name: str, published: "PublishedWeights | None", channels: int
) -> "tuple[EvalPreprocess, Sequence[float], Sequence[float]]":
    """The preprocessing of published weights, or else of the architecture's default ones.

    That of its recipe where none are published.
    """
    from jaxcnn.convert.pretrained import pretrained_weights
    from jaxcnn.data.pipeline import EvalPreprocess
    from jaxcnn.training.build import evaluation_settings
    from jaxcnn.training.config import open_config, resolve

    published = published or next(iter(pretrained_weights(name)), None)
    if published is None:
        settings = evaluation_settings(resolve(open_config(name)))
        return settings.make_preprocess(channels), settings.mean, settings.std
    images = published.preprocessing
    preprocess = EvalPreprocess(
        image_size=images.crop_size,
        channels=channels,
        crop="resize_and_center_crop",
        fit="resize",
        interpolation=images.interpolation,
        resize_size=images.resize_size,
    )
    return preprocess, images.mean, images.std


def _of_run(workdir: Path, name: str | None = None, weights: Path | None = None) -> Network:
    """The network of a run.

    Args:
        workdir: its folder.
        name: of the architecture that it must be; None: any.
        weights: a file of it; None: the final average of the weights, the final weights, or the
            newest checkpoint, whichever exists first.
    """
    import numpy as np

    from jaxcnn.convert.state_dict import classes_of_heads, from_torch
    from jaxcnn.training.build import evaluation_settings
    from jaxcnn.training.config import resolved_from_json
    from jaxcnn.training.inputs import MEAN_IMAGE
    from jaxcnn.training.workdir import read_classes, read_config

    settings = evaluation_settings(resolved_from_json(read_config(workdir)))
    if name not in (None, settings.name):
        raise UserError(
            f"{weights} is of a run of {settings.name}, not of {name}; use --model {settings.name}."
        )
    state_dict, path = _weights_of_run(workdir, weights)
    model = settings.make_model(1)
    heads = classes_of_heads(state_dict, model)
    model = model.clone(num_classes=next(iter(heads.values()), settings.num_classes or 1))
    try:
        # Some networks have parameters whose shapes depend on the size of the images.
        variables = from_torch(state_dict, model.clone(input_size=settings.image_size))
    except UserError as error:
        raise UserError(_with_file(path, error)) from error
    mean = settings.mean
    if settings.subtract_mean_image:
        try:
            mean = np.load(io.BytesIO((workdir / MEAN_IMAGE).read_bytes()))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{workdir / MEAN_IMAGE}, which this run subtracts from images, cannot be read; "
                f"restore it."
            ) from error
    channels = _input_channels(model, variables)
    return Network(
        settings.name,
        model,
        variables,
        settings.make_preprocess(channels),
        mean,
        settings.std,
        channels,
        _class_names(read_classes(workdir), model.num_classes),
        settings,
    )


def _file_of_run(workdir: Path, name: str) -> Path:
    """A file of weights that a run has written, by its path or by its name in the workdir."""
    path = as_path(name).expanduser()
    if not path.is_file() and path.name == name:
        path = workdir / name
    if not path.is_file() and workdir.is_dir():
        found = ", ".join(sorted(file.name for file in workdir.glob("*.safetensors")))
        raise UserError(
            f"--weights={name} is not a file of {workdir}; it may be one of: {found or 'none yet'}."
        )
    return path


def _weights_of_run(workdir: Path, weights: Path | None) -> tuple[dict[str, Any], Path]:
    """The torch state dict of a run, and where it is from."""
    from jaxcnn.convert import load_checkpoint, to_torch
    from jaxcnn.training.workdir import CHECKPOINTS, EMA_WEIGHTS, WEIGHTS

    if weights:
        return load_checkpoint(weights), weights
    for path in (workdir / EMA_WEIGHTS, workdir / WEIGHTS):
        if path.is_file():
            return load_checkpoint(path), path
    from jaxcnn.training.checkpoints import newest_variables

    variables = newest_variables(workdir / CHECKPOINTS)
    if variables is None:
        raise UserError(f"{workdir} has neither weights nor a checkpoint yet; train it first.")
    return to_torch(variables), workdir / CHECKPOINTS


def _with_file(path: Path, error: UserError) -> str:
    """The first sentences of an error, which name the file."""
    message = one_sentence(error)
    return f"{path}: {message}" if path.exists() and str(path) not in message else message


def _input_channels(model: "Classifier", variables: Mapping[str, Any]) -> int:
    layer = variables["params"]
    for name in model.first_conv.split("."):
        layer = layer[name]
    channels = layer["kernel"].shape[2]
    if channels not in (1, 3):
        raise UserError(
            f"These weights are for images of {channels} channels; images here have 1 or 3."
        )
    return channels


def _per_channel(values: Sequence[float], channels: int) -> Sequence[float]:
    """Means or standard deviations of colors as those of gray images, if there is one channel."""
    return [sum(values) / len(values)] if channels == 1 else values


def _class_names(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """One name per logit.

    Args:
        names: of the dataset's classes, which may be fewer; None: unknown, but a thousand are
            ImageNet's.
        num_classes: the number of logits.
    """
    from jaxcnn.data.class_names import imagenet_classes, in_words

    if names is None and num_classes == len(imagenet_classes()):
        return tuple(imagenet_classes().values())
    known = in_words(names or ())[:num_classes]
    return known + tuple(str(number) for number in range(len(known), num_classes))
