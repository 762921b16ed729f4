"""Guided backpropagation, Grad-CAM and integrated gradients, against torch with hooks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from compare import images, nhwc, pair
from tiny import TinyNet

from jaxcnn import visualize
from jaxcnn.testing import relative_error

TOLERANCE = 1e-9
ACTIVATIONS = (torch.nn.ReLU, torch.nn.Hardswish)
CLASSES = [3, 1]


@pytest.fixture(scope="module", params=["resnet18", "mobilenet_v3_small"])
def network(request):
    with jax.enable_x64(True):
        model, variables, module = pair(request.param, num_classes=5)
        for layer in module.modules():
            if hasattr(layer, "inplace"):
                layer.inplace = False  # torch's hooks cannot see what is overwritten
        yield model, variables, module.eval(), images(2, 3, 65, 79)


def score(logits: torch.Tensor) -> torch.Tensor:
    return sum(row[label] for row, label in zip(logits, CLASSES, strict=True))


def test_guided_backpropagation(network):
    model, variables, module, x = network

    def rectify(layer, gradients):
        return tuple(g.clamp(min=0) for g in gradients)

    hooks = [
        layer.register_full_backward_pre_hook(rectify)
        for layer in module.modules()
        if isinstance(layer, ACTIVATIONS)
    ]
    leaf = torch.from_numpy(x).requires_grad_()
    score(module(leaf)).backward()
    for hook in hooks:
        hook.remove()
    ours = visualize.guided_backpropagation(model, variables, nhwc(x), np.array(CLASSES))
    assert relative_error(ours, nhwc(leaf.grad.numpy())) <= TOLERANCE


def test_saliency():
    model, variables, module = pair("alexnet", num_classes=5)
    module.eval()
    x = images(2, 3, 64, 64)
    leaf = torch.from_numpy(x).requires_grad_()
    score(module(leaf)).backward()
    ours = visualize.saliency(model, variables, nhwc(x), np.array(CLASSES))
    assert relative_error(ours, nhwc(leaf.grad.numpy())) <= TOLERANCE


def test_grad_cam(network):
    model, variables, module, x = network
    name = "layer4" if hasattr(module, "layer4") else "features.11"
    kept = {}

    def keep(layer, arguments, output):
        kept["map"] = output
        output.register_hook(lambda gradient: kept.update(gradient=gradient))

    hook = module.get_submodule(name).register_forward_hook(keep)
    score(module(torch.from_numpy(x).requires_grad_())).backward()
    hook.remove()
    weights = kept["gradient"].mean(dim=(2, 3), keepdim=True)
    expected = (weights * kept["map"]).sum(dim=1).relu().detach()
    ours = visualize.grad_cam(model, variables, nhwc(x), np.array(CLASSES), layer=name)
    assert expected.max() > 0
    assert relative_error(ours, expected.numpy()) <= TOLERANCE


@pytest.mark.slow
def test_integrated_gradients_are_complete():
    """With ReLU the gradient jumps on the way: the integral has to be refined there."""
    model = TinyNet(num_classes=3, param_dtype=jnp.float64)
    x = nhwc(images(2, 3, 6, 6))
    variables = model.init(jax.random.key(0), x)
    start = 0.5 * jnp.ones((6, 6, 3))
    contributions = visualize.integrated_gradients(
        model,
        variables,
        x,
        np.array([2, 0]),
        baseline=start,
        tolerance=1e-6,
        max_evaluations=30_000,
    )
    logits, at_start = model.apply(variables, x), model.apply(variables, start[None])[0]
    for number, label in enumerate((2, 0)):
        difference = logits[number, label] - at_start[label]
        total = contributions[number].sum()
        assert abs(total - difference) <= 1e-6 * abs(difference)
