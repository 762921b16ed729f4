"""What every network in :mod:`jaxcnn.models` is."""

import dataclasses
import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax.errors import ScopeParamShapeError
from jax.typing import DTypeLike

from jaxcnn.errors import UserError
from jaxcnn.models.layers import ImageTooSmall, Module


class Classifier(Module, kw_only=True):
    """Images in, logits out.

    A network defines ``forward``; calling the module checks the images and runs it.

    Attributes:
        num_classes: length of the logits.
        input_size: height and width of the images that the network was made for.
        first_conv: dotted path of the convolution that sees the image; its kernel tells the
            number of input channels.
        classifier: dotted paths of the layers whose outputs are the classes, that of the logits
            first, then those of the auxiliary heads; their kernels tell the number of classes.
        paper: where the network was published.
        aux_weight: what each auxiliary head's loss counts in training, beside the logits' 1.
    """

    first_conv: ClassVar[str]
    classifier: ClassVar[tuple[str, ...]]
    paper: ClassVar[str]
    aux_weight: ClassVar[float] = 0.0

    num_classes: int = 1000
    input_size: int = 224
    param_dtype: DTypeLike | None = jnp.float32

    def __post_init__(self) -> None:
        """Makes tuples of lists: what a network is made of must have a hash."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _hashable(getattr(self, field.name)))
        super().__post_init__()

    def __call__(self, x: jax.Array, train: bool = False) -> Any:
        """Gives the logits of images.

        Args:
            x: ``[N, H, W, C]``.
            train: whether batch norms take the statistics of this batch (and track them in the
                collection ``"batch_stats"``, which must be mutable) and dropout drops (with the
                rng stream ``"dropout"``).

        Returns:
            ``[N, num_classes]``; in training, from a network with auxiliary heads, torchvision's
            namedtuple of them all, ``logits`` first.

        Raises:
            UserError: for images of another rank, or too small for the network, or variables of
                another network.
        """
        if x.ndim != 4:
            raise UserError(f"Images must be [N, H, W, C], but these have the shape {x.shape}.")
        try:
            return self.forward(x, train)
        except ImageTooSmall as error:
            smallest = _smallest_size(self, x, train)
            raise UserError(
                f"Images of {x.shape[1]}x{x.shape[2]} pixels are too small for this "
                f"{type(self).__name__}: {error}; "
                + (f"it works from {smallest}x{smallest}." if smallest else "use larger ones.")
            ) from None
        except ScopeParamShapeError as error:
            raise UserError(
                f"The variables are not of this {type(self).__name__} for images {x.shape}: "
                f"{str(error).partition(' (http')[0]}"
            ) from None

    def forward(self, x: jax.Array, train: bool = False) -> Any:
        """The network itself, an ``nn.compact`` method."""
        raise NotImplementedError


def _hashable(value: Any) -> Any:
    # A NamedTuple stays one.
    return tuple(map(_hashable, value)) if type(value) in (list, tuple) else value


def _smallest_size(model: Classifier, x: jax.Array, train: bool) -> int | None:
    """The smallest height and width that the network takes; None: not even its own.

    Found by halving, with shapes only: if a size is large enough, so is any larger one.
    """
    initializing = model.is_initializing()
    model = model.clone(parent=None, name=None)
    key = jax.ShapeDtypeStruct((), jax.random.key(0).dtype)

    def images(size: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((x.shape[0], size, size, x.shape[3]), x.dtype)

    init = functools.partial(model.init, method="forward")

    def apply(variables: Any, images: jax.Array, key: jax.Array) -> Any:
        rngs = {"dropout": key}
        return model.apply(variables, images, train, mutable=True, rngs=rngs, method="forward")

    def works(size: int) -> bool:
        try:
            if initializing:
                jax.eval_shape(init, key, images(size))
            else:
                jax.eval_shape(apply, variables, images(size), key)
        except (UserError, ScopeParamShapeError):
            return False
        return True

    if not initializing:
        try:
            variables = jax.eval_shape(init, key, images(model.input_size))
        except UserError:
            return None
    too_small, enough = 0, model.input_size
    if not works(enough):
        return None
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        too_small, enough = (too_small, middle) if works(middle) else (middle, enough)
    return enough
