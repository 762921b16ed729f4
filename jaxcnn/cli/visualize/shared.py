"""What the kinds of pictures share: images, classes, and the file they write.

This module imports nothing heavy; its functions do.
"""

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from jaxcnn.cli import network
from jaxcnn.errors import UserError, suggest

if TYPE_CHECKING:
    import jax
    import numpy as np
    from matplotlib.figure import Figure

    from jaxcnn.data.pipeline import BadImageLog
    from jaxcnn.data.source import Source

BATCH_SIZE = 32
# Images in one picture, which are computed at once.
MOST_IMAGES = 16


def kind_parser(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    help: str,
    description: str,
    examples: Sequence[str],
    *,
    images: bool = True,
) -> argparse.ArgumentParser:
    """A subcommand with the arguments that all of them have.

    Args:
        subparsers: of ``jaxcnn visualize``.
        name: of the subcommand.
        help: one line.
        description: a few lines.
        examples: command lines without ``jaxcnn visualize``.
        images: whether it takes images.
    """
    parser = subparsers.add_parser(
        name,
        help=help,
        description=description,
        epilog="\n".join(["examples:", *(f"  jaxcnn visualize {line}" for line in examples)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if images:
        parser.add_argument(
            "images",
            metavar="IMAGE",
            nargs="*",
            help="a file, a folder, a pattern in quotes, or - for standard input; none, with "
            "--workdir: the run's evaluation images",
        )
        parser.add_argument("--data_dir", metavar="DIR", help="where tfds's datasets are")
    network.add_arguments(parser)
    parser.add_argument(
        "--out", metavar="FILE", default=f"{name}.png", help=f"PNG file to write: {name}.png"
    )
    return parser


def add_class(parser: argparse.ArgumentParser) -> None:
    """Declare the class that is explained."""
    parser.add_argument(
        "--class",
        dest="label",
        metavar="NAME",
        help="name or number of the class; by default the predicted one",
    )


def check_out(arguments: argparse.Namespace) -> None:
    """Check where the picture is written, before anything is computed.

    Raises:
        UserError: if that is not a PNG file in a folder that exists.
    """
    folder = os.path.dirname(arguments.out) or "."
    if not arguments.out.endswith(".png"):
        raise UserError(f"--out={arguments.out} must end in .png.")
    if not os.path.isdir(folder):
        raise UserError(f"--out={arguments.out}: there is no folder {folder}; make it first.")


class Images:
    """The images that a command is given, as its network sees them.

    Args:
        source: the images; one that cannot be read is skipped, unless it was named.
        used: the network, with one crop of each image.

    Attributes:
        used: the network.
        count: how many images there are.
    """

    def __init__(self, source: "Source", used: network.Network):
        self.used = used
        self._source = source
        self.count = source.num_examples

    def batches(self, skipped: list[int]) -> "Iterator[np.ndarray]":
        """All images in order, uint8 ``[N, H, W, C]``, with a progress bar if there are many.

        Args:
            skipped: gets the numbers of those that cannot be read.

        Raises:
            UserError: if an image that was named cannot be read.
        """
        from jaxcnn.data.pipeline import eval_batches

        size = min(BATCH_SIZE, self.count)
        preprocess = self.used.preprocess
        bad_images = self._bad_images()
        done = 0
        with progress("image", shown=self.count > BATCH_SIZE) as report:
            for batch in eval_batches(
                self._source, preprocess, batch_size=size, bad_images=bad_images
            ):
                mask = batch["mask"][: self.count - done] > 0
                skipped += [done + int(row) for row in (~mask).nonzero()[0]]
                yield batch["image"][: len(mask)][mask]
                done += len(mask)
                report(done, self.count)

    def _bad_images(self) -> "BadImageLog":
        from jaxcnn.data.image_list import ImageList, Strict
        from jaxcnn.data.pipeline import BadImageLog

        if isinstance(self._source, ImageList):
            return Strict(self._source)
        return BadImageLog(self._source, lambda sentence: print(sentence, file=sys.stderr))

    def pixels(self, numbers: Sequence[int]) -> "np.ndarray":
        """Some images, uint8 ``[N, H, W, C]``.

        Raises:
            UserError: if one cannot be read.
        """
        import numpy as np

        from jaxcnn.data.image_list import Strict
        from jaxcnn.data.images import BadImageError
        from jaxcnn.data.pipeline import eval_images

        images = []
        for number in map(int, numbers):
            try:
                images.append(eval_images(self._source, self.used.preprocess, [number]))
            except BadImageError as error:
                Strict(self._source).add(number, str(error))
        return np.concatenate(images)

    def first(self, count: int) -> "tuple[np.ndarray, list[str]]":
        """The first images, and their names."""
        numbers = range(min(count, self.count))
        return self.pixels(numbers), [self._name(number) for number in numbers]

    def _name(self, number: int) -> str:
        """A short name of an image: its file, or its number and class in the dataset."""
        from jaxcnn.data.image_list import ImageList

        if isinstance(self._source, ImageList):
            return os.path.basename(self._source.describe(number))
        _, label = self._source.read(number)
        return f"example {number}, {self.used.classes[label]}"


def load(arguments: argparse.Namespace) -> Images:
    """The images and the network that a command is given.

    Raises:
        UserError: if there are no images, or they or the network cannot be read.
    """
    from jaxcnn.data.image_list import ImageList

    check_out(arguments)
    if arguments.images:
        if arguments.data_dir is not None:
            raise UserError("--data_dir is for the images of a run; leave it out, or name none.")
        source = ImageList(arguments.images)
        return Images(source, network.load(arguments).with_crops(1))
    if arguments.workdir is None:
        raise UserError("No image is named; give a file or a folder, or --workdir RUN.")
    used = network.load(arguments).with_crops(1)
    from jaxcnn.data.source import open_source

    settings = used.settings
    return Images(open_source(settings.dataset, settings.split, arguments.data_dir), used)


@contextlib.contextmanager
def progress(unit: str, *, shown: bool = True) -> "Iterator[Callable[[int, int], None]]":
    """A progress bar on stderr, if that is a terminal, and the function that moves it.

    The function takes how many are done, and how many there are to do.

    Args:
        unit: of what.
        shown: whether there is a bar at all.
    """
    from tqdm import tqdm

    hidden = None if shown else True  # tqdm: None hides it unless stderr is a terminal
    with tqdm(unit=unit, disable=hidden, leave=False, dynamic_ncols=True) as bar:

        def report(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield report


def add_explained(parser: argparse.ArgumentParser) -> None:
    """Declare the class that is explained, and of how many images; see :func:`explained`."""
    add_class(parser)
    parser.add_argument(
        "--num_images",
        type=int,
        default=4,
        help=f"at most so many of the images: 4; up to {MOST_IMAGES}",
    )


def explained(
    arguments: argparse.Namespace,
) -> "tuple[network.Network, np.ndarray, jax.Array, np.ndarray, list[str]]":
    """The first images of a command, and the class of each that is explained.

    Args:
        arguments: with those of :func:`add_explained`.

    Returns:
        The network, the pixels ``[N, H, W, C]``, the network's input, the classes ``[N]``, and
        titles with the names of image and class.

    Raises:
        UserError: if an image or the network cannot be read, or there is no such class.
    """
    check_range(arguments, "num_images", most=MOST_IMAGES)
    images = load(arguments)
    import numpy as np

    from jaxcnn import visualize

    used = images.used
    label = class_number(arguments.label, used.classes)
    pixels, names = images.first(arguments.num_images)
    inputs = used.normalize(pixels)
    if label is None:
        classes = np.asarray(visualize.predicted(used.model, used.variables, inputs))
    else:
        classes = np.full(len(pixels), label)
    titles = [f"{n}\nfor {used.classes[c]!r}" for n, c in zip(names, classes, strict=True)]
    return used, pixels, inputs, classes, titles


def class_number(label: str | None, classes: Sequence[str]) -> int | None:
    """The number of a class from ``--class``; None: the predicted one is meant.

    Raises:
        UserError: for an unknown class.
    """
    if label is None:
        return None
    if label in classes:
        return list(classes).index(label)
    if label.isdecimal() and int(label) < len(classes):
        return int(label)
    raise UserError(f"--class={label} is unknown to this network; {suggest(label, classes)}")


def numbers(text: str | None, option: str, *, most: int) -> list[int] | None:
    """Numbers separated by commas.

    Raises:
        UserError: if they are none, or more than ``most``.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"{option}={text} must be numbers separated by commas, such as 3,17.")
    if len(parts) > most:
        raise UserError(f"{option} names {len(parts)}; a picture has room for {most}.")
    return [int(part) for part in parts]


def check_range(
    arguments: argparse.Namespace, *options: str, most: int | None = None, least: int = 1
) -> None:
    """Check that options are within bounds, where they are given.

    Raises:
        UserError: for one that is not.
    """
    for option in options:
        value = getattr(arguments, option)
        if value is not None and value < least:
            raise UserError(f"--{option}={value} must be at least {least}.")
        if value is not None and most is not None and value > most:
            raise UserError(f"--{option}={value} must be at most {most}.")


def write(figure: "Figure", path: str) -> int:
    """Write a figure, say where, and return the exit status.

    Raises:
        UserError: if the file cannot be written.
    """
    from jaxcnn.io.atomic import atomic_write
    from jaxcnn.visualize.images import figure_png

    content = figure_png(figure)
    # An exception on Ctrl-C, not an exit: a file half written is removed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with atomic_write(path) as file:
            file.write(content)
    except OSError as error:
        raise UserError(
            f"--out={path} cannot be written ({error.strerror}); choose a folder where you may "
            f"write."
        ) from error
    print(f"Wrote {path}.")
    return 0
