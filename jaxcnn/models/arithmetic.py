"""The arithmetic of convolutions: output sizes, parameters, multiply-adds, receptive fields.

Sizes, kernels, strides, paddings and dilations have torch's meaning: padding is on both sides,
and the dilation is the distance of the kernel's places. A function of a size is about one axis,
height or width.

Sources: Dumoulin and Visin 2016, "A guide to convolution arithmetic for deep learning"; Araujo,
Norris and Sim 2019, "Computing receptive fields of convolutional neural networks".

Example::

    >>> from jaxcnn.models import arithmetic
    >>> arithmetic.conv_output_size(224, kernel_size=7, stride=2, padding=3)
    112
    >>> arithmetic.conv_parameters(3, 64, 7, bias=False)
    9408
    >>> field = arithmetic.ReceptiveField().through(7, stride=2, padding=3)  # ResNet's conv1
    >>> field.through(3, stride=2, padding=1)  # and its max pooling
    ReceptiveField(size=11, jump=4, start=-5)
"""

import dataclasses
import math

from jaxcnn.errors import UserError

Size = int | tuple[int, int]


def pair(value: Size) -> tuple[int, int]:
    """Height and width, from one number for both or a pair."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def window_size(kernel_size: int, dilation: int = 1) -> int:
    """The extent of a kernel: ``dilation * (kernel_size - 1) + 1`` pixels."""
    return dilation * (kernel_size - 1) + 1


def conv_output_size(
    size: int, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1
) -> int:
    """The output size of a convolution, or of pooling without ``ceil_mode``.

    ``floor((size + 2 * padding - dilation * (kernel_size - 1) - 1) / stride) + 1``, as in
    ``torch.nn.Conv2d``.

    Raises:
        UserError: if the window does not fit into the padded input.
    """
    window = window_size(kernel_size, dilation)
    _check_fits(window, size, padding)
    return (size + 2 * padding - window) // stride + 1


def conv_transpose_output_size(
    size: int,
    kernel_size: int,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    dilation: int = 1,
) -> int:
    """The output size of a transposed convolution.

    ``(size - 1) * stride - 2 * padding + dilation * (kernel_size - 1) + output_padding + 1``, as in
    ``torch.nn.ConvTranspose2d``. ``output_padding`` chooses between the ``stride`` input sizes for
    which the convolution of the same arguments has ``size`` outputs.

    Raises:
        UserError: if the padding removes the whole output.
    """
    window = window_size(kernel_size, dilation)
    output = (size - 1) * stride - 2 * padding + window + output_padding
    if output < 1:
        raise UserError(
            f"A transposed convolution of {size} pixels with a window of {window} and a stride of "
            f"{stride} has no output left with padding={padding}; use less padding."
        )
    return output


def pool_output_size(
    size: int,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
) -> int:
    """The output size of max or average pooling, as in ``torch.nn.MaxPool2d``.

    With ``ceil_mode`` a last window may extend beyond the padding, if it starts inside the input
    or the padding before it.

    Args:
        size: of the input, in pixels.
        kernel_size: of the window.
        stride: None: the kernel size.
        padding: on both sides.
        dilation: distance of the window's places.
        ceil_mode: whether to round up instead of down.

    Raises:
        UserError: if the window does not fit into the padded input.
    """
    stride = kernel_size if stride is None else stride
    if not ceil_mode:
        return conv_output_size(size, kernel_size, stride, padding, dilation)
    window = window_size(kernel_size, dilation)
    _check_fits(window, size, padding, overhang=stride - 1)
    output = math.ceil((size + 2 * padding - window) / stride) + 1
    return output - 1 if (output - 1) * stride >= size + padding else output


def _check_fits(window: int, size: int, padding: int, overhang: int = 0) -> None:
    if size < 1 or window > size + 2 * padding + overhang:
        raise UserError(
            f"A window of {window} pixels does not fit into {size} with padding={padding}; use a "
            "larger input, more padding or a smaller kernel."
        )


def conv_parameters(
    in_channels: int, out_channels: int, kernel_size: Size, groups: int = 1, bias: bool = True
) -> int:
    """Number of parameters of a convolution, transposed or not."""
    weights = math.prod(pair(kernel_size)) * in_channels * out_channels // groups
    return weights + (out_channels if bias else 0)


def dense_parameters(in_features: int, out_features: int, bias: bool = True) -> int:
    """Number of parameters of a dense layer."""
    return in_features * out_features + (out_features if bias else 0)


def conv_multiply_adds(
    in_channels: int, out_channels: int, kernel_size: Size, output_size: Size, groups: int = 1
) -> int:
    """Multiply-adds of a convolution of one image; the bias's additions are not counted.

    Each output value takes one for each place of the kernel and each channel of its group, in the
    padding too. For a transposed convolution, give its input size as ``output_size``: it costs
    what the convolution costs whose gradient it is.
    """
    weights = conv_parameters(in_channels, out_channels, kernel_size, groups, bias=False)
    return weights * math.prod(pair(output_size))


def dense_multiply_adds(in_features: int, out_features: int, positions: int = 1) -> int:
    """Multiply-adds of a dense layer, applied at a number of positions."""
    return in_features * out_features * positions


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """What the units of a feature map see of the image, along one axis.

    Unit ``i`` sees the pixels from ``start + i * jump`` to ``start + i * jump + size - 1``, of
    which those below 0 and beyond the image are padding. The image itself is
    ``ReceptiveField(1, 1, 0)``.

    Attributes:
        size: number of pixels, including padding and, with dilation, the pixels between those that
            matter.
        jump: distance, in pixels, between the fields of two adjacent units: the product of the
            strides so far. 0: all units see the same pixels, as after global pooling.
        start: first pixel that unit 0 sees. Its negative is the effective padding.
    """

    size: int = 1
    jump: int = 1
    start: int = 0

    def through(
        self, kernel_size: int, stride: int = 1, padding: int = 0, dilation: int = 1
    ) -> "ReceptiveField":
        """The field after one more convolution or pooling.

        Args:
            kernel_size: of the layer.
            stride: of the layer.
            padding: before the first pixel; that after the last one does not matter.
            dilation: of the layer.
        """
        return ReceptiveField(
            self.size + (window_size(kernel_size, dilation) - 1) * self.jump,
            self.jump * stride,
            self.start - padding * self.jump,
        )

    def of_all(self, units: int) -> "ReceptiveField":
        """What a number of adjacent units see together: the field of their mean, for example."""
        return ReceptiveField(self.size + (units - 1) * self.jump, 0, self.start)

    def union(self, other: "ReceptiveField") -> "ReceptiveField":
        """The smallest field that contains both, as after adding or concatenating two branches.

        Raises:
            ValueError: if the jumps differ.
        """
        if self.jump != other.jump:
            raise ValueError(f"jumps {self.jump} and {other.jump} differ")
        start = min(self.start, other.start)
        end = max(self.start + self.size, other.start + other.size)
        return ReceptiveField(end - start, self.jump, start)

    def pixels(self, unit: int, image_size: int) -> range:
        """The pixels of an image that a unit sees, without the padding."""
        first = self.start + unit * self.jump
        return range(max(first, 0), min(first + self.size, image_size))
