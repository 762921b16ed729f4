"""Pictures of training runs: curves, confusions, mistakes.

They are drawn by matplotlib's objects, without pyplot and its global state, and are plain data in
and figures out: :mod:`jaxcnn.cli.report` reads the runs.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CONFUSION_CLASSES = 100
# More do not fit: of so many classes cells have no counts, and of so many axes have no names.
_MAX_COUNTED, _MAX_NAMED = 20, 60

# Okabe and Ito's colors, which people with any color vision tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
# The splits of metrics.jsonl, by how they are drawn.
_SPLITS = {
    "train": {"linestyle": "-", "linewidth": 1.1, "alpha": 0.65},
    "eval": {"linestyle": "-", "linewidth": 2.0, "marker": "o", "markersize": 3.5},
    "eval_ema": {"linestyle": "--", "linewidth": 1.6, "marker": "s", "markersize": 3},
}
_NAMES = {"train": "training", "eval": "evaluation", "eval_ema": "evaluation of the average"}


def curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], title: str = "") -> "Figure":
    """Draw loss, top-1 accuracy and learning rate by epoch.

    Args:
        runs: the lines of each run's ``metrics.jsonl``, by its name. A single run has a color
            for each split; of several, each run has one.
        title: above the panels.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    panels = (("loss", "loss"), ("top1", "top-1 accuracy"), ("learning_rate", "learning rate"))
    figure = Figure(figsize=(12.5, 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels))
    single = len(runs) == 1
    splits = [
        split
        for split in _SPLITS
        if any(line["split"] == split for lines in runs.values() for line in lines)
    ]
    for ax, (key, label) in zip(axes, panels, strict=True):
        for number, lines in enumerate(runs.values()):
            for split in splits:
                points = [
                    (line["epoch"], line[key])
                    for line in lines
                    if line["split"] == split and key in line and "epoch" in line
                ]
                if points:
                    color = splits.index(split) if single else number
                    style = _SPLITS[split] | {"color": COLORS[color % len(COLORS)]}
                    if not single and split == "train":
                        style |= {"linestyle": ":", "alpha": 0.9}
                    if key == "learning_rate":
                        style |= {"linestyle": "-", "linewidth": 1.6, "alpha": 1}
                    if len(points) == 1:  # no line
                        style |= {"marker": "o"}
                    ax.plot(*zip(*points, strict=True), **style)
        ax.set_title(label, fontsize=11)
        ax.set_xlabel("epoch")
        ax.grid(color="#dddddd", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_xlim(left=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0].set_ylim(bottom=0)
    axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    axes[2].set_ylim(bottom=0)

    handles = []
    for number, name in enumerate(runs):
        if not single:
            color = COLORS[number % len(COLORS)]
            handles.append(Line2D([], [], color=color, linewidth=3, label=_shortened(name, 40)))
    for number, split in enumerate(splits):
        color = COLORS[number] if single else "#555555"
        style = _SPLITS[split] | {"color": color}
        if not single and split == "train":
            style |= {"linestyle": ":"}
        handles.append(Line2D([], [], label=_NAMES[split], **style))
    if handles:
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=min(4, len(handles)), frameon=False
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", parse_math=False)
    return figure


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> np.ndarray:
    """Count the examples by label (rows) and prediction (columns), ``[num_classes]`` squared."""
    counts = np.bincount(labels * num_classes + predictions, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def confusion(
    labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str], title: str = ""
) -> "Figure":
    """Draw the confusion matrix of up to :data:`MAX_CONFUSION_CLASSES` classes.

    Args:
        labels: ``[N]``, integers.
        predictions: ``[N]``, likewise.
        classes: their names.
        title: above the picture.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    count = len(classes)
    counts = confusion_matrix(labels, predictions, count)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(0.5 * count, 4), 10.5)
    figure = Figure(figsize=(side + 1.6, side + 0.6), layout="constrained")
    ax = figure.subplots()
    # Not linear, or single mistakes would be as white as none.
    image = ax.imshow(fractions, cmap="Blues", norm=PowerNorm(0.4, 0, 1), interpolation="nearest")
    bar = figure.colorbar(image, ax=ax, shrink=0.8, pad=0.02, ticks=[0, 0.01, 0.05, 0.2, 0.5, 1])
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bar.set_label("of the examples of the true class")
    bar.outline.set_visible(False)
    if count <= _MAX_NAMED:
        names = [_shortened(name, 18) for name in classes]
        size = 10 if count <= _MAX_COUNTED else 7
        slanted = max(map(len, names)) > 3
        rotation = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
        ax.set_xticks(range(count), names, fontsize=size, parse_math=False, **rotation)
        ax.set_yticks(range(count), names, fontsize=size, parse_math=False)
    ax.tick_params(length=0 if count <= _MAX_NAMED else 3)
    ax.set_xlabel("predicted class")
    ax.set_ylabel("true class")
    ax.spines[:].set_visible(False)
    edges = np.arange(count + 1) - 0.5
    ax.set_xticks(edges, minor=True)
    ax.set_yticks(edges, minor=True)
    ax.grid(which="minor", color="#eeeeee", linewidth=0.5)
    ax.tick_params(which="minor", length=0)
    if count <= _MAX_COUNTED:
        for (row, column), number in np.ndenumerate(counts):
            if number:
                color = "white" if fractions[row, column] > 0.25 else "#222222"
                ax.text(column, row, f"{number}", ha="center", va="center", color=color, size=9)
    if title:
        ax.set_title(title, fontsize=12, fontweight="bold", parse_math=False)
    return figure


class Confusion(NamedTuple):
    """A pair of classes that were confused.

    Attributes:
        label: the true class.
        prediction: the other one.
        count: how many examples of it were predicted so.
        fraction: of the examples of the true class.
    """

    label: str
    prediction: str
    count: int
    fraction: float


def worst_confusions(
    labels: np.ndarray, predictions: np.ndarray, classes: Sequence[str], count: int = 20
) -> list[Confusion]:
    """The pairs of classes that were confused most often, the most frequent first.

    Args:
        labels: ``[N]``, integers.
        predictions: ``[N]``, likewise.
        classes: their names.
        count: of pairs, at most.
    """
    pairs = np.stack([labels, predictions], axis=1)[labels != predictions]
    distinct, numbers = np.unique(pairs, axis=0, return_counts=True)
    sizes = np.bincount(labels, minlength=len(classes))
    order = np.argsort(-numbers, kind="stable")[:count]
    return [
        Confusion(classes[label], classes[prediction], int(number), float(number / sizes[label]))
        for (label, prediction), number in zip(distinct[order], numbers[order], strict=True)
    ]


def confusion_text(confusions: Sequence[Confusion]) -> str:
    """A table of confusions as plain text."""
    rows = [("examples", "of the class", "true class", "predicted class")]
    rows += [
        (str(pair.count), f"{pair.fraction:.1%}", pair.label, pair.prediction)
        for pair in confusions
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{a:>{widths[0]}}  {b:>{widths[1]}}  {c:{widths[2]}}  {d}".rstrip() for a, b, c, d in rows
    ]
    return "\n".join(lines) + "\n"


def mistakes(
    images: np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    confidences: np.ndarray,
    classes: Sequence[str],
    title: str = "",
) -> "Figure":
    """Draw wrongly classified images with their labels and predictions.

    Args:
        images: ``[M, H, W, C]`` uint8, at least one.
        labels: ``[M]``, integers.
        predictions: ``[M]``, likewise.
        confidences: the probabilities of the predictions, ``[M]``.
        classes: their names.
        title: above the picture.
    """
    from matplotlib.figure import Figure

    columns = min(8, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(max(1.5 * columns, 5), 2.0 * rows + 0.5), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.set_axis_off()
    for ax, image, label, prediction, confidence in zip(
        axes, images, labels, predictions, confidences, strict=False
    ):
        gray = image.shape[-1] == 1
        ax.imshow(
            image[..., 0] if gray else image,
            cmap="gray" if gray else None,
            vmin=0,
            vmax=255,
            interpolation="nearest" if max(image.shape) < 100 else "antialiased",
        )
        middle = {"x": 0.5, "transform": ax.transAxes, "ha": "center", "parse_math": False}
        _text(ax, middle, 1.17, f"{_shortened(classes[label], 19)}", "#222222")
        wrong = f"{_shortened(classes[prediction], 14)} {confidence:.0%}"
        _text(ax, middle, 1.03, wrong, COLORS[1])
    if title:
        figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    return figure


def _text(ax: "Axes", where: Mapping[str, Any], y: float, text: str, color: str) -> None:
    ax.text(y=y, s=text, color=color, fontsize=8.5, va="bottom", **where)


def _shortened(name: str, width: int) -> str:
    name = " ".join(name.split())
    return name if len(name) <= width else f"{name[: width - 1]}…"
