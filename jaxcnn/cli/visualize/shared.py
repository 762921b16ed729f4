"""What the kinds of pictures share: images, classes, and the file they write.

This module imports nothing heavy; its functions do.
"""

import argparse
import dataclasses
import os
import signal
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from jaxcnn.cli import network
from jaxcnn.errors import UserError, suggest

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

    from jaxcnn.data.source import Source

BATCH_SIZE = 32


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
        UserError: if that is no PNG file in a folder that exists.
    """
    folder = os.path.dirname(arguments.out) or "."
    if not arguments.out.endswith(".png"):
        raise UserError(f"--out={arguments.out} must end in .png.")
    if not os.path.isdir(folder):
        raise UserError(f"--out={arguments.out}: there is no folder {folder}; make it first.")


@dataclasses.dataclass(frozen=True)
class Images:
    """The images that a command is given, and what a network makes of them.

    Attributes:
        source: the images.
        used: the network, with one crop of each image.
    """

    source: "Source"
    used: network.Network

    def batches(self) -> "Iterator[np.ndarray]":
        """All images in order, uint8 ``[N, H, W, C]``, with a progress bar if there are many.

        Raises:
            UserError: if an image cannot be read.
        """
        import numpy as np
        from tqdm import tqdm

        numbers = range(self.source.num_examples)
        hidden = True if len(numbers) <= BATCH_SIZE else None
        with tqdm(total=len(numbers), unit="image", disable=hidden, leave=False) as bar:
            for start in numbers[::BATCH_SIZE]:
                part = numbers[start : start + BATCH_SIZE]
                yield np.stack([self.pixels(number) for number in part])
                bar.update(len(part))

    def pixels(self, number: int) -> "np.ndarray":
        """An image as the network sees it, uint8 ``[H, W, C]``.

        Raises:
            UserError: if it cannot be read.
        """
        import numpy as np

        from jaxcnn.data.images import BadImageError, decode, from_array

        preprocess = self.used.preprocess
        try:
            content, _ = self.source.read(number)
            decoder = decode if isinstance(content, bytes) else from_array
            image = decoder(content, preprocess.channels)
            return preprocess(image, np.random.default_rng(0))
        except BadImageError as error:
            reason = str(error).rstrip(".")
            raise UserError(f"{self.source.describe(number)} cannot be read: {reason}.") from error

    def first(self, count: int) -> "tuple[np.ndarray, list[str]]":
        """The first images, and their names."""
        import numpy as np

        numbers = range(min(count, self.source.num_examples))
        return np.stack([self.pixels(number) for number in numbers]), [
            self.name(number) for number in numbers
        ]

    def name(self, number: int) -> str:
        """A short name of an image: its file, or its number and class in the dataset."""
        from jaxcnn.data.image_list import ImageList

        if isinstance(self.source, ImageList):
            return os.path.basename(self.source.describe(number))
        _, label = self.source.read(number)
        return f"example {number}, {self.used.classes[label]}"


def load(arguments: argparse.Namespace) -> Images:
    """The images and the network that a command is given.

    Raises:
        UserError: if there are no images, or they or the network cannot be read.
    """
    from jaxcnn.data.image_list import ImageList

    check_out(arguments)
    if arguments.images:
        source = ImageList(arguments.images)
        return Images(source, network.load(arguments).with_crops(1))
    if arguments.workdir is None:
        raise UserError("No image is named; give a file or a folder, or --workdir RUN.")
    used = network.load(arguments).with_crops(1)
    from jaxcnn.data.source import open_source

    config = used.config
    return Images(open_source(config.dataset, config.eval.split, arguments.data_dir), used)


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


def numbers(text: str | None, option: str) -> list[int] | None:
    """Numbers separated by commas.

    Raises:
        UserError: if they are none.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"{option}={text} must be numbers separated by commas, such as 3,17.")
    return [int(part) for part in parts]


def check_positive(arguments: argparse.Namespace, *options: str) -> None:
    """Check that options are at least 1, where they are given.

    Raises:
        UserError: for one that is not.
    """
    for option in options:
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise UserError(f"--{option}={value} must be at least 1.")


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
