"""Looking inside networks, and pictures of runs.

Example::

    from jaxcnn import convert, visualize

    model, variables = convert.load_pretrained("resnet18")
    projection = visualize.deconvnet(model, variables, images, "layer2.0.conv1", unit=7)
    maps = visualize.grad_cam(model, variables, images)  # of the predicted classes, [N, 7, 7]
"""

from jaxcnn.visualize.attributions import (
    grad_cam,
    guided_backpropagation,
    integrated_gradients,
    occlusion,
    occlusion_size,
    predicted,
    saliency,
    smooth_saliency,
)
from jaxcnn.visualize.deconvnets import Projection, TopActivations, deconvnet, top_activations
from jaxcnn.visualize.layers import layer_shapes
from jaxcnn.visualize.maximize import maximize

__all__ = [
    "Projection",
    "TopActivations",
    "deconvnet",
    "grad_cam",
    "guided_backpropagation",
    "integrated_gradients",
    "layer_shapes",
    "maximize",
    "occlusion",
    "occlusion_size",
    "predicted",
    "saliency",
    "smooth_saliency",
    "top_activations",
]
