"""Networks in folders and in repositories of the Hugging Face Hub, with what they need to run.

Both have the same files: the weights (``model.safetensors``, torchvision's names), ``config.json``
(architecture, arguments, classes, preprocessing) and ``README.md``, the model card.
"""

import contextlib
import dataclasses
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.convert.state_dict import from_torch, to_torch
from jaxcnn.errors import UserError, missing_package, one_sentence
from jaxcnn.io.atomic import atomic_folder
from jaxcnn.io.safetensors import write_safetensors
from jaxcnn.models.classifier import Classifier, first_kernel
from jaxcnn.models.layers import NORMS
from jaxcnn.models.published import PUBLISHED, Preprocessing
from jaxcnn.models.registry import builder_call, create_model, model_info

HUB = "hf-hub:"
CONFIG, CARD, WEIGHTS, MEAN_IMAGE = (
    *("config.json", "README.md"),
    *("model.safetensors", "mean_image.npy"),
)
_WEIGHTS = (WEIGHTS, "pytorch_model.bin")

# The keys of "preprocessing" with their defaults; those without one are required.
_PREPROCESSING = {
    "crop_size": ...,
    "resize_size": None,
    "fit": "resize",
    "interpolation": "bilinear",
    "crops": 1,
    "mean": ...,
    "std": ...,
}
_FITS, _CROPS = ("resize", "pad"), (1, 10)
_INTERPOLATIONS = ("bilinear", "bicubic")
# Arguments that say how a network is computed or initialized, not which network it is.
_COMPUTATION = ("dtype", "param_dtype", "weight_init")


@dataclasses.dataclass(frozen=True)
class PretrainedConfig:
    """What ``config.json`` says.

    Attributes:
        architecture: one of :func:`jaxcnn.models.list_models`.
        arguments: those of its builder that differ from the defaults, without ``num_classes``.
        num_classes: number of logits; 0: there is no classifier; None: that of the weights, or
            with ``features_only`` there is none.
        input_size: height and width of the images, in pixels; None: the architecture's.
        channels: of the images; None: not known.
        classes: their names, one per logit; None: not known.
        preprocessing: see :func:`save_pretrained`; None: not known.
    """

    architecture: str
    arguments: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    num_classes: int | None = None
    input_size: int | None = None
    channels: int | None = None
    classes: tuple[str, ...] | None = None
    preprocessing: Mapping[str, Any] | None = None

    def make_model(self, **kwargs: Any) -> Classifier:
        """Build the network.

        Args:
            **kwargs: arguments that take precedence over those of the config.

        Raises:
            UserError: see :func:`jaxcnn.models.create_model`.
        """
        arguments = {**self.arguments, **kwargs}
        if self.num_classes is not None and not arguments.get("features_only"):
            arguments.setdefault("num_classes", self.num_classes)
        model = create_model(self.architecture, **arguments)
        # Some networks have parameters whose shapes depend on the size of the images.
        return model.clone(input_size=self.input_size or model.input_size)


def save_pretrained(
    folder: str | os.PathLike[str],
    model: Classifier,
    variables: Mapping[str, Any],
    *,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    card: str | None = None,
) -> None:
    """Write a network to a folder, from which `load_pretrained` needs nothing but its path.

    The folder can be uploaded to the Hugging Face Hub as it is: ``model.safetensors`` has
    torchvision's names, ``config.json`` says which network it is and what it expects of an image,
    and ``README.md`` is the model card. Files appear only when all of them are complete; other
    files in the folder stay.

    Args:
        folder: made if it does not exist; the folder above it must exist.
        model: one of :mod:`jaxcnn.models`, not folded.
        variables: its ``{"params": ...}``, with ``"batch_stats"`` where it has batch norms.
        classes: their names, one per logit; None: they have none.
        preprocessing: of an image in evaluation: the ``preprocessing`` of
            :func:`~jaxcnn.convert.pretrained_weights`, or a dict with

            * ``"crop_size"``: height and width of the result, in pixels;
            * ``"resize_size"``: length of the shorter side before the center crop, in pixels;
              None (the default): no crop;
            * ``"fit"``: without a crop, ``"resize"`` (the default) or ``"pad"``;
            * ``"interpolation"``: ``"bilinear"`` (the default) or ``"bicubic"``;
            * ``"crops"``: 1 (the default), or 10 for those of AlexNet;
            * ``"mean"``: one value per channel, of values in 0 to 1; or a mean image ``[H, W, C]``;
            * ``"std"``: standard deviation of each channel, likewise.

            None: not known.
        card: text of ``README.md``; None: one that says how to load the network.

    Raises:
        UserError: if the model is not one of :mod:`jaxcnn.models`, is folded or has an argument
            that JSON cannot hold, if the variables are not its own, or if classes or preprocessing
            do not fit it.
        OSError: if a file cannot be written.

    Example::

        convert.save_pretrained("pets", model, variables, classes=["cat", "dog"])
        model, variables = convert.load_pretrained("pets")
    """
    folder = Path(folder)
    tensors = to_torch(variables)
    saved = describe(model, variables, classes=classes, preprocessing=preprocessing)
    from_torch(tensors, model)  # checks names and shapes
    content = dataclasses.asdict(saved)
    mean_image = None
    if saved.preprocessing is not None and isinstance(saved.preprocessing["mean"], np.ndarray):
        mean_image = saved.preprocessing["mean"]
        content["preprocessing"] = {**saved.preprocessing, "mean": MEAN_IMAGE}
    content = {key: value for key, value in content.items() if value is not None}
    if card is None:
        card = model_card(saved, os.path.basename(os.path.abspath(folder)))
    with atomic_folder(folder) as new:
        write_safetensors(new / WEIGHTS, tensors)
        (new / CONFIG).write_text(json.dumps(content, indent=2) + "\n")
        (new / CARD).write_text(card, encoding="utf-8")
        if mean_image is not None:
            np.save(new / MEAN_IMAGE, mean_image)


def describe(
    model: Classifier,
    variables: Mapping[str, Any],
    *,
    classes: Sequence[str] | None = None,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
) -> PretrainedConfig:
    """The config of a network; see :func:`save_pretrained`.

    Raises:
        UserError: see :func:`save_pretrained`.
    """
    if model.folded is not None:
        raise UserError(
            "The batch norms of this network are folded, so it no longer has torchvision's "
            "parameters; save it before it is folded."
        )
    architecture, arguments = builder_call(model)
    arguments.pop("num_classes", None)
    arguments.pop("axis_name", None)  # of somebody's training
    arguments = {key: _plain(key, value) for key, value in arguments.items()}
    content = {
        "architecture": architecture,
        "arguments": arguments,
        "num_classes": None if model.out_indices is not None else model.num_classes,
        "input_size": model.input_size,
        "channels": first_kernel(model, variables["params"]).shape[2],
        "classes": None if classes is None else list(classes),
        "preprocessing": _as_dict(preprocessing),
    }
    return _checked(content, "save_pretrained()")


def _as_dict(preprocessing: Preprocessing | Mapping[str, Any] | None) -> dict[str, Any] | None:
    if preprocessing is None:
        return None
    if isinstance(preprocessing, Preprocessing):
        preprocessing = dataclasses.asdict(preprocessing)
    values = dict(preprocessing)
    for key in ("mean", "std"):
        if key in values and np.ndim(values[key]) < 3:
            values[key] = np.asarray(values[key], np.float64).tolist()
    return values


def _plain(argument: str, value: Any) -> Any:
    """The value of an argument as JSON has it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.dtype):
        return value.name
    if type(value) in (list, tuple):
        return [_plain(argument, item) for item in value]
    for name, norm in NORMS.items():
        if argument == "norm_layer" and value == norm:
            return name
    raise UserError(
        f"{argument}={value!r} cannot be written to {CONFIG}, which has numbers, strings and lists "
        f"only; write the variables alone with jaxcnn.convert.save_torch."
    )


def is_saved(source: str | os.PathLike[str]) -> bool:
    """Whether a network is named by a repository (``hf-hub:OWNER/NAME``) or by a folder."""
    return _is_repository(source) or os.path.isdir(source)


def read_config(source: str | os.PathLike[str], *, foreign_ok: bool = False) -> PretrainedConfig:
    """Read the ``config.json`` of a folder or repository.

    Args:
        source: a folder, or ``hf-hub:OWNER/NAME[@REVISION]``.
        foreign_ok: return None if there is no ``config.json``, or one of another program.

    Raises:
        UserError: if it is missing, damaged or of a network that is not known here, or cannot be
            downloaded.
    """
    path = _file(source, (CONFIG,))
    if path is None:
        if foreign_ok:
            return None
        raise UserError(
            f"{os.fspath(source)} has no {CONFIG}, which says which network it is; name the "
            f"architecture as well, such as resnet50."
        )
    where = path if not _is_repository(source) else f"{CONFIG} of {source}"
    try:
        content = json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON ({error}); restore it.") from error
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}).") from error
    if foreign_ok and not (isinstance(content, dict) and "arguments" in content):
        return None
    preprocessing = content.get("preprocessing") if isinstance(content, dict) else None
    if isinstance(preprocessing, dict) and preprocessing.get("mean") == MEAN_IMAGE:
        preprocessing["mean"] = _mean_image(source)
    return _checked(content, where)


def _mean_image(source: str | os.PathLike[str]) -> np.ndarray:
    path = _file(source, (MEAN_IMAGE,))
    try:
        return np.load(path or MEAN_IMAGE)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{MEAN_IMAGE} of {os.fspath(source)}, which is subtracted from images, cannot be "
            f"read; restore it."
        ) from error


def _checked(content: Any, where: str) -> PretrainedConfig:
    """The config in the content of a ``config.json``.

    Raises:
        UserError: if it is not one.
    """

    def require(condition: bool, key: str, expected: str) -> None:
        if not condition:
            found = repr(content[key])
            raise UserError(f"{where} has {key}={found[:80]}; expected {expected}.")

    if not isinstance(content, dict) or not isinstance(content.get("architecture"), str):
        raise UserError(
            f"{where} names no architecture; name one as well, such as resnet50, or restore the "
            f"file."
        )
    content = {"arguments": {}} | content
    require(isinstance(content["arguments"], dict), "arguments", "a dict")
    for key, least in (("num_classes", 0), ("input_size", 1), ("channels", 1)):
        value = content.setdefault(key, None)
        valid = value is None or (type(value) is int and value >= least)
        require(valid, key, f"a whole number, at least {least}")
    classes = content.setdefault("classes", None)
    if classes is not None:
        valid = isinstance(classes, list) and all(isinstance(name, str) for name in classes)
        count = content["num_classes"]
        expected = "a list of names" if count is None else f"a list of {count} names"
        require(valid and count in (None, len(classes)), "classes", expected)
        content["classes"] = tuple(classes)
    if content.setdefault("preprocessing", None) is not None:
        preprocessing = content["preprocessing"]
        require(isinstance(preprocessing, dict), "preprocessing", "a dict")
        content["preprocessing"] = _checked_preprocessing(preprocessing, where)
    fields = {field.name for field in dataclasses.fields(PretrainedConfig)}
    saved = PretrainedConfig(**{key: content[key] for key in content.keys() & fields})
    try:
        saved.make_model()
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return saved


def _checked_preprocessing(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    unknown = sorted(given.keys() - _PREPROCESSING.keys())
    missing = sorted(k for k, v in _PREPROCESSING.items() if v is ... and k not in given)
    if unknown or missing:
        what = f"an unexpected {unknown[0]!r}" if unknown else f"no {missing[0]!r}"
        raise UserError(
            f"{where}: the preprocessing has {what}; accepted: {', '.join(_PREPROCESSING)}."
        )
    values = _PREPROCESSING | dict(given)
    mean, std = values["mean"], values["std"]
    checks = {
        "crop_size": (_is_size(values["crop_size"]), "a number of pixels"),
        "resize_size": (
            values["resize_size"] is None or _is_size(values["resize_size"]),
            "a number of pixels or None",
        ),
        "fit": (values["fit"] in _FITS, " or ".join(_FITS)),
        "interpolation": (values["interpolation"] in _INTERPOLATIONS, " or ".join(_INTERPOLATIONS)),
        "crops": (values["crops"] in _CROPS, "1 or 10"),
        "mean": (_are_numbers(mean) or np.ndim(mean) == 3, "one number per channel"),
        "std": (_are_numbers(std), "one number per channel"),
    }
    for key, (valid, expected) in checks.items():
        if not valid:
            found = repr(values[key])[:80]
            raise UserError(f"{where}: the preprocessing has {key}={found}; expected {expected}.")
    return values


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


def _are_numbers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) in (1, 3)
        and all(type(item) in (int, float) for item in value)
    )


def weights_file(source: str | os.PathLike[str]) -> str:
    """The path of the weights in a folder or repository, which is downloaded if need be.

    Raises:
        UserError: if there are none, or they cannot be downloaded.
    """
    path = _file(source, _WEIGHTS)
    if path is None:
        raise UserError(
            f"{os.fspath(source)} has neither {' nor '.join(_WEIGHTS)}; choose one with PyTorch "
            f"weights."
        )
    return path


def _is_repository(source: str | os.PathLike[str]) -> bool:
    return isinstance(source, str) and source.startswith(HUB)


def _file(source: str | os.PathLike[str], names: Sequence[str]) -> str | None:
    """The path of the first of some files that a folder or repository has; None: it has none."""
    if not _is_repository(source):
        paths = (os.path.join(source, name) for name in names)
        return next(filter(os.path.isfile, paths), None)
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError
    except ImportError as error:
        raise missing_package(str(source), "huggingface_hub", "hub") from error
    repository, _, revision = source.removeprefix(HUB).partition("@")
    for name in names:
        try:
            with progress_bars_in_terminals():
                return hf_hub_download(repository, name, revision=revision or None)
        except Exception as error:  # of the package, or of any that it uses
            # A file that is neither in the cache nor can be asked for may well exist.
            absent = isinstance(error, EntryNotFoundError)
            if absent and not isinstance(error, LocalEntryNotFoundError):
                continue
            raise UserError(
                f"{source} cannot be downloaded ({hub_reason(error)}); check its name, your "
                f"network and, for a private one, your login."
            ) from error
    return None


def hub_reason(error: Exception) -> str:
    """Why huggingface_hub failed, without a full stop: what the Hub answered if it did."""
    answer = (getattr(error, "server_message", None) or "").strip()
    return (answer or one_sentence(error)).rstrip(".")


@contextlib.contextmanager
def progress_bars_in_terminals() -> Iterator[None]:
    """Hide huggingface_hub's progress bars within the block unless stderr is a terminal."""
    from huggingface_hub import utils

    # The variable has priority, and a call would warn of it.
    chosen = "HF_HUB_DISABLE_PROGRESS_BARS" in os.environ or utils.are_progress_bars_disabled()
    if chosen or sys.stderr.isatty():
        yield
        return
    utils.disable_progress_bars()
    try:
        yield
    finally:
        utils.enable_progress_bars()


def model_card(saved: PretrainedConfig, source: str, about: str = "") -> str:
    """Write a model card in Markdown.

    Args:
        saved: the config of the network.
        source: where it is: a folder, or ``hf-hub:OWNER/NAME``.
        about: what is told of the network before how to load it, in Markdown; its headings begin
            with ``##``.
    """
    title = os.path.basename(os.path.normpath(source.removeprefix(HUB)))
    info = model_info(saved.architecture)
    parts = [
        "---\nlibrary_name: jaxcnn\npipeline_tag: image-classification\ntags:\n"
        "- image-classification\n- jax\n- flax\n- pytorch\n---",
        f"# {title}",
        f"{_code(saved.architecture)} ({info.paper}) {_output(saved)}{_list_of_arguments(saved)}.",
        *([about.strip()] if about.strip() else []),
        *_input_section(saved),
        _loading_section(saved, source),
    ]
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    return f"`{text}`"


def _output(saved: PretrainedConfig) -> str:
    if saved.num_classes:
        return f"with {saved.num_classes:,} classes"
    return "without its classifier"


def _list_of_arguments(saved: PretrainedConfig) -> str:
    arguments = [_code(f"{key}={value!r}") for key, value in saved.arguments.items()]
    return f", {', '.join(arguments)}" if arguments else ""


def _input_section(saved: PretrainedConfig) -> list[str]:
    """What the network expects of an image."""
    if saved.preprocessing is None:
        return []
    how = saved.preprocessing
    size = how["crop_size"]
    if how["resize_size"] is None:
        fit = "padded to a square and resized" if how["fit"] == "pad" else "resized"
        resize = f"It is {fit} to {size}×{size} pixels"
    else:
        crop = "center crop" if how["crops"] == 1 else "ten crops"
        resize = (
            f"Its shorter side is resized to {how['resize_size']} pixels, followed by a {crop} of "
            f"{size}×{size}"
        )
    mean = how["mean"]
    subtracted = f"the image in {_code(MEAN_IMAGE)}" if isinstance(mean, np.ndarray) else mean
    return [
        "## Input",
        f"An image of {saved.channels} channel{'s' if saved.channels != 1 else ''}. {resize} "
        f"({how['interpolation']}, antialiased); its values, divided by 255, are normalized with "
        f"mean {subtracted} and standard deviation {how['std']}.",
    ]


def _loading_section(saved: PretrainedConfig, source: str) -> str:
    """How to load the network here, in torchvision and in timm, as far as they have it."""
    size, channels = saved.input_size, saved.channels
    if saved.preprocessing is not None:
        size = saved.preprocessing["crop_size"]
    shape = f"[N, {size}, {size}, {channels}]"
    if saved.num_classes:
        outputs = ("logits", f"{shape} -> [N, {saved.num_classes}]")
    elif saved.num_classes == 0:
        outputs = ("features", f"{shape} -> [N, features]")
    else:
        outputs = ("maps", f"{shape} -> a list of feature maps")
    predict = f"```sh\njaxcnn predict IMAGE --weights {source}\n```"
    sections = [
        "## How to load it",
        "With jaxcnn:",
        _python(
            "from jaxcnn import convert",
            "",
            f"model, variables = convert.load_pretrained({_quoted(source)})",
            f"{outputs[0]} = model.apply(variables, images)  # {outputs[1]}",
        ),
        *([predict] if saved.num_classes else []),
    ]
    if not saved.num_classes:  # which neither torchvision nor timm loads
        return "\n\n".join(sections)
    if _is_repository(source):
        repository = _quoted(source.removeprefix(HUB))
        file = ["from huggingface_hub import hf_hub_download"]
        path = f"hf_hub_download({repository}, {_quoted(WEIGHTS)})"
    else:
        file, path = [], _quoted(os.path.join(source, WEIGHTS))
    imports = [*file, "from safetensors.torch import load_file", ""]
    arguments = {"num_classes": saved.num_classes} | {
        key: value for key, value in saved.arguments.items() if key not in _COMPUTATION
    }
    load = f"model.load_state_dict(load_file({path}))"
    elsewhere = []
    in_torchvision = any(saved.architecture == weights.model for weights in PUBLISHED)
    if in_torchvision and channels == 3 and "norm_layer" not in arguments:
        call = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        call = f"torchvision.models.{saved.architecture}({call})"
        code = _python("import torchvision", *imports, f"model = {call}", load)
        elsewhere += ["With torchvision:", code]
    if model_info(saved.architecture).family == "resnet" and arguments.keys() == {"num_classes"}:
        chans = "" if channels == 3 else f", in_chans={channels}"
        call = f"timm.create_model({_quoted(saved.architecture)}, "
        call += f"num_classes={saved.num_classes}{chans})"
        elsewhere += ["With timm:", _python("import timm", *imports, f"model = {call}", load)]
    if not elsewhere:
        elsewhere = [
            f"{_code(WEIGHTS)} is a PyTorch state dict: a PyTorch module of this architecture with "
            f"the same names loads it with {_code('load_state_dict')}."
        ]
    return "\n\n".join([*sections, *elsewhere])


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
