"""Networks with their published weights, or with those of a file or of the Hugging Face Hub."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from jaxcnn.convert.state_dict import (
    classes_of_heads,
    from_torch,
    nested_variables,
    to_torch,
)
from jaxcnn.errors import UserError, one_sentence, suggest
from jaxcnn.io.checkpoint import load_checkpoint
from jaxcnn.io.download import download
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.published import PUBLISHED, PublishedWeights
from jaxcnn.models.registry import builder_arguments, create_model, list_models

# What torchvision builds a model with when it loads its published weights. Those are from
# TensorFlow, which scaled its images otherwise, and hold the auxiliary heads.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"transform_input": True, "aux_logits": True},
    "inception_v3": {"transform_input": True, "aux_logits": True},
}
# What a state dict has in addition for a model that is built with aux_logits=False.
_AUXILIARY_HEADS = ("aux1.", "aux2.", "AuxLogits.")

_HUB = "hf-hub:"
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def pretrained_weights(name: str | None = None) -> list[PublishedWeights]:
    """The weights that torchvision has published for the networks in :mod:`jaxcnn.models`.

    Args:
        name: an architecture; None: all of them.

    Returns:
        One entry for each set of weights: its name, accuracy, preprocessing, URL. Of each
        architecture the one that torchvision calls ``"DEFAULT"`` comes first.

    Raises:
        UserError: for an unknown architecture.

    Example::

        >>> [weights.name for weights in pretrained_weights("resnet50")]
        ['IMAGENET1K_V2', 'IMAGENET1K_V1']
    """
    if name is not None:
        builder_arguments(name)  # refuses an unknown one
    known = list_models() if name is None else [name]
    return [weights for weights in PUBLISHED if weights.model in known]


def load_pretrained(
    name: str,
    weights: str | os.PathLike[str] = "DEFAULT",
    *,
    num_classes: int | None = None,
    key: str | None = None,
    skip: Sequence[str] = (),
    rng: jax.Array | None = None,
    **kwargs: Any,
) -> tuple[Classifier, dict[str, Any]]:
    """Builds a network and loads its weights.

    Args:
        name: the architecture, one of :func:`jaxcnn.models.list_models`.
        weights: one of

            * ``"DEFAULT"``: the best that torchvision has published;
            * torchvision's name of others (see :func:`pretrained_weights`), such as
              ``"IMAGENET1K_V1"`` or ``"ResNet50_Weights.IMAGENET1K_V1"``;
            * the path of a file that :func:`jaxcnn.convert.load_checkpoint` reads, of a torch
              state dict or of Flax variables (:func:`jaxcnn.convert.save`);
            * ``"hf-hub:OWNER/NAME"`` or ``"hf-hub:OWNER/NAME@REVISION"``: a repository of the
              Hugging Face Hub that holds ``model.safetensors`` or ``pytorch_model.bin`` with
              torchvision's names (as those of timm's ResNets do). Needs ``huggingface_hub``.

            Published weights are downloaded once, to ``$JAXCNN_CACHE`` (by default
            ``~/.cache/jaxcnn``), and their hash is verified.
        num_classes: length of the logits; None: as the weights have it.
        key: see :func:`jaxcnn.convert.load_checkpoint`.
        skip: modules that are newly initialised, such as ``("fc",)``; see
            :func:`jaxcnn.convert.from_torch`.
        rng: key for their initial values.
        **kwargs: other arguments of the architecture, such as ``dtype``; see
            :func:`jaxcnn.models.create_model`. With their published weights ``googlenet`` and
            ``inception_v3`` have, as in torchvision, ``transform_input=True``, and
            ``aux_logits=True`` unless given.

    Returns:
        The module, and its variables ``{"params": ..., "batch_stats": ...}`` with the dtypes of
        the file.

    Raises:
        UserError: for an unknown architecture, argument or name of weights; if the weights are
            not there, cannot be downloaded or read, or are not those of the architecture.

    Example::

        model, variables = load_pretrained("resnet50")
        logits = model.apply(variables, images)  # [N, 224, 224, 3] -> [N, 1000]

        model, variables = load_pretrained(
            "resnet50", num_classes=10, skip=("fc",), rng=jax.random.key(0)
        )
    """
    arguments = needed_arguments(name, weights) | kwargs
    if num_classes is not None:
        arguments["num_classes"] = num_classes
    model = create_model(name, **arguments)  # before the download: it may refuse an argument
    state_dict, path = read_weights(name, weights, key=key)
    if arguments.get("aux_logits") is False:
        state_dict = without_auxiliary_heads(state_dict)

    heads = {
        head: classes
        for head, classes in classes_of_heads(state_dict, model).items()
        if not any(f"{head}.".startswith(f"{module}.") for module in skip)
    }
    for head, classes in heads.items():
        if num_classes is None:
            model = model.clone(num_classes=classes)
        elif classes != num_classes:
            raise UserError(
                f"{path} has {classes} classes (in {head!r}) where num_classes is {num_classes}; "
                f"leave num_classes out, or have a new head with skip={tuple(heads)!r} and "
                f"rng=jax.random.key(0)."
            )
    return model, from_torch(state_dict, model, skip=skip, rng=rng)


def needed_arguments(name: str, weights: str | os.PathLike[str]) -> dict[str, Any]:
    """The arguments of an architecture that torchvision gives it with its published weights.

    Args:
        name: the architecture.
        weights: see :func:`load_pretrained`.

    Raises:
        UserError: for an unknown architecture or name of weights.
    """
    return dict(_ARGUMENTS.get(name, {})) if _published(name, weights) else {}


def read_weights(
    name: str, weights: str | os.PathLike[str], *, key: str | None = None
) -> tuple[Mapping[str, Any], str]:
    """The torch state dict that :func:`load_pretrained` means, and the path of its file.

    Args:
        name: the architecture.
        weights: see :func:`load_pretrained`.
        key: see :func:`jaxcnn.convert.load_checkpoint`.

    Raises:
        UserError: see :func:`load_pretrained`.
    """
    published = _published(name, weights)
    if published:
        path = os.fspath(download(published.url))
    elif isinstance(weights, str) and weights.startswith(_HUB):
        path = _from_hub(weights.removeprefix(_HUB))
    else:
        path = os.fspath(weights)
    tensors = load_checkpoint(path, key=key)
    variables = nested_variables(tensors)
    return tensors if variables is None else to_torch(variables), path


def without_auxiliary_heads(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """What of a state dict a network that was built with ``aux_logits=False`` has."""
    return {k: v for k, v in state_dict.items() if not k.startswith(_AUXILIARY_HEADS)}


def _published(name: str, weights: str | os.PathLike[str]) -> PublishedWeights | None:
    """The published weights that are meant; None: a file or a repository is."""
    known = pretrained_weights(name)
    if not isinstance(weights, os.PathLike):
        weights = str(weights)  # torchvision's own ResNet50_Weights.IMAGENET1K_V1 is no string
    if not isinstance(weights, str) or weights.startswith(_HUB):
        return None
    for candidate in known:
        for own_name in (candidate.name, "DEFAULT") if candidate.default else (candidate.name,):
            # torchvision's enumerations are called as the architecture, in other case
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


def _from_hub(repository: str) -> str:
    """Downloads the weights in ``OWNER/NAME[@REVISION]``, and gives the path."""
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import EntryNotFoundError
    except ImportError as error:
        raise UserError(
            f"{_HUB}{repository} needs the package huggingface_hub, which is not installed; "
            f"pip install huggingface_hub."
        ) from error
    name, _, revision = repository.partition("@")
    for file in _HUB_FILES:
        try:
            return hf_hub_download(name, file, revision=revision or None)
        except EntryNotFoundError as error:
            missing = error
        except Exception as error:  # of the package's, or of any that it uses
            raise UserError(
                f"{_HUB}{repository} cannot be downloaded ({_reason(error)}); check its name, your "
                f"network and, for a private one, your login."
            ) from error
    raise UserError(
        f"{_HUB}{repository} gives neither {' nor '.join(_HUB_FILES)} ({_reason(missing)}); check "
        f"your network, or choose a repository with PyTorch weights."
    ) from missing


def _reason(error: BaseException) -> str:
    return one_sentence(error).rstrip(".")
