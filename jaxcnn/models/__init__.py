"""The networks, as Flax modules.

Example::

    import jax, jax.numpy as jnp
    from jaxcnn import models

    model = models.create_model("resnet18", num_classes=10)  # = models.resnet18(num_classes=10)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    logits = model.apply(variables, images)  # [N, H, W, C] -> [N, num_classes]
"""

from jaxcnn.models.lenet import LeNet5, lenet5
from jaxcnn.models.registry import builder_arguments, create_model, list_models
from jaxcnn.models.resnet import (
    ResNet,
    resnet18,
    resnet34,
    resnet50,
    resnet101,
    resnet152,
    resnext50_32x4d,
    resnext101_32x8d,
    resnext101_64x4d,
    wide_resnet50_2,
    wide_resnet101_2,
)

__all__ = [
    "LeNet5",
    "ResNet",
    "builder_arguments",
    "create_model",
    "lenet5",
    "list_models",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "wide_resnet50_2",
    "wide_resnet101_2",
]
