"""The base class of every network in :mod:`jaxcnn.models`, and checks of image sizes."""

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.errors import ScopeParamShapeError
from jax.typing import DTypeLike

from jaxcnn.errors import UserError, suggest
from jaxcnn.models.features import FeatureInfo, checked_out_indices, feature_info, outputs_of
from jaxcnn.models.layers import ImageTooSmall, Module, norm_factory

_DTYPES = ("bfloat16", "float16", "float32", "float64")


class Classifier(Module, kw_only=True):
    """An image classifier: images in, logits out; or the feature maps of one.

    A network defines ``forward_features`` and ``forward_head``; calling the module checks the
    images and runs both. They can be applied by themselves, too::

        maps = model.apply(variables, images, method="forward_features")
        logits = model.apply(variables, maps, method="forward_head")

    Attributes:
        num_classes: number of logits; 0: there is no classifier, and the output is its input, the
            pooled features.
        out_indices: which of ``feature_layers`` to output, as a list of feature maps; negative
            ones count from the last. The layers after the last of them have no parameters. None:
            logits. See :func:`jaxcnn.models.create_model`.
        input_size: height and width, in pixels, of the images the network was designed for.
        first_conv: dotted path of the convolution that sees the image; the shape of its kernel
            gives the number of input channels.
        classifier: dotted paths of the layers that output classes, the main classifier first, then
            those of the auxiliary heads; the shapes of their kernels give the number of classes.
        feature_layers: dotted paths of the layers that output feature maps, one for each size of
            map: the last layer of this size, as timm chooses it where timm has the network.
        paper: where the network was published.
        aux_weight: weight of each auxiliary head's loss in training; that of the logits is 1.
        aux_outputs: the namedtuple of the logits, first, and those of the auxiliary heads.

    Raises:
        UserError: for an invalid ``num_classes``, ``out_indices``, ``dtype``, ``param_dtype`` or
            ``norm_layer``.
    """

    first_conv: ClassVar[str]
    classifier: ClassVar[tuple[str, ...]]
    feature_layers: ClassVar[tuple[str, ...]] = ()
    paper: ClassVar[str]
    aux_weight: ClassVar[float] = 0.0
    aux_outputs: ClassVar[Callable[..., Any] | None] = None

    num_classes: int = 1000
    input_size: int = 224
    param_dtype: DTypeLike | None = jnp.float32
    out_indices: Sequence[int] | None = None

    def __post_init__(self) -> None:
        """Check the fields and bring them into one form; lists become tuples, to be hashable."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values = {name: _hashable(value) for name, value in fields.items()}
        values["num_classes"] = _checked_num_classes(self.num_classes)
        for name in ("dtype", "param_dtype"):
            values[name] = _checked_dtype(name, values[name])
        if values.get("norm_layer") is not None:
            values["norm_layer"] = norm_factory(values["norm_layer"])
        for name, value in values.items():
            object.__setattr__(self, name, value)
        if self.out_indices is not None:
            indices = checked_out_indices(self.out_indices, len(self.feature_layers))
            object.__setattr__(self, "out_indices", indices)
        super().__post_init__()

    def __call__(self, x: jax.Array, train: bool = False) -> Any:
        """Compute the logits of images.

        Args:
            x: images, ``[N, H, W, C]``.
            train: whether batch norms normalize with the statistics of this batch (and track them
                in the collection ``"batch_stats"``, which must be mutable) and dropout is active
                (it draws from the rng stream ``"dropout"``).

        Returns:
            Logits ``[N, num_classes]``. In training, a network with auxiliary heads returns
            torchvision's namedtuple, ``logits`` first. With ``num_classes=0``: features
            ``[N, C]``. With ``out_indices``: a list of feature maps ``[N, H, W, C]``.

        Raises:
            UserError: if the images are not ``[N, H, W, C]`` or are too small for the network, or
                if the variables belong to a different network.
        """
        _check_layout(x.shape)
        try:
            return self.forward(x, train)
        except ImageTooSmall as error:
            variables = None if self.is_initializing() else self.variables
            smallest = _smallest_size(self, x, train, variables)
            raise UserError(
                f"Images of {x.shape[1]}x{x.shape[2]} pixels are too small for this "
                f"{type(self).__name__}: {error}; "
                + (f"it works from {smallest}x{smallest}." if smallest else "use larger ones.")
            ) from None
        except ScopeParamShapeError as error:
            raise UserError(
                f"The variables do not fit this {type(self).__name__} with images of shape "
                f"{x.shape}: {str(error).partition(' (http')[0]}"
            ) from None

    @nn.compact
    def forward(self, x: jax.Array, train: bool = False) -> Any:
        """Run the network without the checks of :meth:`__call__`."""
        if self.out_indices is not None:
            layers = [self.feature_layers[index] for index in self.out_indices]
            return outputs_of(self, layers, lambda: self.forward_features(x, train))
        auxiliary_heads = self.aux_outputs and self.aux_logits and self.num_classes
        if not (auxiliary_heads and (train or self.is_initializing())):  # for their parameters
            return self.forward_head(self.forward_features(x, train), train)
        auxiliary: dict[str, jax.Array] = {}
        logits = self.forward_head(self.forward_features(x, train, auxiliary), train)
        return self.aux_outputs(logits, **auxiliary) if train else logits

    def forward_features(
        self,
        x: jax.Array,
        train: bool = False,
        auxiliary: dict[str, jax.Array] | None = None,
    ) -> jax.Array:
        """Compute the last feature map, an ``nn.compact`` method.

        Args:
            x: images, ``[N, H, W, C]``.
            train: see :meth:`__call__`.
            auxiliary: where auxiliary heads put their logits, by the fields of ``aux_outputs``;
                None: they do not run. Networks that have none lack this argument.

        Returns:
            The input of the pooling before the classifier, ``[N, H', W', C']``.
        """
        raise NotImplementedError

    def forward_head(self, x: jax.Array, train: bool = False, pre_logits: bool = False) -> Any:
        """Compute the logits from the last feature map, an ``nn.compact`` method.

        Args:
            x: what :meth:`forward_features` returns.
            train: see :meth:`__call__`.
            pre_logits: whether to return the last layer's input, as with ``num_classes=0``.

        Returns:
            ``[N, num_classes]``, or the pooled features ``[N, C]``: what is left of the network
            without its last layer (4,096 features of AlexNet and VGG).
        """
        raise NotImplementedError

    @property
    def feature_info(self) -> tuple[FeatureInfo, ...]:
        """Name, channels and reduction of each feature map of ``out_indices``; None: of all."""
        if self.out_indices is None:
            return self.clone(out_indices=range(len(self.feature_layers))).feature_info
        return feature_info(self)

    @property
    def with_classifier(self) -> "Classifier":
        """The network with its classifier, whose weights this one takes, too."""
        return self.clone(out_indices=None, num_classes=self.num_classes or 1000)


def first_kernel(model: Classifier, params: Mapping[str, Any]) -> Any:
    """The kernel of a network's ``first_conv``, ``[kernel height, width, C, features]``.

    With weight normalization, its direction.

    Args:
        model: the network.
        params: its parameters, or their shapes.

    Raises:
        UserError: if they have none.
    """
    layer: Any = params
    for name in model.first_conv.split("."):
        layer = layer.get(name, {})
    for name in ("kernel", "kernel_v"):
        if name in layer:
            return layer[name]
    raise UserError(
        f"The variables do not fit this {type(model).__name__}: they have no kernel of "
        f"{model.first_conv!r}."
    )


def check_image_size(model: Classifier, image_shape: Sequence[int], *, train: bool = True) -> Any:
    """Check that a network runs on images of a shape, without computing or allocating anything.

    It traces the network twice, which takes from a tenth of a second to a few seconds.

    Args:
        model: the network.
        image_shape: ``(N, H, W, C)``; N is the number of images that a batch norm sees: those of
            one replica, or of all replicas with synchronized batch norm.
        train: whether to check training, where auxiliary heads need larger images, or evaluation.

    Returns:
        The variables, ``{"params": ..., "batch_stats": ...}``, as shapes and dtypes.

    Raises:
        UserError: the error that initializing or applying the model would raise.

    Example::

        >>> check_image_size(models.inception_v3(), (2, 224, 224, 3))
        UserError: Images of 224x224 pixels are too small for this Inception3: ...; it works from
        299x299.
    """
    model = model.clone(axis_name=None)  # outside of pmap there is no such axis
    images = jax.ShapeDtypeStruct(tuple(image_shape), jnp.float32)
    variables = jax.eval_shape(_init(model, train), _key_shape(), images)
    jax.eval_shape(_apply(model, train), variables, images, _key_shape())
    return variables


def smallest_image_size(model: Classifier, channels: int = 3, *, train: bool = True) -> int | None:
    """The smallest square images that a newly initialized network accepts.

    Larger images may still be too large: in training the auxiliary heads of ``googlenet_original``
    accept 223 to 270 pixels. :func:`check_image_size` checks one size, and faster.

    Args:
        model: the network.
        channels: of the images.
        train: whether for training, where auxiliary heads need larger images, or for evaluation.

    Returns:
        Height and width in pixels; None if not even ``model.input_size`` works.

    Example::

        >>> smallest_image_size(models.inception_v3()), smallest_image_size(models.vgg11())
        (299, 32)
    """
    images = jax.ShapeDtypeStruct((2, model.input_size, model.input_size, channels), jnp.float32)
    return _smallest_size(model, images, train)


def _smallest_size(
    model: Classifier, images: Any, train: bool, variables: Any = None
) -> int | None:
    """The smallest height and width that a network accepts.

    Args:
        model: the network.
        images: an array or shape ``[N, H, W, C]``, of which H and W are ignored.
        train: whether for training or evaluation.
        variables: the sizes must work with these; None: with those of a new initialization.

    Returns:
        Found by bisection, because up to ``model.input_size`` every size above one that works
        works, too; None if ``model.input_size`` does not work.
    """
    model = model.clone(parent=None, name=None, axis_name=None)
    if variables is not None:
        variables = jax.eval_shape(lambda leaves: leaves, dict(variables))

    def works(size: int) -> bool:
        x = jax.ShapeDtypeStruct((images.shape[0], size, size, images.shape[3]), images.dtype)
        try:
            if variables is None:
                jax.eval_shape(_init(model, train, "forward"), _key_shape(), x)
            else:
                jax.eval_shape(_apply(model, train, "forward"), variables, x, _key_shape())
        except (UserError, ScopeParamShapeError):
            return False
        return True

    too_small, enough = 0, model.input_size
    if not works(enough):
        return None
    while enough - too_small > 1:
        middle = (too_small + enough) // 2
        too_small, enough = (too_small, middle) if works(middle) else (middle, enough)
    return enough


def _key_shape() -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((), jax.random.key(0).dtype)


def _init(model: Classifier, train: bool, method: str = "__call__") -> Any:
    def init(key: jax.Array, images: jax.Array) -> Any:
        return model.init({"params": key, "dropout": key}, images, train, method=method)

    return init


def _apply(model: Classifier, train: bool, method: str = "__call__") -> Any:
    def apply(variables: Any, images: jax.Array, key: jax.Array) -> Any:
        rngs = {"dropout": key}
        return model.apply(variables, images, train, mutable=True, rngs=rngs, method=method)

    return apply


def _check_layout(shape: tuple[int, ...]) -> None:
    if len(shape) != 4:
        raise UserError(f"Images have the shape {shape}; expected [N, H, W, C].")
    if 0 in shape:
        raise UserError(
            f"Images have the shape {shape}; each axis of [N, H, W, C] must be at least 1."
        )
    if shape[1] in (1, 3) and shape[3] > 4:
        raise UserError(
            f"Images have the shape {shape}, which looks like [N, C, H, W]; expected "
            "[N, H, W, C]: use jnp.transpose(images, (0, 2, 3, 1))."
        )


def _checked_num_classes(value: Any) -> int:
    try:
        number = -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise UserError(
            f"num_classes={value!r} is not a number of classes; use a positive integer, for "
            "example 10, or 0 for features without a classifier."
        )
    return number


def _checked_dtype(name: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        dtype = jnp.dtype(value)
    except TypeError:
        dtype = None
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        raise UserError(
            f"{name}={value!r} is not a floating-point dtype; {suggest(str(value), _DTYPES)}"
        )
    return dtype


def _hashable(value: Any) -> Any:
    # A NamedTuple stays one.
    return tuple(map(_hashable, value)) if type(value) in (list, tuple) else value
