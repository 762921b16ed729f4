"""The forms in which textbooks write the classic networks, against definitions in torch.

The definitions are those of Zhang, Lipton, Li and Smola, "Dive into deep learning" (chapter 8),
but for ZFNet. Dropout, which follows torch's random numbers there, is left out.
"""

import itertools
import re

import jax
import jax.numpy as jnp
import pytest
import torch
import torchvision
from compare import images, worst_logits_error
from torch import nn

from jaxcnn import convert, models
from jaxcnn.errors import UserError
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.resnet import Bottleneck
from jaxcnn.testing import randomize
from jaxcnn.testing.arrays import LOGITS
from jaxcnn.testing.compiling import jit

CLASSES = 5


def named(**layers: nn.Module) -> nn.Sequential:
    """A chain whose layers have names."""
    chain = nn.Sequential()
    for name, layer in layers.items():
        chain.add_module(name, layer)
    return chain


def assert_same_logits(
    model: Classifier,
    module: nn.Module,
    shape: tuple[int, ...],
    names: dict[str, str] | None = None,
    norms_of_branch: str = r"$^()",
) -> None:
    """Compare both modes on random weights.

    Args:
        model: ours, in float64.
        module: torch's.
        shape: of the images, ``[N, C, H, W]``.
        names: patterns in torch's names, with what our names have in their place.
        norms_of_branch: see :func:`compare.randomize`.
    """
    randomize(module.double(), seed=0, norms_of_branch=norms_of_branch)
    model = model.clone(input_size=shape[2])

    def renamed(name: str) -> str:
        for pattern, replacement in (names or {}).items():
            name = re.sub(pattern, replacement, name)
        return name

    state = {renamed(name): value for name, value in module.state_dict().items()}
    variables = convert.from_torch(state, model)
    x = images(*shape)
    for train in (False, True):
        assert worst_logits_error(model, variables, module, x, train=train) <= LOGITS


def create_model(name: str, **kwargs) -> Classifier:
    return models.create_model(name, num_classes=CLASSES, param_dtype=jnp.float64, **kwargs)


def torch_alexnet(widths, channels: int, padding: int, size: int) -> nn.Module:
    c1, c2, c3, c4, c5 = widths
    return named(
        conv1=nn.Conv2d(channels, c1, 11, stride=4, padding=padding),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(3, stride=2),
        conv2=nn.Conv2d(c1, c2, 5, padding=2),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(3, stride=2),
        conv3=nn.Conv2d(c2, c3, 3, padding=1),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(c3, c4, 3, padding=1),
        relu4=nn.ReLU(),
        conv5=nn.Conv2d(c4, c5, 3, padding=1),
        relu5=nn.ReLU(),
        pool5=nn.MaxPool2d(3, stride=2),
        flatten=nn.Flatten(),
        fc6=nn.Linear(c5 * size**2, 4096),
        relu6=nn.ReLU(),
        fc7=nn.Linear(4096, 4096),
        relu7=nn.ReLU(),
        fc8=nn.Linear(4096, CLASSES),
    )


# The first padding decides the smallest images: their last map is a single pixel.
@pytest.mark.parametrize(
    ("widths", "channels", "padding", "pixels"),
    [
        ((96, 256, 384, 384, 384), 3, 0, 67),
        ((96, 256, 384, 384, 256), 1, 1, 65),
        pytest.param((96, 256, 384, 384, 384), 1, 1, 65, marks=pytest.mark.slow),
        pytest.param((96, 256, 384, 384, 256), 3, 2, 63, marks=pytest.mark.slow),
    ],
)
def test_alexnet(widths, channels, padding, pixels):
    model = create_model(
        "alexnet_original",
        widths=widths,
        first_padding=padding,
        two_columns=False,
        local_response_norm=False,
        dropout=0.0,
    )
    module = torch_alexnet(widths, channels, padding, size=1)
    assert_same_logits(model, module, (2, channels, pixels, pixels))


def test_alexnet_with_xavier_weights_and_biases_of_zero():
    form = {"weight_init": "xavier_uniform", "initial_bias": 0.0}
    model = models.alexnet_original(num_classes=10, two_columns=False, first_padding=1, **form)
    x = jnp.zeros((1, 65, 65, 1), jnp.float32)
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6")  # fc7 takes seconds

    @jit
    def init(key):
        params = model.init(key, x)["params"]
        return {name: params[name] for name in layers}

    params = init(jax.random.key(0))
    module = torch_alexnet((96, 256, 384, 384, 256), 1, 1, size=1)
    for name in layers:
        reference = nn.init.xavier_uniform_(getattr(module, name).weight).detach()
        kernel = params[name]["kernel"]
        assert abs(kernel).max() == pytest.approx(reference.abs().max().item(), rel=0.01)
        assert kernel.std() == pytest.approx(reference.std().item(), rel=0.02)
        assert not params[name]["bias"].any()


def torch_zfnet(norm: nn.Module) -> nn.Module:
    return named(
        conv1=nn.Conv2d(3, 96, 7, stride=2, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(3, stride=2, padding=1),
        norm1=norm,
        conv2=nn.Conv2d(96, 256, 5, stride=2),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(3, stride=2, padding=1),
        norm2=norm,
        conv3=nn.Conv2d(256, 384, 3, padding=1),
        relu3=nn.ReLU(),
        conv4=nn.Conv2d(384, 384, 3, padding=1),
        relu4=nn.ReLU(),
        conv5=nn.Conv2d(384, 256, 3, padding=1),
        relu5=nn.ReLU(),
        pool5=nn.MaxPool2d(3, stride=2),
        flatten=nn.Flatten(),
        fc6=nn.Linear(256, 4096),
        relu6=nn.ReLU(),
        fc7=nn.Linear(4096, 4096),
        relu7=nn.ReLU(),
        fc8=nn.Linear(4096, CLASSES),
    )


@pytest.mark.parametrize(
    ("form", "norm"),
    [
        ({"local_response_norm": False}, nn.Identity()),
        (
            {"lrn_size": 8, "lrn_alpha": 2.0, "lrn_beta": 0.5, "lrn_k": 1},
            nn.LocalResponseNorm(8, alpha=2.0, beta=0.5, k=1),
        ),
        ({"lrn_size": 300}, nn.LocalResponseNorm(300, alpha=1e-4, beta=0.75, k=2)),  # all channels
    ],
    ids=["without normalization", "eight channels", "all channels"],
)
def test_zfnet(form, norm):
    model = create_model("zfnet", dropout=0.0, **form)
    assert_same_logits(model, torch_zfnet(norm), (2, 3, 53, 53))


def test_equal_filters_of_zfnet_stay_equal():
    """The docs warn of it: with biases of zero too, a constant initial weight is no start."""
    model = models.zfnet(weight_init=0.01, local_response_norm=False, dropout=0.0)
    x = jnp.asarray(images(1, 53, 53, 3), jnp.float32)
    variables = jit(model.init)(jax.random.key(0), x)
    for layer in variables["params"].values():
        assert (layer["kernel"] == 0.01).all()
        assert not layer["bias"].any()

    def logit(conv1, others):
        return model.apply({"params": {**others, "conv1": conv1}}, x)[0, 0]

    gradient = jit(jax.grad(logit))(variables["params"]["conv1"], variables["params"])["kernel"]
    assert abs(gradient).max() > 0
    assert abs(gradient - gradient[..., :1]).max() <= 1e-5 * abs(gradient).max()


def vgg_block(convolutions: int, inputs: int, channels: int) -> list[nn.Module]:
    first, *rest = (
        [nn.Conv2d(width, channels, 3, padding=1), nn.ReLU()]
        for width in (inputs, *[channels] * (convolutions - 1))
    )
    return [*first, *itertools.chain(*rest), nn.MaxPool2d(2)]


def test_vgg_from_tuples():
    blocks = ((2, 8), (1, 12))
    # The book flattens the last map, which 28x28 pixels make 7x7: torchvision's pooling keeps it.
    inputs = (1, *(channels for _, channels in blocks))
    features = [vgg_block(n, before, c) for (n, c), before in zip(blocks, inputs, strict=False)]
    module = named(
        features=nn.Sequential(*itertools.chain(*features)),
        flatten=nn.Flatten(),
        classifier=nn.Sequential(
            *(nn.Linear(blocks[-1][1] * 7 * 7, 4096), nn.ReLU(), nn.Identity()),
            *(nn.Linear(4096, 4096), nn.ReLU(), nn.Identity()),
            nn.Linear(4096, CLASSES),
        ),
    )
    model = create_model("vgg", blocks=blocks, dropout=0.0)
    assert_same_logits(model, module, (2, 1, 28, 28))


class ResNeXtBlock(nn.Module):
    """A residual bottleneck, grouped, whose convolutions have biases.

    Without a stride the shortcut is the identity.
    """

    def __init__(self, inputs: int, bottleneck: int, width: int, groups: int, stride: int = 0):
        super().__init__()
        self.branch = nn.Sequential(
            *(nn.Conv2d(inputs, bottleneck, 1), nn.BatchNorm2d(bottleneck), nn.ReLU()),
            nn.Conv2d(bottleneck, bottleneck, 3, max(stride, 1), padding=1, groups=groups),
            *(nn.BatchNorm2d(bottleneck), nn.ReLU()),
            *(nn.Conv2d(bottleneck, width, 1), nn.BatchNorm2d(width)),
        )
        self.shortcut = nn.Sequential()
        if stride:
            self.shortcut.append(nn.Conv2d(inputs, width, 1, stride))
            self.shortcut.append(nn.BatchNorm2d(width))

    def forward(self, x):
        return (self.branch(x) + self.shortcut(x)).relu()


# The branch's layers in our ResNets and AnyNets.
RESNET = {"0": "conv1", "1": "bn1", "3": "conv2", "4": "bn2", "6": "conv3", "7": "bn3"}
ANYNET = {"0": "f.a.0", "1": "f.a.1", "3": "f.b.0", "4": "f.b.1", "6": "f.c.0", "7": "f.c.1"}


def test_resnet_with_biases():
    def stage(inputs: int, planes: int, stride: int) -> nn.Sequential:
        return nn.Sequential(ResNeXtBlock(inputs, planes, 4 * planes, 8, stride))

    module = named(
        conv1=nn.Conv2d(1, 64, 7, stride=2, padding=3),
        bn1=nn.BatchNorm2d(64),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(3, stride=2, padding=1),
        layer1=nn.Sequential(*stage(64, 64, 1), ResNeXtBlock(256, 64, 256, 8)),
        layer2=stage(256, 128, 2),
        layer3=stage(512, 256, 2),
        layer4=stage(1024, 512, 2),
        average=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(2048, CLASSES),
    )
    model = models.ResNet(
        block=Bottleneck,
        layers=(2, 1, 1, 1),
        groups=8,
        width_per_group=8,
        conv_bias=True,
        num_classes=CLASSES,
        param_dtype=jnp.float64,
    )
    names = {rf"branch\.{i}": name for i, name in RESNET.items()} | {"shortcut": "downsample"}
    assert_same_logits(model, module, (4, 1, 48, 48), names, r"(.*)\.branch\.\d$")


@pytest.mark.slow
def test_resnet18_with_biases():
    """Basic blocks have them too: ours are torchvision's, given biases that are not zero."""
    module = torchvision.models.resnet18(num_classes=CLASSES)
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
    model = create_model("resnet18", conv_bias=True)
    assert_same_logits(model, module, (2, 3, 65, 65), norms_of_branch=r"(layer\d\.\d)\.bn\d$")


def test_anynet_with_biases():
    """The book's RegNet (section 8.8) with fewer blocks."""
    module = named(
        stem=nn.Sequential(nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU()),
        stage1=nn.Sequential(ResNeXtBlock(32, 32, 32, 2, 2), ResNeXtBlock(32, 32, 32, 2)),
        stage2=nn.Sequential(ResNeXtBlock(32, 80, 80, 5, 2)),
        average=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        fc=nn.Linear(80, CLASSES),
    )
    model = create_model(
        "anynet", depths=(2, 1), widths=(32, 80), group_widths=(16, 16), conv_bias=True
    )
    names = {rf"branch\.{i}": name for i, name in ANYNET.items()} | {
        "shortcut": "proj",
        r"stage(\d)\.(\d)": r"trunk_output.block\1.block\1-\2",
    }
    assert_same_logits(model, module, (4, 1, 28, 28), names, r"(.*)\.branch\.\d$")


@pytest.mark.parametrize(
    ("name", "argument", "value", "words"),
    [
        ("alexnet_original", "widths", (96, 256), "not five positive integers"),
        ("alexnet_original", "widths", (96, 256, 384, 384, 0), "not five positive integers"),
        ("alexnet_original", "widths", 96, "not five positive integers"),
        ("alexnet_original", "first_padding", -1, "at least 0"),
        ("alexnet_original", "first_padding", 0.5, "at least 0"),
        ("alexnet_original", "initial_bias", "zero", "is not a number"),
        ("alexnet_original", "initial_bias", float("nan"), "is not a number"),
        ("zfnet", "lrn_size", 0, "positive integer"),
        ("zfnet", "lrn_size", 2.5, "positive integer"),
        ("zfnet", "lrn_alpha", -1e-4, "at least 0"),
        ("zfnet", "lrn_beta", "0.75", "at least 0"),
        ("zfnet", "lrn_k", 0, "at least 1e-06; use, for example, 2.0"),
    ],
)
def test_invalid_arguments_are_refused(name, argument, value, words):
    with pytest.raises(UserError, match=rf"{argument}\b.*{words}.*"):
        models.create_model(name, **{argument: value})


def test_convolution_of_two_columns_needs_even_widths():
    model = models.alexnet_original(widths=(96, 255, 384, 384, 256))
    with pytest.raises(UserError, match="'conv2' cannot split 96 input and 255 output channels"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 67, 67, 3)))
