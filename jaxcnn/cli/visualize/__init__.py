"""``jaxcnn visualize``: pictures of what is inside a network.

Each kind of picture is a subcommand of its own, with ``add_parser`` and ``run`` as a command of
``jaxcnn`` has them.
"""

import argparse

from jaxcnn.cli.visualize import (
    deconvnet,
    features,
    filters,
    gradcam,
    maximize,
    occlusion,
    saliency,
)

_KINDS = (filters, features, deconvnet, saliency, gradcam, occlusion, maximize)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its subcommands."""
    parser = subparsers.add_parser(
        "visualize",
        help="draw what is inside a network: filters, features, deconvnet, saliency, ...",
        description="Draw what is inside a network, as a PNG file.",
        epilog="examples:\n"
        "  jaxcnn visualize filters --model alexnet\n"
        "  jaxcnn visualize deconvnet photos --model alexnet --layer features.8\n"
        "  jaxcnn visualize gradcam cat.jpg --model resnet50\n\n"
        "Each kind explains its arguments: jaxcnn visualize deconvnet --help",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(metavar="KIND", required=True)
    for kind in _KINDS:
        kind.add_parser(kinds)
