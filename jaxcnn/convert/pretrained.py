"""Networks with published weights, or with those of a file or of the Hugging Face Hub."""

import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from jaxcnn.convert.hub import HUB, is_saved, read_config, weights_file
from jaxcnn.convert.state_dict import (
    classes_of_heads,
    clean_state_dict,
    from_torch,
    nested_variables,
    to_torch,
)
from jaxcnn.errors import UserError, suggest
from jaxcnn.io.checkpoint import load_checkpoint
from jaxcnn.io.download import download
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.published import PUBLISHED, PublishedWeights
from jaxcnn.models.registry import builder_arguments, create_model, list_models

# The arguments with which torchvision builds a model for its published weights. These weights are
# from TensorFlow, which scaled its images differently, and include the auxiliary heads.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": True},
    "inception_v3": {"transform_input": True, "aux_logits": True},
}
# What a state dict has in addition to a model that was built with aux_logits=False.
_AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")


def pretrained_weights(name: str | None = None) -> list[PublishedWeights]:
    """List the weights that torchvision has published for the networks in :mod:`jaxcnn.models`.

    Args:
        name: an architecture; None: all of them.

    Returns:
        One entry for each set of weights: its name, accuracy, preprocessing, URL. For each
        architecture the one that torchvision calls ``"DEFAULT"`` comes first.

    Raises:
        UserError: for an unknown architecture.

    Example::

        >>> [weights.name for weights in pretrained_weights("resnet50")]
        ['IMAGENET1K_V2', 'IMAGENET1K_V1']
    """
    if name is not None:
        builder_arguments(name)  # refuses an unknown name
    known = list_models() if name is None else [name]
    return [weights for weights in PUBLISHED if weights.model in known]


def load_pretrained(
    name: str | os.PathLike[str],
    weights: str | os.PathLike[str] = "DEFAULT",
    *,
    num_classes: int | None = None,
    key: str | None = None,
    skip: Sequence[str] = (),
    rng: jax.Array | None = None,
    **kwargs: Any,
) -> tuple[Classifier, dict[str, Any]]:
    """Build a network and load its weights.

    Args:
        name: the architecture, one of :func:`jaxcnn.models.list_models`; or, without
            ``weights``, where a network of :func:`jaxcnn.convert.save_pretrained` is, whose
            ``config.json`` names the architecture and its arguments: a folder, or
            ``"hf-hub:OWNER/NAME"`` or ``"hf-hub:OWNER/NAME@REVISION"``, a repository of the Hugging
            Face Hub.
        weights: one of

            * ``"DEFAULT"``: the best weights that torchvision has published;
            * torchvision's name of other weights (see :func:`pretrained_weights`), such as
              ``"IMAGENET1K_V1"`` or ``"ResNet50_Weights.IMAGENET1K_V1"``;
            * the path of a file that :func:`jaxcnn.convert.load_checkpoint` reads, with a torch
              state dict or with Flax variables (:func:`jaxcnn.convert.save`);
            * a folder or a repository of the Hub with a ``model.safetensors`` or
              ``pytorch_model.bin`` that has torchvision's names (as timm's ResNets have). Only the
              weights are read.

            A repository needs the package ``huggingface_hub``. Published weights are downloaded
            once, to ``$JAXCNN_CACHE`` (by default ``~/.cache/jaxcnn``), and their hash is verified.
        num_classes: length of the logits; None: that of the weights; 0: pooled features, without
            the classifier of the weights.
        key: see :func:`jaxcnn.convert.load_checkpoint`.
        skip: modules that are newly initialized, such as ``("fc",)``; see
            :func:`jaxcnn.convert.from_torch`.
        rng: key for their initial values.
        **kwargs: other arguments of the architecture, such as ``dtype``, or ``features_only`` and
            ``out_indices``; see :func:`jaxcnn.models.create_model`. With their published weights
            ``googlenet`` and ``inception_v3`` have, as in torchvision, ``transform_input=True``,
            and ``aux_logits=True`` unless given. Without ``aux_logits`` the auxiliary heads of the
            weights are left out.

    Returns:
        The module, and its variables ``{"params": ..., "batch_stats": ...}`` with the dtypes of
        the file.

    Raises:
        UserError: for an unknown architecture, argument or name of weights; if the weights are
            missing, cannot be downloaded or read, or do not fit the architecture.

    Example::

        model, variables = load_pretrained("resnet50")
        logits = model.apply(variables, images)  # [N, 224, 224, 3] -> [N, 1000]

        model, variables = load_pretrained(
            "resnet50", num_classes=10, skip=("fc",), rng=jax.random.key(0)
        )
        model, variables = load_pretrained("hf-hub:OWNER/NAME")

        backbone, variables = load_pretrained("resnet50", features_only=True)
    """
    arguments = kwargs if num_classes is None else {**kwargs, "num_classes": num_classes}
    name = os.fspath(name)
    # The model is made before the download: it may refuse an argument.
    if weights == "DEFAULT" and name not in list_models() and is_saved(name):
        saved, weights = read_config(name), name
        name, model = saved.architecture, saved.make_model(**arguments)
    elif os.sep in name:
        raise UserError(f"There is no folder {name}; give one that save_pretrained wrote.")
    else:
        model = create_model(name, **needed_arguments(name, weights) | arguments)
    state_dict, path = _read_weights(name, weights, model, key=key)
    fitting, other_heads = _fit_heads(state_dict, model, skip)
    if num_classes is not None and other_heads:
        head, classes = next(iter(other_heads.items()))
        raise UserError(
            f"{path} has {classes} classes (in {head!r}) where num_classes is {num_classes}; "
            f"leave num_classes out, or initialize a new head with skip={tuple(other_heads)!r} "
            f"and rng=jax.random.key(0)."
        )
    return fitting, from_torch(state_dict, fitting, skip=skip, rng=rng)


def initialize_from(
    variables: Mapping[str, Any],
    model: Classifier,
    name: str,
    weights: str | os.PathLike[str],
    *,
    reinitialize: Collection[str] = (),
) -> tuple[dict[str, Any], list[str]]:
    """Replace a model's initial variables by weights, as far as the classes are the same.

    Args:
        variables: the model's own initial variables, ``{"params": ...}`` with or without
            ``"batch_stats"``.
        model: the network.
        name: its architecture.
        weights: see :func:`load_pretrained`.
        reinitialize: layers that keep their own initial values in any case, such as
            ``model.classifier`` where the weights' classes are known to be others.

    Returns:
        The variables, with the dtypes of ``variables``, and the names of the layers that keep
        their own initial values: those, and the classifier layers for which the weights have
        another number of classes.

    Raises:
        UserError: if the weights are missing, cannot be downloaded or read, or do not fit the
            network for images of this size and number of channels.

    Example::

        model = models.resnet50(num_classes=10)
        variables = model.init(jax.random.key(0), images)
        variables, reinitialized = initialize_from(variables, model, "resnet50", "DEFAULT")
        # reinitialized == ["fc"]
    """
    state_dict, path = _read_weights(name, weights, model)
    fitting, other_heads = _fit_heads(state_dict, model)
    kept = list(dict.fromkeys([*reinitialize, *other_heads]))
    loaded = traverse_util.flatten_dict(from_torch(state_dict, fitting))
    values = {}
    for place, own in traverse_util.flatten_dict(dict(variables)).items():
        layer, new = ".".join(place[1:-1]), loaded[place]
        if layer in kept:
            values[place] = own
            continue
        if new.shape != own.shape:
            raise UserError(
                f"{path} has {'/'.join(place)} of shape {new.shape} where this network has "
                f"{own.shape} for images of this size and number of channels; choose the dataset "
                f"or config.image_size to match the weights."
            )
        values[place] = jnp.asarray(new, own.dtype)
    return traverse_util.unflatten_dict(values), kept


def _fit_heads(
    state_dict: Mapping[str, Any], model: Classifier, skip: Sequence[str] = ()
) -> tuple[Classifier, dict[str, int]]:
    """The model with as many classes as the weights, and the heads that do not fit ``model``.

    Returns:
        The model, and the numbers of classes in the weights by the names of the classifier
        layers where they differ from the model's; without those of the modules in ``skip``.
    """
    if model.num_classes == 0:  # also with features_only
        return model, {}
    other_heads = {
        head: classes
        for head, classes in classes_of_heads(state_dict, model).items()
        if classes != model.num_classes
        and not any(f"{head}.".startswith(f"{module}.") for module in skip)
    }
    classes = next(iter(other_heads.values()), model.num_classes)
    return model.clone(num_classes=classes), other_heads


def needed_arguments(name: str, weights: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments with which torchvision builds an architecture for its published weights.

    Args:
        name: the architecture.
        weights: see :func:`load_pretrained`.

    Raises:
        UserError: for an unknown architecture or name of weights.
    """
    return dict(_ARGUMENTS.get(name, {})) if published_weights(name, weights) else {}


def _read_weights(
    name: str, weights: str | os.PathLike[str], model: Classifier, key: str | None = None
) -> tuple[dict[str, Any], str]:
    """Read the weights that :func:`load_pretrained` is asked for.

    Returns:
        Their torch state dict, without auxiliary heads if the model has none, and the path of
        the file.
    """
    published = published_weights(name, weights)
    if published:
        path = os.fspath(download(published.url))
    else:
        path = weights_file(weights) if is_saved(weights) else os.fspath(weights)
    tensors = load_checkpoint(path, key=key)
    variables = nested_variables(tensors)
    state_dict = clean_state_dict(tensors if variables is None else to_torch(variables), model)
    if not getattr(model, "aux_logits", True):
        state_dict = {k: v for k, v in state_dict.items() if not k.startswith(_AUXILIARY_HEADS)}
    return state_dict, path


def published_weights(name: str, weights: str | os.PathLike[str] | None) -> PublishedWeights | None:
    """The published weights that are meant; None: ``weights`` is a file, a repository or None.

    Args:
        name: an architecture.
        weights: see :func:`load_pretrained`.

    Raises:
        UserError: for an unknown architecture or name of weights.
    """
    known = pretrained_weights(name)
    if not isinstance(weights, os.PathLike):
        weights = str(weights)  # torchvision's own ResNet50_Weights.IMAGENET1K_V1 is an enum
    if not isinstance(weights, str) or weights.startswith(HUB):
        return None
    for candidate in known:
        for own_name in (candidate.name, "DEFAULT") if candidate.default else (candidate.name,):
            # The names of torchvision's enums are those of the architectures in another case.
            if weights == own_name or weights.lower() == f"{name}_Weights.{own_name}".lower():
                return candidate
    looks_like_path = os.path.basename(weights) != weights or "." in weights
    if os.path.exists(weights) or (looks_like_path and "_Weights." not in weights):
        return None
    if not known:
        raise UserError(
            f"torchvision has published no weights for {name}; give the path of a file instead of "
            f"{weights!r}."
        )
    names = [candidate.name for candidate in known]
    raise UserError(
        f"{weights!r} is neither a file nor weights of {name}; {suggest(weights, names)}"
    )
