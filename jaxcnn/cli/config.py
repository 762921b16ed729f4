"""``jaxcnn config``: the configuration of a run, or the table of its keys."""

import argparse
import json

from jaxcnn.errors import UserError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "config",
        help="print what train.py would train with",
        description="Print the resolved configuration of a model on a dataset as JSON: what\n"
        "python train.py --config configs/MODEL.py:DATASET trains with.",
        epilog="examples:\n  jaxcnn config resnet18:cifar10\n  jaxcnn config --markdown",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "request",
        metavar="MODEL[:DATASET]",
        nargs="?",
        help="the dataset: by default the config file's",
    )
    parser.add_argument("--markdown", action="store_true", help="print the table of all keys")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration, or the table.

    Raises:
        UserError: for an unknown model, or if neither is asked for.
    """
    if arguments.markdown == (arguments.request is not None):
        raise UserError("jaxcnn config needs either MODEL[:DATASET] or --markdown.")
    from jaxcnn.training.config import as_json, markdown_table, open_config, resolve

    if arguments.markdown:
        print(markdown_table(), end="")
        return 0
    model, colon, dataset = arguments.request.partition(":")
    config = open_config(model, dataset if colon else None)
    print(json.dumps(as_json(resolve(config)), indent=2))
    return 0
