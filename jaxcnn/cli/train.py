"""``jaxcnn train``: train a network by the name of its recipe; and what ``train.py`` runs.

This module imports nothing heavy.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jaxcnn import training
from jaxcnn.cli.extras import missing_extra
from jaxcnn.errors import program
from jaxcnn.training.signals import exit_on_signals

# The config file that stands for all of configs/, which is not installed.
_NAMED = Path(training.__file__).parent / "config" / "named.py"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "train",
        help="train a network",
        description="Train a network with the recipe of that name, or with a config file of your\n"
        "own. Run again with the same --workdir, it resumes. jaxcnn config NAME[:DATASET]\n"
        "prints the values of all config keys, jaxcnn train NAME --help all flags.",
        epilog="examples:\n"
        "  jaxcnn train resnet18:digits\n"
        "  jaxcnn train resnet50 --config.dataset=folder:/path --workdir runs/a\n"
        "  jaxcnn train finetune:resnet50 --config.dataset=folder:/path\n"
        "  jaxcnn train my_config.py --config.batch_size=128",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "request",
        metavar="NAME[:DATASET]",
        help="an architecture or a recipe (resnet50_v2, finetune:ARCHITECTURE), or a config file "
        "(FILE.py[:ARGUMENT]); the dataset if it is not to be the recipe's own",
    )
    parser.add_argument(
        "flags",
        metavar="FLAG",
        nargs=argparse.REMAINDER,
        help="--workdir=DIR, --data_dir=DIR, --config.KEY=VALUE and others, as train.py has them",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> NoReturn:
    """Train, and end the process; see :func:`train`."""
    exit_on_signals()
    request = arguments.request
    if not request.partition(":")[0].endswith(".py"):
        request = f"{_NAMED}:{request}"
    train([sys.argv[0], f"--config={request}", *arguments.flags])


def train(argv: Sequence[str]) -> NoReturn:
    """Train as the flags say, and end the process.

    Its status is 0: trained; 2: the request was wrong, and a sentence on stderr says how to fix
    it; 128 plus the signal's number (143 for SIGTERM): told to stop, state saved.

    Args:
        argv: the program and its flags, of which ``--config`` names a config file.
    """
    try:
        from absl import app

        from jaxcnn.training import main

        main.define_flags(argv)
        app.run(_train, argv=list(argv), flags_parser=main.parse_flags)
    except ModuleNotFoundError as error:
        missing = missing_extra("Training", error)
        if missing is None:
            raise
        print(f"{program()}: {missing}", file=sys.stderr)
    sys.exit(2)


def _train(argv: Sequence[str]) -> int:
    from jaxcnn.cli.report import write_pictures
    from jaxcnn.training import main

    return main.main(argv[1:], draw=write_pictures)
