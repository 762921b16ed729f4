"""timm's networks, where it defines them as torchvision does: its weights, and what it computes."""

from functools import partial

import numpy as np
import pytest
import torch
from compare import images, worst_logits_error
from tiers import tiers

from jaxcnn import convert, models
from jaxcnn.models.layers import BatchNorm
from jaxcnn.testing import randomize, use_exact_hardsigmoid
from jaxcnn.testing.arrays import LOGITS

# What draws at random is off. timm's MobileNetV3 has torch's own epsilon, torchvision's has
# TensorFlow's; timm's regnetx_004 is wider than torchvision's.
_STILL = {"dropout": 0.0}
_TORCHS = _STILL | {"norm_layer": partial(BatchNorm, eps=1e-5)}

# By timm's name: ours, our arguments, and the height and width of the images.
NETWORKS = {
    "resnet18": ("resnet18", {}, (65, 79)),
    "regnetx_004_tv": ("regnet_x_400mf", {}, (65, 79)),
    "regnety_004": ("regnet_y_400mf", {}, (65, 79)),
    "efficientnet_b0": ("efficientnet_b0", _STILL | {"stochastic_depth_prob": 0.0}, (65, 79)),
    "mobilenetv2_100": ("mobilenet_v2", _STILL, (65, 79)),
    "mobilenetv3_large_100": ("mobilenet_v3_large", _TORCHS, (65, 79)),
    "mobilenetv3_small_100": ("mobilenet_v3_small", _TORCHS, (65, 79)),
    "convnext_tiny": ("convnext_tiny", {"stochastic_depth_prob": 0.0}, (65, 79)),
    "vgg11_bn": ("vgg11_bn", _STILL, (65, 79)),
    "inception_v3": ("inception_v3", _STILL | {"aux_logits": False}, (107, 139)),
    "densenet121": ("densenet121", {}, (65, 79)),
}


# One of each table of names.
SLOW = (
    *("regnety_004", "efficientnet_b0", "mobilenetv2_100", "mobilenetv3_small_100"),
    *("convnext_tiny", "vgg11_bn"),
)


@pytest.mark.parametrize("theirs", tiers(NETWORKS, slow=SLOW))
def test_weights_and_logits_of_timm(theirs):
    import timm

    ours, arguments, size = NETWORKS[theirs]

    torch.manual_seed(0)
    module = timm.create_model(theirs, num_classes=7).double()
    use_exact_hardsigmoid(module)
    randomize(module)
    model = models.create_model(ours, num_classes=7, param_dtype=np.float64, **arguments)
    x = images(2, 3, *size)
    for train in (False, True):
        variables = convert.from_torch(module.state_dict(), model)
        assert worst_logits_error(model, variables, module, x, train=train) <= LOGITS
