"""``jaxcnn config``: the configuration of a run, or the table of its keys."""

import argparse
import json

from jaxcnn.errors import UserError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "config",
        help="print what jaxcnn train would train with",
        description="Print the resolved configuration of a recipe on a dataset as JSON: what\n"
        "jaxcnn train NAME:DATASET trains with.",
        epilog="examples:\n  jaxcnn config resnet18:cifar10\n  jaxcnn config --markdown",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "request",
        metavar="NAME[:DATASET]",
        nargs="?",
        help="an architecture or a recipe, and the dataset if it is not to be the recipe's own",
    )
    parser.add_argument("--markdown", action="store_true", help="print the table of all keys")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the configuration, or the table.

    Raises:
        UserError: for an unknown recipe, or if neither is asked for.
    """
    if arguments.markdown == (arguments.request is not None):
        raise UserError("jaxcnn config needs either NAME[:DATASET] or --markdown.")
    from jaxcnn.training.config import as_json, get_config, markdown_table, resolve

    if arguments.markdown:
        print(markdown_table(), end="")
        return 0
    print(json.dumps(as_json(resolve(get_config(arguments.request))), indent=2))
    return 0
