"""``jaxcnn predict``: what a network sees in images."""

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from jaxcnn.cli import network
from jaxcnn.cli.checks import check_at_least_1
from jaxcnn.cli.images import add_images, progress
from jaxcnn.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from jaxcnn.data.image_list import ImageList

_BATCH_SIZE = 32
# A probability as a bar in a terminal: whole blocks, and eighths of one.
_BLOCKS = " ▏▎▍▌▋▊▉█"
_BAR_WIDTH = 30

Prediction = dict[str, Any]


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "predict",
        help="classify images",
        description="Print the most probable classes of images, which are preprocessed as the\n"
        "weights expect.",
        epilog="examples:\n"
        "  jaxcnn predict cat.jpg --model resnet50\n"
        "  jaxcnn predict photos 'more/*.png' --model resnet18 --weights resnet18.pth --csv\n"
        "  jaxcnn predict - --workdir runs/resnet18-cifar10 --json < cat.jpg",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_images(parser)
    network.add_arguments(parser)
    parser.add_argument("--topk", type=int, default=5, metavar="K", help="classes per image: 5")
    network.add_evaluation_arguments(parser)
    parser.add_argument(
        "--batch_size", type=int, help=f"images at once: {_BATCH_SIZE}, fewer with ten crops"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one list as JSON")
    output.add_argument("--csv", action="store_true", help="print one line per image and class")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the classes of each image.

    Raises:
        UserError: if an argument is invalid, or the network or an image cannot be read.
    """
    check_at_least_1(arguments, "topk", "batch_size")
    from tqdm import tqdm

    from jaxcnn.data.image_list import ImageList

    images = ImageList(arguments.images)
    used = network.load_for_evaluation(arguments)
    batch_size = arguments.batch_size or max(1, _BATCH_SIZE // used.preprocess.crops)
    with progress(images.num_examples, batch_size) as bar:

        def results() -> Iterator[Prediction]:
            for result in predictions(used, images, batch_size, arguments.topk):
                yield result
                bar.update()

        if arguments.json:
            print(json.dumps(list(results()), indent=2))
        elif arguments.csv:
            _write_csv(results())
        else:
            bars = sys.stdout.isatty()
            for result in results():
                tqdm.write(_as_text(result, bars), file=sys.stdout)  # above the progress bar
    return 0


def predictions(
    used: network.Network, images: "ImageList", batch_size: int, topk: int
) -> Iterator[Prediction]:
    """The most probable classes of images, in their order.

    Args:
        used: the network.
        images: the images.
        batch_size: how many are computed at once.
        topk: how many classes; all of them if there are fewer.

    Yields:
        ``image``, its name, and ``predictions``, the most probable first, each with ``class``,
        ``index`` and ``probability``.

    Raises:
        UserError: if an image cannot be read, or the network computes NaN.
    """
    import numpy as np

    probabilities_of = _compiled(used)
    for names, batch in images.batches(used.preprocess, batch_size):
        for name, probabilities in zip(names, probabilities_of(batch), strict=False):
            if not np.isfinite(probabilities).all():
                raise UserError(
                    f"The probabilities for {name} are not finite: the weights are damaged, or of "
                    f"a network that was not trained."
                )
            best = np.argsort(-probabilities, kind="stable")[:topk]
            yield {
                "image": name,
                "predictions": [
                    {
                        "class": used.classes[index],
                        "index": int(index),
                        "probability": float(probabilities[index]),
                    }
                    for index in best
                ],
            }


def _compiled(used: network.Network) -> "Callable[[np.ndarray], np.ndarray]":
    """The probabilities ``[N, num_classes]`` of uint8 images, as a compiled function."""
    import jax
    import numpy as np

    from jaxcnn.training.step import class_logits

    @jax.jit
    def probabilities(variables: Any, images: jax.Array) -> jax.Array:
        logits = class_logits(used.model, variables, images, used.normalize)
        return jax.nn.softmax(logits.astype("float32"))

    return lambda images: np.asarray(probabilities(used.variables, images))


def _write_csv(results: Iterator[Prediction]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("image", "rank", "class", "index", "probability"))
    for result in results:
        for rank, row in enumerate(result["predictions"], 1):
            writer.writerow((result["image"], rank, *row.values()))


def _as_text(result: Prediction, bars: bool) -> str:
    """The image's name and one line per class, with the probabilities as ``bars`` or without."""
    lines = [result["image"]]
    columns = shutil.get_terminal_size().columns
    width = max(len(row["class"]) for row in result["predictions"])
    for row in result["predictions"]:
        line = f"  {row['probability']:7.2%}  {row['class']:{width}}"
        space = min(_BAR_WIDTH, columns - len(line) - 3)
        lines.append(f"{line}  {_bar(row['probability'], space)}" if bars else line)
    return "\n".join(line.rstrip() for line in lines)


def _bar(fraction: float, width: int) -> str:
    """A horizontal bar of at most ``width`` characters."""
    try:
        _BLOCKS.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(fraction * width)
    whole, eighths = divmod(round(fraction * max(0, width) * 8), 8)
    return _BLOCKS[-1] * whole + _BLOCKS[eighths].strip()
