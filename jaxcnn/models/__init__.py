"""The networks, as Flax modules.

Example::

    import jax, jax.numpy as jnp
    from jaxcnn import models

    model = models.create_model("resnet18", num_classes=10)  # = models.resnet18(num_classes=10)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    logits = model.apply(variables, images)  # [N, H, W, C] -> [N, num_classes]
"""

# ruff: noqa: F403 - what is exported is listed once, in the __all__ of each module

import inspect

from jaxcnn.models.alexnet import *
from jaxcnn.models.alexnet_original import *
from jaxcnn.models.convnext import *
from jaxcnn.models.densenet import *
from jaxcnn.models.efficientnet import *
from jaxcnn.models.features import *
from jaxcnn.models.googlenet import *
from jaxcnn.models.googlenet_original import *
from jaxcnn.models.inception import *
from jaxcnn.models.lenet import *
from jaxcnn.models.mnasnet import *
from jaxcnn.models.mobilenet_v2 import *
from jaxcnn.models.mobilenet_v3 import *
from jaxcnn.models.nin import *
from jaxcnn.models.registry import *
from jaxcnn.models.regnet import *
from jaxcnn.models.resnet import *
from jaxcnn.models.shufflenet_v2 import *
from jaxcnn.models.squeezenet import *
from jaxcnn.models.summary import *
from jaxcnn.models.vgg import *
from jaxcnn.models.zfnet import *

# Without the modules. Where a module and a builder share a name, as alexnet does, the star import
# has replaced the module by the builder.
__all__ = [
    name
    for name, value in globals().items()
    if not (name.startswith("_") or inspect.ismodule(value))
]
