"""Which networks there are, by torchvision's names."""

import dataclasses
import inspect
from typing import Any, Generic, TypeVar

import jax.numpy as jnp

from jaxcnn.errors import UserError, suggest
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import NORMS
from jaxcnn.models.published import PUBLISHED

M = TypeVar("M", bound=Classifier)

_BUILDERS: dict[str, "Builder[Any]"] = {}


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of an architecture.

    Attributes:
        name: torchvision's.
        family: the networks that are variants of one another: the file that defines them.
        parameters: how many it has with its default arguments (GoogLeNet's without its auxiliary
            heads, as torchvision counts).
        multiply_adds: how many a forward pass of one image of ``input_size`` takes.
        input_size: height and width of the images that it was made for, in pixels.
        top1: accuracy of torchvision's default weights on ImageNet's validation images, 0 to 1;
            None: it has published none.
        top5: likewise.
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
    """One named architecture: a module class and the arguments that make it this variant.

    Calling it gives the module. It takes, by keyword, the arguments of the class that the
    variant leaves open, with torchvision's names and defaults, and Flax's ``dtype`` (of the
    computation; None: promoted from the input and the parameters) and ``param_dtype``.
    ``norm_layer``, where there is one, may be a name of
    :data:`~jaxcnn.models.layers.NORMS` (``"group"``, ...).

    Args:
        name: torchvision's name of the builder.
        module: the class that it builds.
        doc: the network's name in words, for ``help()``.
        paper: where it was published; None: with the class.
        parameters: how many it has; None: what torchvision publishes.
        multiply_adds: of a forward pass of one image; None: what torchvision publishes.
        defaults: arguments whose default is not the class's.
        **fixed: arguments that make the variant; not open to the caller.
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
            if field.init and field.name not in {"parent", "name", "input_size", *fixed}
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
        """Builds the module.

        Raises:
            UserError: for an argument that this architecture does not take, or an unknown norm.
        """
        for key in kwargs:
            if key not in self.defaults:
                fixed = f" (it is {self.fixed[key]!r} in {self.name})" if key in self.fixed else ""
                raise UserError(
                    f"{self.name}() takes no argument {key!r}{fixed}; "
                    f"it takes {', '.join(self.defaults)}."
                )
        arguments = self.fixed | self.defaults | kwargs
        for key in ("dtype", "param_dtype"):
            if arguments[key] is not None:
                arguments[key] = jnp.dtype(arguments[key])
        norm = arguments.get("norm_layer")
        if isinstance(norm, str):
            if norm not in NORMS:
                raise UserError(f"There is no norm_layer {norm!r}; {suggest(norm, NORMS)}")
            arguments["norm_layer"] = NORMS[norm]
        return self.module(**arguments)

    def __repr__(self) -> str:
        return f"<builder {self.name}{self.__signature__}>"


def _builder(name: str) -> Builder[Any]:
    if name not in _BUILDERS:
        raise UserError(f"There is no model {name!r}; {suggest(name, list_models())}")
    return _BUILDERS[name]


def create_model(name: str, **kwargs: Any) -> Classifier:
    """Builds a network by its name.

    Args:
        name: one of :func:`list_models`.
        **kwargs: the builder's arguments; ``num_classes``, ``dtype``, ``param_dtype`` and
            ``weight_init`` are every model's, the others are torchvision's (see
            :func:`builder_arguments`).

    Returns:
        The Flax module, without variables: ``model.init(key, images)`` makes those.

    Raises:
        UserError: for an unknown name (with the nearest known ones) or argument.

    Example::

        model = create_model("resnet50", num_classes=10, dtype=jnp.bfloat16)
    """
    return _builder(name)(**kwargs)


def list_models(family: str | None = None) -> list[str]:
    """The names that :func:`create_model` takes, sorted.

    Args:
        family: only its members: ``"resnet"``, ``"vgg"``, ... (:attr:`ModelInfo.family`); None:
            all there are.

    Raises:
        UserError: for an unknown family.

    Example::

        >>> list_models(family="lenet")
        ['lenet5']
    """
    families = {builder.info.family for builder in _BUILDERS.values()}
    if family is not None and family not in families:
        raise UserError(f"There is no family {family!r}; {suggest(family, sorted(families))}")
    return sorted(n for n, b in _BUILDERS.items() if family in (None, b.info.family))


def model_info(name: str) -> ModelInfo:
    """What is known of an architecture: its size, cost, accuracy and paper.

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
