"""Deconvnets against explicit ones: unpooling, transposed convolutions, rectifiers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from compare import images, nhwc, pair
from flax import linen as nn
from test_classics import TorchZFNet
from test_classics import pair as classic_pair

from jaxcnn import visualize
from jaxcnn.models import layers
from jaxcnn.testing import relative_error
from jaxcnn.testing.compiling import jit

TOLERANCE = 1e-9


class TorchDeconvnet:
    """A chain of layers, and back: as Zeiler and Fergus 2013 have it, or with biases."""

    def __init__(self, chain: dict[str, torch.nn.Module], biases: bool = False):
        self.chain, self.biases = chain, biases

    @torch.no_grad()
    def project(self, x: torch.Tensor, name: str, channel: int) -> tuple[torch.Tensor, ...]:
        done = []
        for key, layer in self.chain.items():
            shape = x.shape
            switches = None
            if isinstance(layer, torch.nn.MaxPool2d):
                x, switches = F.max_pool2d(
                    x, layer.kernel_size, layer.stride, layer.padding, return_indices=True
                )
            else:
                x = layer(x)
            done.append((layer, shape, switches))
            if key == name:
                break
        flat = x[:, channel].reshape(len(x), -1)
        strongest, place = flat.max(dim=1)
        alone = torch.zeros_like(flat).scatter(1, place[:, None], strongest[:, None])
        signal = torch.zeros_like(x)
        signal[:, channel] = alone.reshape(x[:, channel].shape)
        while done:
            layer, shape, switches = done.pop()
            signal = self.back(layer, shape, switches, signal, done)
        return signal, strongest, place

    def back(self, layer, shape, switches, signal, before):
        if isinstance(layer, torch.nn.Conv2d):
            earlier = [m.bias for m, _, _ in before if isinstance(m, torch.nn.Conv2d)]
            plain = F.conv_transpose2d(signal[:1], layer.weight, None, layer.stride, layer.padding)
            return F.conv_transpose2d(
                signal,
                layer.weight,
                earlier[-1] if self.biases and earlier else None,
                layer.stride,
                layer.padding,
                output_padding=[a - b for a, b in zip(shape[2:], plain.shape[2:], strict=True)],
            )
        if isinstance(layer, torch.nn.MaxPool2d):
            window = (layer.kernel_size, layer.stride, layer.padding)
            return F.max_unpool2d(signal, switches, *window, output_size=shape)
        if isinstance(layer, torch.nn.ReLU):
            return signal.relu()
        if isinstance(layer, torch.nn.Linear):
            return signal @ layer.weight
        if isinstance(layer, torch.nn.AdaptiveAvgPool2d):
            assert signal.shape == shape  # at this image size it does nothing
        assert isinstance(
            layer,
            (torch.nn.Flatten, torch.nn.AdaptiveAvgPool2d, torch.nn.LocalResponseNorm)
            + (torch.nn.Dropout,),
        )
        return signal.reshape(shape)


def torchvision_chain(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    chain = {f"features.{key}": layer for key, layer in module.features.named_children()}
    chain |= {"avgpool": module.avgpool, "flatten": torch.nn.Flatten()}
    return chain | {f"classifier.{key}": m for key, m in module.classifier.named_children()}


def zfnet_chain(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    relu = torch.nn.ReLU()
    chain = {"conv1": module.conv1, "relu1": relu, "pool1": torch.nn.MaxPool2d(3, 2, 1)}
    chain |= {"norm1": module.norm, "conv2": module.conv2, "relu2": relu}
    chain |= {"pool2": torch.nn.MaxPool2d(3, 2, 1), "norm2": module.norm}
    for number in (3, 4, 5):
        chain |= {f"conv{number}": getattr(module, f"conv{number}"), f"relu{number}": relu}
    return (
        chain
        | {"pool5": torch.nn.MaxPool2d(3, 2), "flatten": torch.nn.Flatten()}
        | {"fc6": module.fc6}
    )


@pytest.fixture(scope="module")
def networks():
    """Each network with its variables, its chain of torch's layers, and images."""
    with jax.enable_x64(True):
        made = {}
        for name in ("alexnet", "vgg11"):
            model, variables, module = pair(name)
            size = 224 if name == "alexnet" else 64
            chain = torchvision_chain(module.eval())
            made[name] = model, variables, chain, images(2, 3, size, size)
        torch.manual_seed(0)
        zfnet = TorchZFNet(1, 3, 7, (384, 384, 256))
        model, variables, module = classic_pair("zfnet", zfnet, 70)
        made["zfnet"] = model, variables, zfnet_chain(module), images(2, 3, 70, 70)
        yield made


@pytest.fixture
def one_thread():
    """Where two windows chose one pixel, torch's threads would race."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "layer", "units"),
    [
        pytest.param("alexnet", "features.3", (0, 100), marks=pytest.mark.slow),
        pytest.param("alexnet", "features.8", (7,), marks=pytest.mark.slow),
        ("alexnet", "features.12", (3,)),
        ("alexnet", "classifier.1", (11,)),
        ("zfnet", "conv2", (5, 250)),
        ("zfnet", "conv5", (0,)),
        ("zfnet", "pool5", (9,)),
        ("vgg11", "features.8", (1, 200)),
        ("vgg11", "features.20", (17,)),
    ],
)
def test_deconvnet_projects_as_an_explicit_one_in_torch(name, layer, units, networks, one_thread):
    model, variables, chain, x = networks[name]
    for unit in units:
        expected = TorchDeconvnet(chain).project(torch.from_numpy(x), layer, unit)
        ours = visualize.deconvnet(model, variables, nhwc(x), layer, unit)
        assert expected[0].abs().max() > 0
        assert relative_error(ours.pixels, nhwc(expected[0].numpy())) <= TOLERANCE
        assert relative_error(ours.activation, expected[1]) <= TOLERANCE
        shape = visualize.layer_shapes(model, nhwc(x).shape)[layer]
        width = shape[2] if len(shape) == 4 else 1
        assert (np.asarray(ours.position) @ [width, 1] == expected[2].numpy()).all()


def test_biases_are_added_as_the_textbooks_do(networks, one_thread):
    model, variables, chain, x = networks["vgg11"]
    expected, *_ = TorchDeconvnet(chain, biases=True).project(torch.from_numpy(x), "features.8", 3)
    ours = visualize.deconvnet(model, variables, nhwc(x), "features.8", 3, biases=True)
    plain = visualize.deconvnet(model, variables, nhwc(x), "features.8", 3)
    assert relative_error(ours.pixels, nhwc(expected.numpy())) <= TOLERANCE
    assert relative_error(plain.pixels, nhwc(expected.numpy())) > 0.01


class ZFDeconvnet(nn.Module):
    """The deconvnet of ZFNet's third convolution, for images of 70x70 pixels."""

    @nn.compact
    def __call__(self, signal, switches):
        def transposed(channels, size, name, **window):
            return layers.ConvTranspose(channels, size, use_bias=False, name=name, **window)

        signal = transposed(256, 3, "conv3", padding=1)(signal)
        signal = nn.relu(layers.max_unpool(signal, switches["pool2"]["indices"], (7, 7)))
        signal = transposed(96, 5, "conv2", stride=2)(signal)
        signal = nn.relu(layers.max_unpool(signal, switches["pool1"]["indices"], (33, 33)))
        return transposed(3, 7, "conv1", stride=2, padding=1, output_padding=1)(signal)


def test_zfnets_switches_and_tied_kernels_give_the_same(networks):
    """A second network that is written out, as the paper draws it in figure 1."""
    model, variables, _, x = networks["zfnet"]
    x = nhwc(x)
    ours = visualize.deconvnet(model, variables, x, "conv3", 42)
    _, state = jit(lambda v, x: model.apply(v, x, mutable=["switches"]))(variables, x)
    shape = visualize.layer_shapes(model, x.shape)["conv3"]
    rows, columns = np.asarray(ours.position).T
    alone = jnp.zeros(shape).at[jnp.arange(2), rows, columns, 42].set(ours.activation)
    tied = {f"conv{n}": {"kernel": variables["params"][f"conv{n}"]["kernel"]} for n in (1, 2, 3)}
    expected = jit(ZFDeconvnet().apply)({"params": tied}, alone, state["switches"])
    assert relative_error(ours.pixels, expected) <= TOLERANCE


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_unpooling_puts_values_back_as_torch_does(ceil_mode, one_thread):
    x = torch.from_numpy(images(2, 3, 9, 12)).round()  # with ties
    window = {"kernel_size": 3, "stride": 2, "padding": 1}
    pooled, indices = F.max_pool2d(x, **window, return_indices=True, ceil_mode=ceil_mode)
    expected = F.max_unpool2d(pooled, indices, **window, output_size=x.shape)
    ours = layers.max_pool_switches(nhwc(x.numpy()), **window, ceil_mode=ceil_mode)
    assert (np.asarray(ours) == nhwc(indices.numpy())).all()
    back = layers.max_unpool(nhwc(pooled.numpy()), ours, (9, 12))
    assert (np.asarray(back) == nhwc(expected.numpy())).all()
