"""``jaxcnn inspect``: the tensors in a file.

Not named ``inspect``, like the module of the standard library.
"""

import argparse
import math


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "inspect",
        help="list the names, shapes and dtypes in a file of weights",
        description="List the names, shapes and dtypes of the tensors in a file: .pth or .pt\n"
        "(PyTorch is not needed, and nothing in the file is executed) or .safetensors.",
        epilog="examples:\n"
        "  jaxcnn inspect resnet18.pth\n"
        "  jaxcnn inspect checkpoint.pth --key model_ema",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="file to read")
    parser.add_argument("--key", help="which dict of FILE to list, such as model_ema")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one line per tensor, then the totals.

    Raises:
        UserError: if the file cannot be read.
    """
    from jaxcnn.convert import load_checkpoint

    tensors = load_checkpoint(arguments.file, key=arguments.key)
    rows = [(name, str(list(t.shape)), t.dtype.name) for name, t in tensors.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, shape, dtype in rows:
        print(f"{name:{widths[0]}}  {shape:{widths[1]}}  {dtype}")
    elements = sum(math.prod(t.shape) for t in tensors.values())
    megabytes = sum(t.nbytes for t in tensors.values()) / 1e6
    print(f"{len(rows)} tensors, {elements:,} elements, {megabytes:,.1f} MB")
    return 0
