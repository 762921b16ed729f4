"""Which networks there are, by torchvision's names."""

import dataclasses
import inspect
from typing import Any, Generic, TypeVar

import jax.numpy as jnp

from jaxcnn.errors import UserError, suggest
from jaxcnn.models.layers import Classifier

M = TypeVar("M", bound=Classifier)

_BUILDERS: dict[str, "Builder[Any]"] = {}


class Builder(Generic[M]):
    """One named architecture: a module class and the arguments that make it this variant.

    Calling it gives the module. It takes, by keyword, the arguments of the class that the
    variant leaves open, with torchvision's names and defaults, and Flax's ``dtype`` (of the
    computation; None: promoted from the input and the parameters) and ``param_dtype``.

    Args:
        name: torchvision's name of the builder.
        module: the class that it builds.
        doc: one paragraph for ``help()``.
        **fixed: arguments that make the variant; not open to the caller.
    """

    def __init__(self, name: str, module: type[M], doc: str, **fixed: Any):
        self.__name__ = self.name = name
        self.__doc__ = doc
        self.module = module
        self.fixed = fixed
        self.defaults = {
            field.name: field.default
            for field in dataclasses.fields(module)
            if field.init and field.name not in {"parent", "name", "input_size", *fixed}
        }
        self.__signature__ = inspect.Signature(
            [
                inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value)
                for key, value in self.defaults.items()
            ],
            return_annotation=module,
        )
        _BUILDERS[name] = self

    def __call__(self, **kwargs: Any) -> M:
        """Builds the module.

        Raises:
            UserError: for an argument that this architecture does not take.
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
        **kwargs: the builder's arguments; ``num_classes``, ``dtype`` and ``param_dtype`` are
            every model's, the others are torchvision's (see :func:`builder_arguments`).

    Returns:
        The Flax module, without variables: ``model.init(key, images)`` makes those.

    Raises:
        UserError: for an unknown name (with the nearest known ones) or argument.

    Example::

        model = create_model("resnet50", num_classes=10, dtype=jnp.bfloat16)
    """
    return _builder(name)(**kwargs)


def list_models() -> list[str]:
    """The names that :func:`create_model` takes, sorted."""
    return sorted(_BUILDERS)


def builder_arguments(name: str) -> dict[str, Any]:
    """The keyword arguments of an architecture with their defaults.

    Raises:
        UserError: for an unknown name.

    Example::

        >>> builder_arguments("resnet18")["width_per_group"]
        64
    """
    return dict(_builder(name).defaults)
