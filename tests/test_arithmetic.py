"""The arithmetic of convolutions against torch, and by definition."""

import doctest

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from jaxcnn.errors import UserError
from jaxcnn.models import arithmetic
from jaxcnn.models.arithmetic import ReceptiveField

sizes = st.integers(1, 30)
small = st.integers(1, 5)
paddings = st.integers(0, 4)


def same_size(ours, theirs) -> None:
    """Both give the same size, or both refuse."""
    try:
        expected = theirs().shape[-1]
    except RuntimeError:
        with pytest.raises(UserError):
            ours()
        return
    assert ours() == expected


def row(size: int) -> torch.Tensor:
    """An image of one row, without values."""
    return torch.empty(1, 1, 1, size, device="meta")


@given(sizes, small, small, paddings, small)
@settings(deadline=None, max_examples=150)
def test_conv_output_size_is_torchs(size, kernel, stride, padding, dilation):
    same_size(
        lambda: arithmetic.conv_output_size(size, kernel, stride, padding, dilation),
        lambda: F.conv2d(
            row(size), row(kernel), None, (1, stride), (0, padding), dilation=(1, dilation)
        ),
    )


@given(sizes, small, small, paddings, st.integers(0, 4), small)
@settings(deadline=None, max_examples=150)
def test_conv_transpose_output_size_is_torchs(
    size, kernel, stride, padding, output_padding, dilation
):
    output_padding = min(output_padding, max(stride, dilation) - 1)  # else torch refuses
    same_size(
        lambda: arithmetic.conv_transpose_output_size(
            size, kernel, stride, padding, output_padding, dilation
        ),
        lambda: F.conv_transpose2d(
            torch.empty(1, 1, 1, size),
            torch.empty(1, 1, 1, kernel),
            None,
            (1, stride),
            (0, padding),
            (0, output_padding),
            dilation=(1, dilation),
        ),
    )


@given(sizes, small, st.none() | small, paddings, small, st.booleans())
@settings(deadline=None, max_examples=200)
def test_pool_output_size_is_torchs(size, kernel, stride, padding, dilation, ceil_mode):
    padding = min(padding, kernel // 2)  # else torch refuses
    same_size(
        lambda: arithmetic.pool_output_size(size, kernel, stride, padding, dilation, ceil_mode),
        lambda: F.max_pool2d(
            row(size),
            (1, kernel),
            None if stride is None else (1, stride),
            (0, padding),
            (1, dilation),
            ceil_mode,
        ),
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("groups", "kernel"), [(1, 3), (2, (1, 5)), (4, (3, 2))])
def test_parameters_and_multiply_adds_of_convolutions_are_torchs(groups, kernel, bias):
    x = torch.zeros(1, 8, 9, 10)
    for kind in (torch.nn.Conv2d, torch.nn.ConvTranspose2d):
        module = kind(8, 12, kernel, stride=2, groups=groups, bias=bias)
        with FlopCounterMode(display=False) as counter:
            y = module(x)
        parameters = sum(p.numel() for p in module.parameters())
        assert arithmetic.conv_parameters(8, 12, kernel, groups, bias) == parameters
        size = tuple((y if kind is torch.nn.Conv2d else x).shape[2:])
        cost = arithmetic.conv_multiply_adds(8, 12, kernel, size, groups)
        assert 2 * cost == counter.get_total_flops()


@pytest.mark.parametrize("bias", [True, False])
def test_parameters_and_multiply_adds_of_dense_layers_are_torchs(bias):
    module = torch.nn.Linear(7, 5, bias=bias)
    with FlopCounterMode(display=False) as counter:
        module(torch.zeros(3, 7))
    parameters = sum(p.numel() for p in module.parameters())
    assert arithmetic.dense_parameters(7, 5, bias) == parameters
    assert 2 * arithmetic.dense_multiply_adds(7, 5, positions=3) == counter.get_total_flops()


@given(st.lists(st.tuples(small, small, paddings, small), max_size=4), st.integers(0, 3))
@settings(deadline=None, max_examples=50)
def test_receptive_field_is_what_the_windows_cover(layers, unit):
    """Followed down from a unit, window by window."""
    field, first, last = ReceptiveField(), unit, unit
    for layer in layers:
        field = field.through(*layer)
    for kernel, stride, padding, dilation in reversed(layers):
        first = first * stride - padding
        last = last * stride - padding + dilation * (kernel - 1)
    assert field.start + unit * field.jump == first
    assert field.size == last - first + 1
    assert field.pixels(unit, 20) == range(max(first, 0), min(last + 1, 20))


def test_receptive_field_of_all_units_and_of_branches():
    field = ReceptiveField().through(3, stride=2, padding=1)
    assert field.of_all(4) == ReceptiveField(size=9, jump=0, start=-1)  # -1 to 7
    assert field.union(ReceptiveField(1, 2, 4)) == ReceptiveField(6, 2, -1)
    with pytest.raises(ValueError, match="jumps 2 and 1"):
        field.union(ReceptiveField())


def test_receptive_field_of_vgg16_is_the_published():
    """Araujo et al. 2019: 212 pixels, stride 32, padding 90."""
    field = ReceptiveField()
    for convolutions in (2, 2, 3, 3, 3):
        for _ in range(convolutions):
            field = field.through(3, padding=1)
        field = field.through(2, stride=2)
    assert field == ReceptiveField(size=212, jump=32, start=-90)


def test_the_examples_are_right():
    results = doctest.testmod(arithmetic)
    assert results.attempted >= 4 and results.failed == 0
