"""``models.summary`` and ``jaxcnn summary``."""

import json
import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest
import torchvision
from flax import linen as nn
from processes import ROOT
from receptive_field import measured_pixels
from smallest import smallest_of_families

from jaxcnn import cli, models
from jaxcnn.errors import UserError
from jaxcnn.models import receptive_fields
from jaxcnn.models.arithmetic import ReceptiveField
from jaxcnn.models.blocks import SqueezeExcitation
from jaxcnn.models.classifier import Classifier
from jaxcnn.models.convnext import ConvNeXt
from jaxcnn.models.densenet import DenseNet
from jaxcnn.models.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Lambda,
    Linear,
    MaxPool,
    adaptive_avg_pool,
    avg_pool,
    flatten,
    max_pool,
)
from jaxcnn.models.resnet import BasicBlock, ResNet
from jaxcnn.models.shufflenet_v2 import channel_shuffle

# --- receptive fields, measured


class Everything(Classifier):
    """Everything that makes receptive fields hard, for images of 48x93 pixels."""

    first_conv = "stem"
    classifier = ("fc",)
    paper = ""

    @nn.compact
    def forward(self, x, train=False):
        x = Conv(8, (5, 3), (1, 2), (2, 0), name="stem")(x)
        x = Lambda(partial(max_pool, kernel_size=2, stride=2, ceil_mode=True), name="ceil")(x)
        x = BatchNorm(name="norm")(x, train)
        # The shortcut skips every other pixel; the branch is dilated.
        shortcut = Conv(8, 1, 2, name="shortcut")(x)
        y = nn.relu(Conv(8, 3, 2, 2, dilation=2, name="dilated")(x))
        x = x_ = Lambda(nn.relu, name="sum")(y + shortcut)
        left, right = jnp.split(x, 2, axis=-1)
        right = Conv(4, 3, padding=1, groups=4, name="depthwise")(right)
        x = Lambda(partial(channel_shuffle, groups=2), name="shuffled")(
            jnp.concatenate((left, right), axis=-1)
        )
        pooled = Lambda(
            partial(avg_pool, kernel_size=3, stride=1, padding=1, count_include_pad=False),
            name="averaged",
        )(x)
        x = jnp.concatenate((pooled, x[:, :, :, :2], x_), axis=-1)
        x = Lambda(partial(adaptive_avg_pool, output_size=6), name="adaptive")(x)
        x = Conv(6, 2, padding=1, groups=2, name="grouped")(x)
        y = SqueezeExcitation(2, name="se")(x)
        y = Conv(6, 3, padding=1, name="after_se")(y)
        return Linear(self.num_classes, name="fc")(flatten(MaxPool(2, name="pool")(y)))


TINY = {
    "everything": (Everything(num_classes=3), (48, 93)),
    "convnext": (ConvNeXt((8,), (1,), num_classes=3), (48, 48)),
    "densenet": (DenseNet(8, (2, 1), 16, num_classes=3), (64, 64)),
    "regnet": (models.anynet(depths=(1, 1), widths=(16, 32), group_widths=(8, 8)), (64, 64)),
}
# Of some families, an image size (one that the network accepts, and of which its strides leave no
# rest: a unit at the border would see less) and, for much pooling, a number of images.
SIZES = {
    "alexnet": (127,),
    "alexnet_original": (131,),
    "googlenet_original": (96, 16),
    "inception_v3": (139,),
    "lenet5": (32,),
    "nin": (131, 32),
    "squeezenet1_1": (127,),
    "zfnet": (127,),
}


def assert_measured(model, size: tuple[int, int], layers: int, images: int = 4) -> None:
    """Compares some layers of all depths with what is measured."""
    table = models.summary(model, image_size=size, depth=None)
    rows = [row for row in table.rows if row.path and row.receptive_field]
    rows = rows[:: max(1, len(rows) // layers)]
    measured = measured_pixels(model, size, [row.path for row in rows], images)
    for row in rows:
        units = [n // 2 for n in row.output_shape[1:3]] if len(row.output_shape) == 4 else [0, 0]
        axes = zip(row.receptive_field, row.shared_field, units, size, strict=True)
        for pixels, (field, shared, unit, length) in zip(measured[row.path], axes, strict=True):
            expected = field.pixels(unit, length)
            if shared is not None:
                every = shared.pixels(0, length)
                expected = range(min(*expected, *every), max(*expected, *every) + 1)
            assert pixels == expected, row


@pytest.mark.parametrize("name", TINY)
def test_receptive_fields_are_where_the_gradient_is_not_zero(name):
    assert_measured(*TINY[name], layers=20)


@pytest.mark.slow
@pytest.mark.parametrize("name", smallest_of_families())
def test_receptive_fields_of_each_family_are_where_the_gradient_is_not_zero(name):
    size, *images = SIZES.get(name, (96,))
    assert_measured(models.create_model(name, num_classes=3), (size, size), 12, *images)


@pytest.mark.parametrize(("size", "cells"), [(10, 4), (7, 3), (5, 7), (13, 1)])
def test_adaptive_pooling_has_one_window_that_contains_all(size, cells):
    def pool(x):
        return adaptive_avg_pool(x, (cells, cells))

    jaxpr = jax.make_jaxpr(pool)(jnp.zeros((1, size, size, 1)))
    ((height, width),) = receptive_fields.receptive_fields(jaxpr, images=0)
    assert height.field == width.field
    for cell in range(cells):
        window = range(cell * size // cells, -(-(cell + 1) * size // cells))
        assert set(window) <= set(height.field.pixels(cell, size))
    if size % cells == 0:
        assert height.field.size == size // cells


def test_operations_that_are_unknown_count_as_seeing_everything():
    def flipped_and_sorted(x):
        return jnp.sort(x, axis=1), x[:, ::-1], jnp.cumsum(x, axis=2)

    jaxpr = jax.make_jaxpr(flipped_and_sorted)(jnp.zeros((1, 8, 6, 1)))
    for height, width in receptive_fields.receptive_fields(jaxpr, images=0):
        assert (height.local, height.shared) == (None, ReceptiveField(8, 0, 0))
        assert (width.local, width.shared) == (None, ReceptiveField(6, 0, 0))


def test_what_does_not_depend_on_the_image_sees_nothing():
    jaxpr = jax.make_jaxpr(lambda x: (x + 1, jnp.ones(3)))(jnp.zeros((1, 4, 4, 1)))
    views, nothing = receptive_fields.receptive_fields(jaxpr, images=0)
    assert nothing is None and views is not None


def test_no_network_has_an_operation_without_a_rule(monkeypatch):
    def unexpected(equation, *args):
        raise AssertionError(f"no rule for {equation.primitive}")

    monkeypatch.setattr(receptive_fields, "_everything", unexpected)
    for name in ("mobilenet_v3_small", "zfnet"):
        models.summary(name)
    for norm in ("group", "layer", "instance", "switchable"):
        models.summary(ResNet(BasicBlock, (1, 1, 1, 1), norm_layer=norm))


# --- the rows and the totals


def rows_of(table: models.Summary) -> dict[str, models.SummaryRow]:
    return {row.path: row for row in table.rows}


def test_rows_of_resnet18():
    table = models.summary("resnet18", batch_size=4)
    rows = rows_of(table)
    assert list(rows)[:6] == ["", "conv1", "bn1", "relu", "layer1", "layer1.0"]
    assert rows[""].output_shape == rows["fc"].output_shape == (4, 1000)
    conv = rows["conv1"]
    assert (conv.kind, conv.depth, conv.output_shape) == ("Conv", 1, (4, 112, 112, 64))
    assert (conv.kernel_size, conv.stride, conv.padding) == ((7, 7), (2, 2), (3, 3))
    assert (conv.dilation, conv.groups, conv.parameters) == ((1, 1), 1, 9408)
    assert conv.multiply_adds == 4 * 9408 * 112 * 112
    assert conv.receptive_field == (ReceptiveField(7, 2, -3),) * 2
    # The block of two convolutions of 3x3, after the pooling: its norms are counted in.
    assert rows["layer1.0"].parameters == 2 * (64 * 64 * 9 + 2 * 64)
    assert rows["layer4"].receptive_field == (ReceptiveField(435, 32, -217),) * 2
    assert rows["layer4"].shared_field == (None, None)
    assert rows["fc"].receptive_field[0] == ReceptiveField(435 + 6 * 32, 0, -217)


@pytest.mark.parametrize("depth", [0, 1, 2, 3, None])
def test_rows_add_up_at_any_depth(depth):
    table = models.summary("mobilenet_v3_small", depth=depth)
    deepest = max(row.depth for row in table.rows)
    assert deepest == (4 if depth is None else depth) or (depth is None and deepest >= 4)
    assert sum(row.parameters for row in table.rows) == table.parameters == 2_542_856
    assert sum(row.multiply_adds for row in table.rows) == table.multiply_adds == 56_510_400


def test_squeeze_and_excitation_sees_everything():
    rows = rows_of(models.summary("mobilenet_v3_small"))
    assert rows["features.0"].shared_field == (None, None)
    # The first with one, on a map of 56x56.
    assert rows["features.1"].receptive_field == (ReceptiveField(7, 4, -3),) * 2
    assert rows["features.1"].shared_field == (ReceptiveField(7 + 55 * 4, 0, -3),) * 2


def test_auxiliary_heads_run_in_training_only():
    table = models.summary("googlenet", depth=1)
    rows = rows_of(table)
    assert rows["aux1"].output_shape is None and rows["aux1"].receptive_field is None
    assert rows["aux1"].multiply_adds == 0 and rows["aux1"].parameters > 0
    assert table.training_only == rows["aux1"].parameters + rows["aux2"].parameters
    assert table.parameters - table.training_only == 6_624_904  # torchvision's without heads


def test_memory_is_that_of_training_with_momentum():
    table = models.summary(models.lenet5(), channels=1, batch_size=2, depth=1)
    floats = 61_706
    # Each convolution, its rectifier, and the pooling.
    maps = 2 * 6 * 28 * 28 + 6 * 14 * 14 + 2 * 16 * 10 * 10 + 16 * 5 * 5
    outputs = maps + 120 + 84 + 10
    memory = table.memory
    assert memory.parameters == memory.gradients == memory.optimizer == 4 * floats
    assert memory.activations == 2 * 4 * outputs
    assert memory.total == 3 * 4 * floats + 2 * 4 * outputs
    half = models.summary(models.lenet5(dtype=jnp.bfloat16), channels=1, batch_size=2)
    assert half.memory.parameters == memory.parameters
    assert half.memory.activations == memory.activations // 2
    # Running statistics of batch norms are not trained.
    norms = models.summary("resnet18").memory
    assert norms.parameters == norms.gradients + 4 * 2 * 4800


def test_transposed_convolution_costs_what_the_convolution_does():
    class Decoder(Classifier):
        classifier = ("up",)

        @nn.compact
        def forward(self, x, train=False):
            return ConvTranspose(6, 3, stride=2, groups=2, name="up")(x)

    (_, up) = models.summary(Decoder(), image_size=(5, 7), channels=4).rows
    assert up.output_shape == (1, 11, 15, 6)
    assert up.multiply_adds == 5 * 7 * 9 * 4 * 6 // 2
    assert up.receptive_field == (ReceptiveField(5, 0, 0), ReceptiveField(7, 0, 0))


def test_summary_makes_no_arrays():
    with jax.transfer_guard("disallow"):
        before = len(jax.live_arrays())
        models.summary("resnet18", image_size=10_000, batch_size=100_000)
        assert len(jax.live_arrays()) <= before + 1


@pytest.mark.slow
@pytest.mark.parametrize("name", models.list_models())
def test_multiply_adds_are_torchvisions_at_the_size_of_each_of_its_weights(name):
    try:
        published = torchvision.models.get_model_weights(name)
    except ValueError:
        pytest.skip("not torchvision's")
    for weights in published:
        table = models.summary(name, image_size=weights.transforms().crop_size[0], depth=0)
        assert round(table.multiply_adds / 1e9, 3) == weights.meta["_ops"], weights


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": "resnet5"}, "'resnet5'; did you mean 'resnet50'"),
        ({"model": "alexnet", "image_size": 40}, "40x40 pixels are too small .* from 63x63"),
        ({"model": "lenet5", "image_size": 0}, "image_size=0 must be at least 1"),
        ({"model": "lenet5", "batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"model": "lenet5", "channels": -3}, "channels=-3 must be at least 1"),
        ({"model": "lenet5", "depth": -1}, "depth=-1 must be at least 0"),
        ({"model": "lenet5", "wide": True}, "unexpected argument 'wide'"),
        ({"model": models.lenet5(), "num_classes": 3}, "num_classes cannot be changed"),
    ],
)
def test_invalid_arguments_raise(arguments, message):
    with pytest.raises(UserError, match=message):
        models.summary(**arguments)


# --- the command


LENET = """\
layer    kind      output            kernel  stride  padding  parameters  multiply-adds  field  jump  start
-----------------------------------------------------------------------------------------------------------
lenet5   LeNet5    2 x 10                                                                   32            0
  conv1  Conv      2 x 28 x 28 x 6        5       1        0         156        235,200      5     1      0
  relu1  relu      2 x 28 x 28 x 6                                                           5     1      0
  pool1  max_pool  2 x 14 x 14 x 6        2       2        0                                 6     2      0
  conv2  Conv      2 x 10 x 10 x 16       5       1        0       2,416        480,000     14     2      0
  relu2  relu      2 x 10 x 10 x 16                                                         14     2      0
  pool2  max_pool  2 x 5 x 5 x 16         2       2        0                                16     4      0
  fc1    Linear    2 x 120                                        48,120         96,000     32            0
  fc2    Linear    2 x 84                                         10,164         20,160     32            0
  fc3    Linear    2 x 10                                            850          1,680     32            0
-----------------------------------------------------------------------------------------------------------
input: 2 x 32 x 32 x 1
parameters: 61,706
multiply-adds: 833,040 (convolutions and dense layers)
memory of training with a batch of 2: 0.9 MB
  parameters 0.2 MB
  gradients 0.2 MB
  momentum of SGD 0.2 MB
  outputs of the layers 0.1 MB
"""  # noqa: E501


def test_command_prints_a_table(capsys):
    assert cli.main(["summary", "lenet5", "--channels", "1", "--batch_size", "2"]) == 0
    assert capsys.readouterr().out == LENET


def test_the_documentation_shows_what_the_command_prints(root, capsys):
    command = "summary resnet18 --depth 1 --batch_size 32"
    assert cli.main(command.split()) == 0
    text = (root / "docs" / "python.md").read_text()
    assert f"`jaxcnn {command}` prints\n\n```\n{capsys.readouterr().out}```\n" in text


def test_command_prints_json(capsys):
    assert cli.main(["summary", "lenet5", "--json", "--num_classes=7", "--image_size=40"]) == 0
    values = json.loads(capsys.readouterr().out)
    table = models.summary("lenet5", num_classes=7, image_size=40)
    assert values["parameters"] == table.parameters
    assert values["input_shape"] == [1, 40, 40, 3]
    assert [row["path"] for row in values["rows"]] == [row.path for row in table.rows]
    assert values["rows"][1]["receptive_field"][0] == {"size": 5, "jump": 1, "start": 0}
    assert values["memory"]["total"] == table.memory.total


def test_command_prints_markdown(capsys):
    assert cli.main(["summary", "lenet5", "--channels=1", "--depth=all", "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    columns = len(lines[0].split("|"))
    table = lines[: lines.index("")]
    assert all(len(line.split("|")) == columns for line in table) and len(table) == 12
    assert table[3].startswith("| `conv1` | Conv | 1 x 28 x 28 x 6 | 5 | 1 | 0 | 156 |")
    assert "* multiply-adds: 416,520 (convolutions and dense layers)" in lines


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet5"], "did you mean 'resnet50'"),
        (["alexnet", "--image_size=40"], "works from 63x63"),
        (["lenet5", "--num_classes=-1"], "num_classes=-1"),
    ],
)
def test_command_reports_mistakes_in_one_sentence(arguments, words, capsys):
    assert cli.main(["summary", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxcnn: ") and words in error and error.count("\n") == 1


def test_command_runs_as_a_process_without_tensorflow_or_torch():
    code = """
import sys
from jaxcnn.cli import main

status = main(["summary", "resnet50"])
heavy = {"matplotlib", "optax", "tensorflow", "torch"} & set(sys.modules)
sys.exit(f"{heavy} were imported" if heavy else status)
"""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
    ).stdout
    assert "multiply-adds: 4,089,184,256 " in out
