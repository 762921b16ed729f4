"""Torch's layers in Flax, where Flax's own differ.

Images are ``[N, H, W, C]``; kernels are ``[H, W, in / groups, out]`` and ``[in, out]``.
Arguments have torch's names and meanings (``padding`` is symmetric and explicit). Parameters have
Flax's names (``kernel``, ``scale``, ``bias``; batch statistics ``mean`` and ``var``) and child
modules torchvision's, digits included, so that one rule converts every state dict (see
:mod:`jaxcnn.convert`).

Every layer is called as ``layer(x, train)``, also those that do the same in training, so that
:class:`Sequential` and ``norm_layer`` need no special cases.
"""

from jaxcnn.models.arithmetic import Size
from jaxcnn.models.layers.activation import GELU, ReLU, gelu, relu
from jaxcnn.models.layers.convolution import (
    Conv,
    ConvTranspose,
    DepthwiseSeparableConv,
    Linear,
    SpatiallySeparableConv,
    kaiming_normal_fan_out,
    torch_default_init,
)
from jaxcnn.models.layers.module import (
    INITIALIZERS,
    ImageTooSmall,
    Lambda,
    LayerFactory,
    Module,
    Sequential,
    flatten,
)
from jaxcnn.models.layers.normalization import (
    NORMS,
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    SwitchableNorm,
    is_batch_norm,
    local_response_norm,
    norm_factory,
)
from jaxcnn.models.layers.platforms import traced_for
from jaxcnn.models.layers.pooling import (
    MaxPool,
    adaptive_avg_pool,
    avg_pool,
    max_pool,
    max_pool_switches,
    max_unpool,
    window_switches,
)
from jaxcnn.models.layers.stochastic import Dropout, StochasticDepth

__all__ = [
    "GELU",
    "INITIALIZERS",
    "NORMS",
    "BatchNorm",
    "Conv",
    "ConvTranspose",
    "DepthwiseSeparableConv",
    "Dropout",
    "GroupNorm",
    "ImageTooSmall",
    "InstanceNorm",
    "Lambda",
    "LayerFactory",
    "LayerNorm",
    "Linear",
    "MaxPool",
    "Module",
    "ReLU",
    "Sequential",
    "Size",
    "SpatiallySeparableConv",
    "StochasticDepth",
    "SwitchableNorm",
    "adaptive_avg_pool",
    "avg_pool",
    "flatten",
    "gelu",
    "is_batch_norm",
    "kaiming_normal_fan_out",
    "local_response_norm",
    "max_pool",
    "max_pool_switches",
    "max_unpool",
    "norm_factory",
    "relu",
    "torch_default_init",
    "traced_for",
    "window_switches",
]
