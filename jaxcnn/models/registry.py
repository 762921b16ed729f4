"""The registry of networks, by torchvision's names."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from jaxcnn.errors import UserError, suggest
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.published import PUBLISHED

__all__ = ["ModelInfo", "builder_arguments", "create_model", "list_models", "model_info"]

M = TypeVar("M", bound=Classifier)

# Fields of networks that are not arguments of builders.
_NOT_ARGUMENTS = {"parent", "name", "input_size", "folded", "out_indices"}

_BUILDERS: dict[str, "Builder[Any]"] = {}


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """Size, cost, accuracy and paper of an architecture.

    Attributes:
        name: torchvision's name.
        family: name of the module that defines the network and its variants.
        parameters: number of parameters with the default arguments (of GoogLeNet without its
            auxiliary heads, as torchvision counts).
        multiply_adds: number of multiply-adds of a forward pass of one image of ``input_size``.
        input_size: height and width, in pixels, of the images the network was designed for.
        top1: top-1 accuracy of torchvision's default weights on ImageNet's validation images, 0 to
            1; None: torchvision publishes no weights.
        top5: top-5 accuracy, likewise.
        paper: where the network was published.
    """

    name: str
    family: str
    parameters: int
    multiply_adds: int
    input_size: int
    top1: float | None
    top5: float | None
    paper: str


class Builder(Generic[M]):
    """The builder of one architecture: a module class and the arguments of this variant.

    Calling it returns the module. It accepts, by keyword, the arguments of the class that the
    variant does not fix, with torchvision's names and defaults, and Flax's ``dtype`` (of the
    computation; None: promoted from the input and the parameters) and ``param_dtype``.
    ``norm_layer``, where a network has it, is a key of :data:`~jaxcnn.models.layers.NORMS`
    (``"group"``, ...) or any factory; see :func:`~jaxcnn.models.layers.norm_factory`.

    Args:
        name: torchvision's name of the builder.
        module: the class to build.
        doc: the network's name in words, for ``help()``.
        paper: where it was published; None: the paper of the class.
        parameters: number of parameters; None: as torchvision publishes.
        multiply_adds: of a forward pass of one image; None: as torchvision publishes.
        defaults: arguments whose default differs from the class's.
        **fixed: arguments that define the variant; the caller cannot set them.
    """

    def __init__(
        self,
        name: str,
        module: type[M],
        doc: str,
        *,
        paper: str | None = None,
        parameters: int | None = None,
        multiply_adds: int | None = None,
        defaults: dict[str, Any] | None = None,
        **fixed: Any,
    ):
        self.__name__ = self.name = name
        self.module = module
        self.fixed = fixed
        self.defaults = {
            field.name: field.default
            for field in dataclasses.fields(module)
            if field.init and field.name not in _NOT_ARGUMENTS | fixed.keys()
        } | (defaults or {})
        self.__signature__ = inspect.Signature(
            [
                inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value)
                for key, value in self.defaults.items()
            ],
            return_annotation=module,
        )
        published = next((w for w in PUBLISHED if w.model == name and w.default), None)
        self.info = ModelInfo(
            name=name,
            family=module.__module__.rpartition(".")[2],
            parameters=parameters or published.num_params,
            multiply_adds=multiply_adds or published.multiply_adds,
            input_size=fixed.get("input_size", module.input_size),
            top1=published and published.top1,
            top5=published and published.top5,
            paper=paper or module.paper,
        )
        self.__doc__ = (
            f"{doc} ({self.info.paper}).\n\n"
            f"{self.info.parameters:,} parameters; {self.info.multiply_adds:,} multiply-adds for "
            f"an image of {self.info.input_size}x{self.info.input_size} pixels. "
            f"The arguments are those of :class:`{module.__module__}.{module.__name__}`."
        )
        _BUILDERS[name] = self

    def __call__(self, **kwargs: Any) -> M:
        """Build the module.

        Raises:
            UserError: for an unexpected argument or an invalid value.
        """
        for key in kwargs:
            if key in self.fixed:
                raise UserError(
                    f"{self.name}() does not accept {key!r}: it is {self.fixed[key]!r} in "
                    f"{self.name}; accepted: {', '.join(self.defaults)}."
                )
            if key not in self.defaults:
                raise UserError(
                    f"{self.name}() got an unexpected argument {key!r}; accepted: "
                    f"{', '.join(self.defaults)}."
                )
        return self.module(**self.fixed | self.defaults | kwargs)

    def __repr__(self) -> str:
        return f"<builder {self.name}{self.__signature__}>"


def _builder(name: str) -> Builder[Any]:
    if name not in _BUILDERS:
        raise UserError(f"Unknown model {name!r}; {suggest(name, list_models())}")
    return _BUILDERS[name]


def create_model(
    name: str,
    *,
    features_only: bool = False,
    out_indices: Sequence[int] | None = None,
    **kwargs: Any,
) -> Classifier:
    """Build a network by its name.

    Args:
        name: one of :func:`list_models`.
        features_only: whether the network is to output a list of feature maps ``[N, H, W, C]``
            instead of logits. It has no parameters of layers after the last of them; weights of
            the whole network fit it. Its ``feature_info`` has the name, channels and reduction of
            each map.
        out_indices: with ``features_only``, which maps to output; negative ones count from the
            last. None: all, one for each size of map. In most networks 0 to 4 have the reductions
            2, 4, 8, 16 and 32.
        **kwargs: the builder's arguments. Every model accepts ``num_classes``, ``dtype``,
            ``param_dtype`` and ``weight_init``; the others are torchvision's (see
            :func:`builder_arguments`).

    Returns:
        The Flax module, without variables: ``model.init(key, images)`` creates those.

    Raises:
        UserError: for an unknown name (the message suggests the nearest), an unexpected argument
            or an invalid value.

    Example::

        model = create_model("resnet50", num_classes=10, dtype=jnp.bfloat16)

        backbone = create_model("resnet50", features_only=True, out_indices=(1, 2, 3, 4))
        [info.channels for info in backbone.feature_info]  # [256, 512, 1024, 2048]
    """
    builder = _builder(name)
    if not features_only:
        if out_indices is not None:
            raise UserError(
                f"out_indices={out_indices!r} chooses feature maps; add features_only=True."
            )
        return builder(**kwargs)
    if "num_classes" in kwargs:
        raise UserError("With features_only=True there is no classifier; leave out num_classes.")
    model = builder(num_classes=0, **kwargs)
    count = len(model.feature_layers)
    return model.clone(out_indices=range(count) if out_indices is None else out_indices)


def list_models(family: str | None = None) -> list[str]:
    """The names that :func:`create_model` accepts, sorted.

    Args:
        family: list only this family: ``"resnet"``, ``"vgg"``, ... (:attr:`ModelInfo.family`);
            None: all.

    Raises:
        UserError: for an unknown family.

    Example::

        >>> list_models(family="lenet")
        ['lenet5']
    """
    families = {builder.info.family for builder in _BUILDERS.values()}
    if family is not None and family not in families:
        raise UserError(f"Unknown family {family!r}; {suggest(family, sorted(families))}")
    return sorted(n for n, b in _BUILDERS.items() if family in (None, b.info.family))


def model_info(name: str) -> ModelInfo:
    """Size, cost, accuracy and paper of an architecture.

    Raises:
        UserError: for an unknown name.

    Example::

        >>> model_info("resnet18").parameters
        11689512
    """
    return _builder(name).info


def builder_arguments(name: str) -> dict[str, Any]:
    """The keyword arguments of an architecture with their defaults.

    Raises:
        UserError: for an unknown name.

    Example::

        >>> builder_arguments("resnet18")["width_per_group"]
        64
    """
    return dict(_builder(name).defaults)


def builder_call(model: Classifier) -> tuple[str, dict[str, Any]]:
    """The architecture and the arguments that build a module: the inverse of `create_model`.

    Args:
        model: the module; its ``input_size`` may be any.

    Returns:
        The name, and the arguments whose values differ from the builder's defaults.

    Raises:
        UserError: if no builder builds it, as for a module class of your own.

    Example::

        >>> builder_call(models.resnet18(num_classes=10))
        ('resnet18', {'num_classes': 10})
    """
    calls = []
    for builder in _BUILDERS.values():
        if type(model) is not builder.module:
            continue
        default = builder()

        def differs(field: str, default: Classifier = default) -> bool:
            return getattr(model, field) != getattr(default, field)

        if not any(differs(field) for field in builder.fixed if field != "input_size"):
            arguments = {key: getattr(model, key) for key in builder.defaults if differs(key)}
            calls.append((builder, arguments))
    if not calls:
        raise UserError(
            f"create_model cannot build this {type(model).__name__}; see "
            f"jaxcnn.models.list_models()."
        )
    # A resnet50 of double width is a wide_resnet50_2, and the vgg of the defaults a vgg11.
    builder, arguments = min(calls, key=lambda call: (len(call[1]), -len(call[0].fixed)))
    if model.out_indices is not None:
        del arguments["num_classes"]  # 0
        arguments |= {"features_only": True, "out_indices": model.out_indices}
    return builder.name, arguments
