"""The command ``jaxcnn``."""

import argparse
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxcnn.errors import UserError

if TYPE_CHECKING:
    from jaxcnn.models import ModelInfo


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; gives the exit status.

    Args:
        argv: the arguments; None: those of the process.

    Returns:
        0, or 2 where the request was wrong and one sentence on stderr says how to mend it.
    """
    parser = argparse.ArgumentParser(prog="jaxcnn", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    convert = commands.add_parser(
        "convert",
        help="PyTorch weights to Flax variables, or back",
        description="Converts PyTorch weights (.pth, .safetensors) to Flax variables, or Flax "
        "variables to PyTorch weights; which of the two is seen from SRC. DST is a safetensors "
        "file: read it with jaxcnn.convert.load, or with safetensors.torch.load_file.",
    )
    convert.add_argument("src", metavar="SRC")
    convert.add_argument("dst", metavar="DST")
    convert.add_argument("--model", help="the architecture: every name and shape is checked")
    convert.add_argument("--num_classes", type=int, help="with --model, if it is not the default")
    convert.add_argument("--key", help="which dict of SRC, such as model_ema")

    inspect = commands.add_parser("inspect", help="the names, shapes and dtypes in a file")
    inspect.add_argument("file", metavar="FILE")
    inspect.add_argument("--key", help="which dict of FILE, such as model_ema")

    table = commands.add_parser("models", help="the networks: size, cost, accuracy")
    table.add_argument("--family", help="only its members, such as vgg")
    table.add_argument("--markdown", action="store_true", help="as the table of the README")

    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "inspect":
            _inspect(arguments.file, arguments.key)
        elif arguments.command == "models":
            _models(arguments.family, arguments.markdown)
        else:
            _convert(
                arguments.src, arguments.dst, arguments.model, arguments.num_classes, arguments.key
            )
    except UserError as error:
        print(f"jaxcnn: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader of the table has seen enough
        sys.stderr.close()
    return 0


def _inspect(path: str, key: str | None) -> None:
    from jaxcnn.convert import load_checkpoint

    tensors = load_checkpoint(path, key=key)
    rows = [(name, str(list(t.shape)), t.dtype.name, t.nbytes) for name, t in tensors.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, shape, dtype, _ in rows:
        print(f"{name:{widths[0]}}  {shape:{widths[1]}}  {dtype}")
    elements = sum(math.prod(t.shape) for t in tensors.values())
    megabytes = sum(row[3] for row in rows) / 1e6
    print(f"{len(rows)} tensors, {elements:,} elements, {megabytes:,.1f} MB")


def _models(family: str | None, markdown: bool) -> None:
    from jaxcnn import models

    def percent(accuracy: float | None) -> str:
        return "" if accuracy is None else f"{accuracy:.2%}"

    heads = ("model", "parameters", "multiply-adds", "pixels", "top-1", "top-5", "paper")
    rows = [
        (
            info.name,
            f"{info.parameters / 1e6:.2f} M",
            f"{info.multiply_adds / 1e9:.2f} G",
            str(info.input_size),
            percent(info.top1),
            percent(info.top5),
            info.paper,
        )
        for info in sorted(map(models.model_info, models.list_models(family)), key=_by_family)
    ]
    if markdown:
        print(f"| {' | '.join(heads)} |")
        print(f"|---|{'---:|' * 5}---|")
        for name, *others in rows:
            print(f"| {' | '.join([f'`{name}`', *others])} |".replace("  ", " "))
        return
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads) - 1)]
    for row in [heads, *rows]:
        cells = [f"{row[0]:{widths[0]}}", *map(str.rjust, row[1:-1], widths[1:]), row[-1]]
        print("  ".join(cells))


def _by_family(info: "ModelInfo") -> tuple[str, int, str]:
    return info.family, info.parameters, info.name


def _convert(
    src: str, dst: str, model: str | None, num_classes: int | None, key: str | None
) -> None:
    import jax

    from jaxcnn import convert, models
    from jaxcnn.convert.state_dict import from_torch_unchecked, nested_variables

    if not dst.endswith(".safetensors"):
        raise UserError(f"DST must end in .safetensors, but is {dst!r}.")
    tensors = convert.load_checkpoint(src, key=key)
    try:
        if variables := nested_variables(tensors):
            convert.save_torch(dst, variables)
            what = "a PyTorch state dict"
        else:
            if model:
                classes = {} if num_classes is None else {"num_classes": num_classes}
                with jax.enable_x64(True):  # or float64 would not stay so
                    variables = convert.from_torch(tensors, models.create_model(model, **classes))
            else:
                variables = from_torch_unchecked(tensors)
            convert.save(dst, variables)
            what = "Flax variables"
    except OSError as error:
        raise UserError(
            f"{dst} cannot be written ({error.strerror}); choose a folder that is there and "
            f"where you may write."
        ) from error
    print(f"Wrote {what} to {dst}.")


if __name__ == "__main__":
    sys.exit(main())
