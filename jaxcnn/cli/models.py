"""``jaxcnn models``: the table of networks."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxcnn.models import ModelInfo

_COLUMNS = ("model", "parameters", "multiply-adds", "pixels", "top-1", "top-5", "paper")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "models",
        help="list the networks: size, cost, accuracy, paper",
        description="List the networks: parameters, multiply-adds of a forward pass, input\n"
        "size in pixels, torchvision's accuracy on ImageNet, and the paper.",
        epilog="example:\n  jaxcnn models --family resnet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--family", help="list only the members of a family, such as vgg")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one line per network, by family and size.

    Raises:
        UserError: if there is no such family.
    """
    from jaxcnn import models

    infos = map(models.model_info, models.list_models(arguments.family))
    rows = [_cells(info) for info in sorted(infos, key=_by_family_and_size)]
    if arguments.markdown:
        print(f"| {' | '.join(_COLUMNS)} |")
        print(f"|---|{'---:|' * 5}---|")
        for name, *others in rows:
            print(f"| {' | '.join([f'`{name}`', *others])} |".replace("  ", " "))
        return 0
    rows.insert(0, _COLUMNS)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers, paper in rows:
        print("  ".join([f"{name:{widths[0]}}", *map(str.rjust, numbers, widths[1:]), paper]))
    return 0


def _cells(info: "ModelInfo") -> tuple[str, ...]:
    return (
        info.name,
        f"{info.parameters / 1e6:.2f} M",
        f"{info.multiply_adds / 1e9:.2f} G",
        str(info.input_size),
        "" if info.top1 is None else f"{info.top1:.2%}",
        "" if info.top5 is None else f"{info.top5:.2%}",
        info.paper,
    )


def _by_family_and_size(info: "ModelInfo") -> tuple[str, int, str]:
    return info.family, info.parameters, info.name
