"""The networks, as Flax modules.

Example::

    import jax, jax.numpy as jnp
    from jaxcnn import models

    model = models.create_model("resnet18", num_classes=10)  # = models.resnet18(num_classes=10)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    logits = model.apply(variables, images)  # [N, H, W, C] -> [N, num_classes]
"""

from jaxcnn.models.alexnet import AlexNet, alexnet
from jaxcnn.models.alexnet_original import AlexNetOriginal, alexnet_original
from jaxcnn.models.convnext import (
    ConvNeXt,
    convnext_base,
    convnext_large,
    convnext_small,
    convnext_tiny,
)
from jaxcnn.models.densenet import DenseNet, densenet121, densenet161, densenet169, densenet201
from jaxcnn.models.efficientnet import (
    EfficientNet,
    efficientnet_b0,
    efficientnet_b1,
    efficientnet_b2,
    efficientnet_b3,
    efficientnet_b4,
    efficientnet_b5,
    efficientnet_b6,
    efficientnet_b7,
    efficientnet_v2_l,
    efficientnet_v2_m,
    efficientnet_v2_s,
)
from jaxcnn.models.googlenet import GoogLeNet, googlenet
from jaxcnn.models.googlenet_original import GoogLeNetOriginal, googlenet_original
from jaxcnn.models.inception import Inception3, inception_v3
from jaxcnn.models.lenet import LeNet5, lenet5
from jaxcnn.models.mnasnet import MNASNet, mnasnet0_5, mnasnet0_75, mnasnet1_0, mnasnet1_3
from jaxcnn.models.mobilenet_v2 import MobileNetV2, mobilenet_v2
from jaxcnn.models.mobilenet_v3 import MobileNetV3, mobilenet_v3_large, mobilenet_v3_small
from jaxcnn.models.nin import NiN, nin
from jaxcnn.models.registry import (
    ModelInfo,
    builder_arguments,
    create_model,
    list_models,
    model_info,
)
from jaxcnn.models.regnet import (
    AnyNet,
    anynet,
    regnet_stages,
    regnet_x_1_6gf,
    regnet_x_3_2gf,
    regnet_x_8gf,
    regnet_x_16gf,
    regnet_x_32gf,
    regnet_x_400mf,
    regnet_x_800mf,
    regnet_y_1_6gf,
    regnet_y_3_2gf,
    regnet_y_8gf,
    regnet_y_16gf,
    regnet_y_32gf,
    regnet_y_128gf,
    regnet_y_400mf,
    regnet_y_800mf,
)
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
from jaxcnn.models.shufflenet_v2 import (
    ShuffleNetV2,
    shufflenet_v2_x0_5,
    shufflenet_v2_x1_0,
    shufflenet_v2_x1_5,
    shufflenet_v2_x2_0,
)
from jaxcnn.models.squeezenet import SqueezeNet, squeezenet1_0, squeezenet1_1
from jaxcnn.models.vgg import (
    VGG,
    vgg,
    vgg11,
    vgg11_bn,
    vgg13,
    vgg13_bn,
    vgg16,
    vgg16_bn,
    vgg19,
    vgg19_bn,
)
from jaxcnn.models.zfnet import ZFNet, zfnet

__all__ = [
    "VGG",
    "AlexNet",
    "AlexNetOriginal",
    "AnyNet",
    "ConvNeXt",
    "DenseNet",
    "EfficientNet",
    "GoogLeNet",
    "GoogLeNetOriginal",
    "Inception3",
    "LeNet5",
    "MNASNet",
    "MobileNetV2",
    "MobileNetV3",
    "ModelInfo",
    "NiN",
    "ResNet",
    "ShuffleNetV2",
    "SqueezeNet",
    "ZFNet",
    "alexnet",
    "alexnet_original",
    "anynet",
    "builder_arguments",
    "convnext_base",
    "convnext_large",
    "convnext_small",
    "convnext_tiny",
    "create_model",
    "densenet121",
    "densenet161",
    "densenet169",
    "densenet201",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_v2_l",
    "efficientnet_v2_m",
    "efficientnet_v2_s",
    "googlenet",
    "googlenet_original",
    "inception_v3",
    "lenet5",
    "list_models",
    "mnasnet0_5",
    "mnasnet0_75",
    "mnasnet1_0",
    "mnasnet1_3",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "model_info",
    "nin",
    "regnet_stages",
    "regnet_x_1_6gf",
    "regnet_x_3_2gf",
    "regnet_x_8gf",
    "regnet_x_16gf",
    "regnet_x_32gf",
    "regnet_x_400mf",
    "regnet_x_800mf",
    "regnet_y_1_6gf",
    "regnet_y_3_2gf",
    "regnet_y_8gf",
    "regnet_y_16gf",
    "regnet_y_32gf",
    "regnet_y_128gf",
    "regnet_y_400mf",
    "regnet_y_800mf",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "resnext50_32x4d",
    "resnext101_32x8d",
    "resnext101_64x4d",
    "shufflenet_v2_x0_5",
    "shufflenet_v2_x1_0",
    "shufflenet_v2_x1_5",
    "shufflenet_v2_x2_0",
    "squeezenet1_0",
    "squeezenet1_1",
    "vgg",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "wide_resnet50_2",
    "wide_resnet101_2",
    "zfnet",
]
