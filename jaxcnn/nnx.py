"""The networks as Flax NNX modules, by Flax's own bridge.

The wrapped network is the Linen module, so its outputs, gradients and training steps are the same
to the last bit, and its variables have the same names: those of torchvision's state dicts.

Example::

    import optax
    from flax import nnx
    from jaxcnn.nnx import load_pretrained

    network = load_pretrained("resnet18", rngs=nnx.Rngs(dropout=0))
    optimizer = nnx.Optimizer(network, optax.sgd(0.1, momentum=0.9), wrt=nnx.Param)

    @nnx.jit
    def train_step(network, optimizer, images, labels):
        def loss(network):
            logits = network(images, train=True)  # updates the running statistics
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        value, gradients = nnx.value_and_grad(loss)(network)
        optimizer.update(network, gradients)
        return value
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxcnn import convert, models
from jaxcnn.models.classifier import Classifier

__all__ = ["Network", "create_model", "from_linen", "load_pretrained", "to_linen"]


class Network(nnx.bridge.ToNNX):
    """A network as an NNX module.

    Its parameters are ``nnx.Param`` and its running statistics ``nnx.BatchStat``, in dictionaries
    by the names of the layers: ``network.layer1["0"]["conv1"]["kernel"]``.

    Args:
        module: the Linen module.
        rngs: the stream ``dropout`` (or ``default``) is drawn from in training; None: for networks
            without dropout and stochastic depth.
    """

    def __call__(self, images: jax.Array, train: bool = False, **kwargs: Any) -> Any:
        """Compute the logits of images.

        Args:
            images: ``[N, H, W, C]``.
            train: whether batch norms normalize with the statistics of this batch and update the
                running ones of this module, and dropout is active.
            **kwargs: of ``flax.nnx.bridge.ToNNX``, such as ``method``.

        Returns:
            As the Linen module: logits ``[N, num_classes]``; in training, with auxiliary heads,
            torchvision's namedtuple.

        Raises:
            UserError: as the Linen module.
        """
        kwargs.setdefault("mutable", ["batch_stats"] if train else False)
        return super().__call__(images, train=train, **kwargs)


def create_model(
    name: str, *, rngs: nnx.Rngs, channels: int = 3, image_size: int | None = None, **kwargs: Any
) -> Network:
    """Build a network by its name and initialize it.

    Args:
        name: one of :func:`jaxcnn.models.list_models`.
        rngs: keys: the stream ``params`` of the initial weights, ``dropout`` of training; or
            ``default`` of both.
        channels: of the images.
        image_size: height and width of the images, in pixels; None: those that the network was
            designed for. Few networks have parameters that depend on it (``lenet5`` has).
        **kwargs: the arguments of the architecture, see :func:`jaxcnn.models.create_model`.

    Raises:
        UserError: for an unknown name or argument, or images that are too small.

    Example::

        network = create_model("resnet18", num_classes=10, rngs=nnx.Rngs(0))
    """
    model = models.create_model(name, **kwargs)
    size = image_size or model.input_size
    network = Network(model, rngs=rngs)
    images = jnp.zeros((1, size, size, channels))
    nnx.jit(lambda network: network.lazy_init(images) and None)(network)
    return network


def load_pretrained(
    name: str,
    weights: str | os.PathLike[str] = "DEFAULT",
    *,
    rngs: nnx.Rngs | None = None,
    **kwargs: Any,
) -> Network:
    """Build a network and load its weights, as :func:`jaxcnn.convert.load_pretrained`.

    Args:
        name: one of :func:`jaxcnn.models.list_models`.
        weights: torchvision's published ones, a file, or a repository of the Hugging Face Hub.
        rngs: see :class:`Network`.
        **kwargs: as of :func:`jaxcnn.convert.load_pretrained`.

    Raises:
        UserError: as that function.
    """
    model, variables = convert.load_pretrained(name, weights, **kwargs)
    return from_linen(model, variables, rngs=rngs)


def from_linen(
    model: Classifier, variables: Mapping[str, Any], *, rngs: nnx.Rngs | None = None
) -> Network:
    """Wrap a Linen module and its variables.

    Args:
        model: the Linen module.
        variables: ``{"params": ..., "batch_stats": ...}``.
        rngs: see :class:`Network`.

    Example::

        model = models.resnet18()
        network = from_linen(model, convert.from_torch(state_dict, model))
    """
    network = Network(model, rngs=rngs)
    variables = jax.tree.map(jnp.asarray, dict(variables))
    for name, attribute in nnx.bridge.variables.linen_vars_to_nnx_attrs(variables).items():
        setattr(network, name, nnx.data(attribute))
    return network


def to_linen(network: Network) -> dict[str, Any]:
    """The variables of a network, as the Linen module takes them and ``convert`` saves them.

    Returns:
        ``{"params": ..., "batch_stats": ...}``.

    Example::

        convert.save_torch("resnet18.safetensors", to_linen(network))
    """
    layers = {
        name: value
        for name, value in vars(network).items()
        if not name.startswith(("to_nnx__", "_pytree__"))
    }
    return nnx.bridge.variables.nnx_attrs_to_linen_vars(layers)
