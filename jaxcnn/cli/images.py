"""What the commands have in common that work with images of the user's.

This module imports nothing heavy.
"""

import argparse
from typing import Any


def add_images(parser: argparse.ArgumentParser) -> None:
    """Declare the argument that names images; see :class:`jaxcnn.data.image_list.ImageList`."""
    parser.add_argument(
        "images",
        metavar="IMAGE",
        nargs="+",
        help="a file, a folder, a pattern in quotes, or - for standard input",
    )


def progress(count: int, batch_size: int) -> Any:
    """A progress bar for images, if there is more than one batch and stderr is a terminal."""
    from tqdm import tqdm

    hidden = True if count <= batch_size else None  # None: tqdm looks for a terminal
    return tqdm(total=count, unit="image", dynamic_ncols=True, disable=hidden)
