"""Figures of what is inside a network, drawn with matplotlib.

Images are uint8 ``[H, W, 1 or 3]``; each function returns a ``matplotlib.figure.Figure``, which
:func:`jaxcnn.visualize.images.figure_png` renders.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxcnn.data.grid import as_pixels, filter_grid, image_grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DIVERGING, _SEQUENTIAL, _HEAT = "RdBu_r", "viridis", "inferno"
_GRAY = 128


def _figure(title: str, width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, parse_math=False)  # a name may have $
    return figure


def _axes(figure: "Figure", rows: int, columns: int) -> np.ndarray:
    """Axes ``[rows, columns]`` without frames and ticks."""
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    return axes


def _show(axis: "Axes", image: np.ndarray, title: str = "", **kwargs: Any) -> Any:
    """Show pixels, or a map ``[H, W]`` in colors; its pixels stay squares."""
    if image.ndim == 3 and image.shape[-1] == 1:
        image, kwargs = image[..., 0], {"cmap": "gray", "vmin": 0, "vmax": 255, **kwargs}
    axis.set_title(title, fontsize=9, parse_math=False)
    return axis.imshow(image, **kwargs)


def filters(kernel: np.ndarray, title: str) -> "Figure":
    """The filters of a convolution, each on a scale of its own.

    Args:
        kernel: ``[kh, kw, C, n]``; filters of 1 or 3 input channels are images, of others each has
            a row with an image for each channel.
        title: of the figure.
    """
    grid = filter_grid(kernel)
    height = 7 * grid.shape[0] / grid.shape[1]
    figure = _figure(title, 7, min(max(height, 2), 14) + 0.6)
    _show(_axes(figure, 1, 1)[0, 0], grid)
    return figure


def features(image: np.ndarray, maps: np.ndarray, units: Sequence[int], title: str) -> "Figure":
    """The maps of a layer's units beside the image.

    Args:
        image: what the network sees.
        maps: one for each unit, ``[U, H', W']``.
        units: their numbers.
        title: of the figure.
    """
    columns = min(len(maps), 6)
    rows = -(-len(maps) // columns)
    figure = _figure(title, 1.5 * columns + 3.2, max(1.6 * rows + 0.6, 3))
    left, right = figure.subfigures(1, 2, width_ratios=(2.6, 1.5 * columns))
    _show(_axes(left, 1, 1)[0, 0], image, "image")
    axes = _axes(right, rows, columns)
    low, high = float(maps.min()), float(maps.max())
    for axis, values, unit in zip(axes.flat, maps, units, strict=False):
        shown = _show(axis, values, f"unit {unit}", cmap=_SEQUENTIAL, vmin=low, vmax=high)
    right.colorbar(shown, ax=axes, label="activation", shrink=0.8)
    return figure


def projections(
    patches: Sequence[np.ndarray],
    pixels: Sequence[np.ndarray],
    units: Sequence[int],
    activations: np.ndarray,
    title: str,
) -> "Figure":
    """Figure 2 of Zeiler and Fergus 2013: projections beside the image patches they are of.

    Activations that are not positive are left out: the unit has found nothing there.

    Args:
        patches: of each unit, parts of images, the strongest activation first,
            ``[top, H, W, C]`` uint8.
        pixels: the projections of the same parts, floating.
        units: numbers of the units.
        activations: ``[U, top]``.
        title: of the figure.
    """
    columns = min(len(units), 3)
    rows = -(-len(units) // columns)
    figure = _figure(title, 4.2 * columns, 2.4 * rows + 0.6)
    axes = _axes(figure, rows, 2 * columns)
    for number, unit in enumerate(units):
        row, column = divmod(number, columns)
        left, right = axes[row, 2 * column : 2 * column + 2]
        active = activations[number] > 0
        if not active.any():
            left.set_title(f"unit {unit}: never active", fontsize=9)
            continue
        strongest = activations[number].max()
        _show(left, image_grid(as_pixels(pixels[number][active])), f"unit {unit}: projections")
        _show(right, image_grid(patches[number][active]), f"images, up to {strongest:.3g}")
    return figure


def patches_of(images: np.ndarray, boxes: np.ndarray, *, fill: float = _GRAY) -> np.ndarray:
    """Cut a box out of each image.

    Args:
        images: ``[N, H, W, C]``.
        boxes: top, left, height and width of each, ``[N, 4]``, all of one size; they may reach
            beyond the image.
        fill: value beyond the image.

    Returns:
        ``[N, height, width, C]``.
    """
    patches = []
    for image, (top, left, height, width) in zip(images, boxes, strict=True):
        reach = max(0, -top, -left, top + height - image.shape[0], left + width - image.shape[1])
        around = [(reach, reach), (reach, reach), (0, 0)]
        padded = np.pad(image, around, constant_values=np.asarray(fill, image.dtype))
        top, left = top + reach, left + reach
        patches.append(padded[top : top + height, left : left + width])
    return np.stack(patches)


def attributions(
    images: Sequence[np.ndarray],
    maps: Sequence[np.ndarray],
    names: Sequence[str],
    title: str,
    *,
    label: str,
    overlay: bool = False,
) -> "Figure":
    """A map beside each image, or laid over it.

    Args:
        images: what the network sees.
        maps: of each image, ``[H', W']`` of at least 0, or signed.
        names: of the images.
        title: of the figure.
        label: of the colors.
        overlay: whether to show the maps over the images, too.
    """
    pairs = 3 if overlay else 2
    columns = pairs * min(len(images), 2)
    rows = -(-len(images) * pairs // columns)
    figure = _figure(title, 2.4 * columns + 0.6, 2.5 * rows + 0.4)
    axes = _axes(figure, rows, columns).reshape(-1)
    for number, (image, values, name) in enumerate(zip(images, maps, names, strict=True)):
        signed = bool((values < 0).any())
        limit = float(np.abs(values).max()) or 1.0
        scale = {"cmap": _HEAT, "vmin": 0, "vmax": limit}
        if signed:
            scale = {"cmap": _DIVERGING, "vmin": -limit, "vmax": limit}
        own = axes[number * pairs : (number + 1) * pairs]
        _show(own[0], image, name)
        shown = _show(own[1], values, **scale)
        figure.colorbar(shown, ax=own[1], shrink=0.75, label=label, format="%.2g")
        if overlay:
            _show(own[2], image)
            extent = (-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5)
            own[2].imshow(values, alpha=0.5, extent=extent, interpolation="bilinear", **scale)
    return figure


def occlusion(
    image: np.ndarray,
    maps: Mapping[str, np.ndarray],
    classes: Sequence[str],
    label: str,
    size: int,
    title: str,
) -> "Figure":
    """Figure 7 of Zeiler and Fergus 2013: what changes when a square of the image is covered.

    Args:
        image: what the network sees.
        maps: of :func:`jaxcnn.visualize.occlusion`.
        classes: names of the network's classes.
        label: the class whose probability is mapped.
        size: of the square, in pixels.
        title: of the figure.
    """
    from matplotlib.patches import Rectangle

    figure = _figure(title, 13, 3.6)
    axes = _axes(figure, 1, 4)[0]
    _show(axes[0], image, f"image, and the square of {size} pixels")
    corner = [(length - size) / 2 - 0.5 for length in image.shape[:2]]
    axes[0].add_patch(Rectangle(corner[::-1], size, size, fill=False, edgecolor="red"))
    extent = occlusion_extent(maps, size)
    shown = _show(
        axes[1], maps["activation"], "strongest channel, summed", cmap=_SEQUENTIAL, extent=extent
    )
    figure.colorbar(shown, ax=axes[1], shrink=0.75)
    shown = _show(
        axes[2],
        maps["probability"],
        f"probability of {label}",
        cmap=_SEQUENTIAL,
        extent=extent,
        vmin=0,
        vmax=max(float(maps["probability"].max()), 1e-12),
    )
    figure.colorbar(shown, ax=axes[2], shrink=0.75)
    _show_classes(figure, axes[3], maps["prediction"], classes, extent)
    for axis in axes[1:]:
        axis.set_xlim(-0.5, image.shape[1] - 0.5)
        axis.set_ylim(image.shape[0] - 0.5, -0.5)
    return figure


def occlusion_extent(maps: Mapping[str, np.ndarray], size: int) -> tuple[float, ...]:
    """Left, right, bottom and top of the maps of an occlusion, in the pixels of its image.

    Each value is in the middle of the square that it is for, and as large as a move of it.

    Args:
        maps: of :func:`jaxcnn.visualize.occlusion`.
        size: of the square, in pixels.
    """
    sides = []
    for corners in (maps["left"], maps["top"]):
        move = corners[1] - corners[0] if len(corners) > 1 else size
        middles = corners + size / 2 - 0.5  # pixel i reaches from i - 0.5 to i + 0.5
        sides.append((float(middles[0] - move / 2), float(middles[-1] + move / 2)))
    (left, right), (top, bottom) = sides
    return left, right, bottom, top


def _show_classes(
    figure: "Figure",
    axis: "Axes",
    predictions: np.ndarray,
    classes: Sequence[str],
    extent: tuple[float, ...],
) -> None:
    """A map of classes, with the most frequent ones by name."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    numbers, counts = np.unique(predictions, return_counts=True)
    named = numbers[np.argsort(-counts, kind="stable")][:9]
    place = np.full(predictions.shape, len(named))
    for index, number in enumerate(named):
        place[predictions == number] = index
    colors = ListedColormap([*colormaps["Set1"].colors[:9][: len(named)], "lightgray"])
    _show(axis, place, "prediction", cmap=colors, extent=extent, vmin=0, vmax=len(named))
    legend = [
        Patch(color=colors(index), label=classes[number]) for index, number in enumerate(named)
    ]
    if len(numbers) > len(named):
        legend.append(Patch(color="lightgray", label="others"))
    drawn = axis.legend(
        handles=legend, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)


def maximal(images: Sequence[np.ndarray], names: Sequence[str], title: str) -> "Figure":
    """Images that excite units most.

    Args:
        images: ``[H, W, C]`` with values 0 to 1.
        names: of the units, or classes.
        title: of the figure.
    """
    columns = min(len(images), 4)
    rows = -(-len(images) // columns)
    figure = _figure(title, 2.4 * columns + 0.4, 2.7 * rows + 0.4)
    axes = _axes(figure, rows, columns)
    for axis, image, name in zip(axes.flat, images, names, strict=False):
        _show(axis, np.round(255 * image).astype(np.uint8), name)
    return figure
