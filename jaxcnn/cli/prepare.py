"""``jaxcnn prepare``: a copy of a dataset with smaller images."""

import argparse
import signal
import sys
from collections.abc import Callable

from jaxcnn.cli import dataset_arguments
from jaxcnn.cli.checks import check_at_least_1
from jaxcnn.errors import UserError

# Config keys, in errors that are written for train.py, by the arguments here.
_ARGUMENTS = {
    "config.train_split, config.eval.split": "--splits",
    "config.dataset=": "DATASET ",
    "config.dataset:": "DATASET:",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "prepare",
        help="copy a dataset with smaller images, for faster training",
        description="Write a copy of a dataset, in the format of tfds, whose images are resized\n"
        "once; smaller ones are kept. Train on it with --data_dir=DIR. A copy that was\n"
        "interrupted is continued by the same command.",
        epilog="examples:\n"
        "  jaxcnn prepare imagenet2012 --data_dir tfds --out tfds-400\n"
        "  jaxcnn prepare folder:/path --name flowers --out tfds-400 --skip_damaged",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "dataset", metavar="DATASET", help="a tfds dataset, folder:/path, csv:/path"
    )
    parser.add_argument("--out", metavar="DIR", required=True, help="where the copy is written")
    dataset_arguments.add_data_dir(parser)
    parser.add_argument(
        "--shorter_side",
        type=int,
        default=400,
        metavar="N",
        help="in pixels; larger images are resized to it: 400",
    )
    parser.add_argument(
        "--quality", type=int, default=95, metavar="Q", help="of their JPEGs, 1 to 100: 95"
    )
    parser.add_argument(
        "--splits", nargs="+", metavar="SPLIT", help="which to copy; by default all"
    )
    parser.add_argument(
        "--name", help="of the copy of images in files, for config.dataset; others keep theirs"
    )
    parser.add_argument(
        "--skip_damaged", action="store_true", help="leave out images that cannot be decoded"
    )
    parser.add_argument(
        "--shard_examples",
        type=int,
        default=4096,
        metavar="N",
        help="images per file, at most; what an interruption loses: 4096",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads; by default one per processor"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the copy and check it.

    Raises:
        UserError: if an argument is invalid, the dataset cannot be read or has damaged images, or
            the copy cannot be written.
    """
    check_at_least_1(arguments, "shorter_side", "quality", "shard_examples", "workers")
    if arguments.quality > 100:
        raise UserError(f"--quality={arguments.quality} must be from 1 to 100.")
    from tqdm import tqdm

    from jaxcnn.data.originals import ImageSettings
    from jaxcnn.data.resized import copy_resized

    bars: list[tqdm] = []

    def progress(what: str, done: int, total: int) -> Callable[[], object]:
        for bar in bars:
            bar.close()
        # tqdm shows nothing (None) unless stderr is a terminal.
        bars.append(
            tqdm(
                desc=what, initial=done, total=total, unit="image", dynamic_ncols=True, disable=None
            )
        )
        return bars[-1].update

    # An exception on Ctrl-C, not an exit: a file half written is removed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with dataset_arguments.renamed(_ARGUMENTS):
            result = copy_resized(
                arguments.dataset,
                arguments.out,
                ImageSettings(arguments.shorter_side, arguments.quality),
                data_dir=arguments.data_dir,
                splits=arguments.splits,
                name=arguments.name,
                shard_examples=arguments.shard_examples,
                skip_damaged=arguments.skip_damaged,
                workers=arguments.workers,
                report=lambda sentence: tqdm.write(sentence, file=sys.stderr),
                progress=progress,
            )
    finally:
        for bar in bars:
            bar.close()
    counts = ", ".join(f"{count:,} {split}" for split, count in result.examples.items())
    skipped = f" ({result.skipped:,} damaged left out)" if result.skipped else ""
    before, after = (_megabytes(size) for size in (result.bytes_before, result.bytes_after))
    print(
        f"{result.name} in {arguments.out}: {counts}{skipped}; all images checked; {before} became "
        f"{after}."
    )
    name = result.name.split("/")[0]
    print(f"Train on it with --config.dataset={name} --data_dir={arguments.out}")
    return 0


def _megabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
