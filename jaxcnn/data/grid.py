"""Many small images as one, and the filters of a layer as images."""

import math

import numpy as np

_WHITE = 255


def image_grid(
    images: np.ndarray, columns: int | None = None, *, padding: int = 2, scale: int = 1
) -> np.ndarray:
    """Put images beside and below one another, on white.

    Args:
        images: ``[N, H, W, C]`` uint8, at least one.
        columns: how many there are in a row; None: about as many as there are rows.
        padding: pixels around each image.
        scale: what height and width of each image are multiplied by.

    Returns:
        ``[rows * (H * scale + padding) + padding, columns * (W * scale + padding) + padding, C]``
        uint8.

    Example:
        >>> image_grid(np.zeros((6, 8, 8, 3), np.uint8), columns=3).shape
        (22, 32, 3)
    """
    count, height, width, channels = images.shape
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = -(-count // columns)
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    height, width = height * scale + padding, width * scale + padding
    grid = np.full((rows * height + padding, columns * width + padding, channels), _WHITE, np.uint8)
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        top, left = row * height + padding, column * width + padding
        grid[top : top + image.shape[0], left : left + image.shape[1]] = image
    return grid


def as_pixels(values: np.ndarray) -> np.ndarray:
    """Show signed values ``[N, H, W, C]`` as uint8 images: zero is mid-gray.

    The contrast of each image is its own: the largest value, of either sign, is black or white.
    """
    largest = np.abs(values).max(axis=(1, 2, 3), keepdims=True)
    levels = np.round(127.5 + 127.5 * values / np.where(largest > 0, largest, 1))
    return levels.astype(np.uint8)


def filter_grid(
    kernel: np.ndarray, columns: int | None = None, *, tile: int = 48, padding: int = 2
) -> np.ndarray:
    """Show the filters of a convolution as images.

    Each filter has a scale of its own: zero is mid-gray, and its largest weight, of either sign,
    black or white. Filters of three input channels are in color. Those of one are gray; so are
    those of other numbers of channels, which have a row for each filter with an image for each
    channel.

    Args:
        kernel: ``[kh, kw, C, n]``, floating.
        columns: filters in a row; see :func:`image_grid`.
        tile: about how many pixels high and wide a filter is shown.
        padding: pixels around each filter.

    Returns:
        ``[height, width, 3]`` uint8, or ``[height, width, 1]`` where it is gray.
    """
    height, width, channels, _ = kernel.shape
    images = as_pixels(np.moveaxis(np.asarray(kernel, np.float32), -1, 0))
    if channels not in (1, 3):
        images = np.moveaxis(images, -1, 1).reshape(-1, height, width, 1)
        columns = channels
    scale = max(1, round(tile / max(height, width)))
    return image_grid(images, columns, padding=padding, scale=scale)
