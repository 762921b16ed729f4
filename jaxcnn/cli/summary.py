"""``jaxcnn summary``: the layers of a network, their cost and receptive fields."""

import argparse


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "summary",
        help="list the layers of a network: shapes, parameters, cost, receptive fields",
        description="List the layers of a network: output shape, kernel, stride, padding,\n"
        "parameters, multiply-adds, and the receptive field: its size in pixels,\n"
        "the distance (jump) between those of adjacent units, and the first pixel\n"
        "(start) of the first unit's, negative if it is padding. Then the totals,\n"
        "and the memory that training needs.",
        epilog="examples:\n"
        "  jaxcnn summary resnet50\n"
        "  jaxcnn summary vgg16 --image_size 32 --batch_size 128 --num_classes 10\n"
        "  jaxcnn summary lenet5 --channels 1 --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", metavar="NAME", help="a network, as jaxcnn models lists them")
    parser.add_argument(
        "--image_size", type=int, metavar="PIXELS", help="default: the network's own"
    )
    parser.add_argument("--batch_size", type=int, default=1, metavar="N", help="default: 1")
    parser.add_argument(
        "--channels", type=int, default=3, metavar="N", help="channels of the images; default: 3"
    )
    parser.add_argument("--num_classes", type=int, metavar="N", help="default: the network's own")
    parser.add_argument(
        "--depth",
        type=_depth,
        default=2,
        metavar="N",
        help="levels of modules within modules to list, or 'all'; default: 2",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--markdown", action="store_true", help="print a Markdown table")
    output.add_argument("--json", action="store_true", help="print a JSON object")
    parser.set_defaults(run=run)


def _depth(value: str) -> int | None:
    return None if value == "all" else int(value)


def run(arguments: argparse.Namespace) -> int:
    """Print the summary.

    Raises:
        UserError: for an unknown network, or sizes that it does not accept.
    """
    from jaxcnn import models

    classes = {} if arguments.num_classes is None else {"num_classes": arguments.num_classes}
    summary = models.summary(
        arguments.name,
        image_size=arguments.image_size,
        channels=arguments.channels,
        batch_size=arguments.batch_size,
        depth=arguments.depth,
        **classes,
    )
    if arguments.json:
        print(summary.json(), end="")
    elif arguments.markdown:
        print(summary.markdown(), end="")
    else:
        print(summary.text(), end="")
    return 0
