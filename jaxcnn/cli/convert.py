"""``jaxcnn convert``: PyTorch weights to Flax variables, and back."""

import argparse
import signal
from typing import TYPE_CHECKING

from jaxcnn.cli.checks import check_at_least_1
from jaxcnn.errors import UserError

if TYPE_CHECKING:
    from jaxcnn.models.classifier import Classifier


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "convert",
        help="convert PyTorch weights to Flax variables, or back",
        description="Convert PyTorch weights (.pth, .pt, .safetensors) to Flax variables, or\n"
        "Flax variables to PyTorch weights; the direction is inferred from SRC.\n"
        "DST is a safetensors file: read it with jaxcnn.convert.load, or with\n"
        "safetensors.torch.load_file.",
        epilog="examples:\n"
        "  jaxcnn convert resnet18.pth flax.safetensors --model resnet18\n"
        "  jaxcnn convert flax.safetensors torch.safetensors\n"
        "  jaxcnn convert mine.pth mine.safetensors --model resnet18 --num_classes 10",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("src", metavar="SRC", help="file to read, hf-hub:OWNER/NAME or a folder")
    parser.add_argument("dst", metavar="DST", help="file to write, *.safetensors")
    parser.add_argument("--model", help="check every name and shape against this network")
    parser.add_argument(
        "--num_classes", type=int, help="with --model: number of classes, if not the default"
    )
    parser.add_argument("--key", help="which dict of SRC to convert, such as model_ema")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read SRC, check it against ``--model`` if given, and write DST.

    Raises:
        UserError: if the arguments contradict each other, SRC cannot be read or does not belong
            to the model, or DST cannot be written.
    """
    _check_arguments(arguments)
    import jax

    from jaxcnn import convert
    from jaxcnn.convert.hub import is_saved, weights_file
    from jaxcnn.convert.state_dict import from_torch_unchecked, nested_variables

    model = _model(arguments)
    source = weights_file(arguments.src) if is_saved(arguments.src) else arguments.src
    tensors = convert.load_checkpoint(source, key=arguments.key)
    # An exception on Ctrl-C, not an exit: a file half written is removed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with jax.enable_x64(True):  # or float64 weights would be rounded
            if variables := nested_variables(tensors):
                if model:
                    convert.from_torch(convert.to_torch(variables), model)  # checks them
                convert.save_torch(arguments.dst, variables)
                what = "a PyTorch state dict"
            else:
                if model:
                    variables = convert.from_torch(tensors, model)
                else:
                    variables = from_torch_unchecked(tensors)
                convert.save(arguments.dst, variables)
                what = "Flax variables"
    except OSError as error:
        raise UserError(
            f"{arguments.dst} cannot be written ({error.strerror}); choose a folder that exists "
            f"and where you may write."
        ) from error
    print(f"Wrote {what} to {arguments.dst}.")
    return 0


def _check_arguments(arguments: argparse.Namespace) -> None:
    if not arguments.dst.endswith(".safetensors"):
        raise UserError(f"DST must end in .safetensors, but is {arguments.dst!r}.")
    if arguments.num_classes is None:
        return
    if arguments.model is None:
        raise UserError(
            f"--num_classes={arguments.num_classes} needs --model: without a model the shapes in "
            f"SRC are converted as they are; add --model, such as --model resnet18."
        )
    check_at_least_1(arguments, "num_classes")


def _model(arguments: argparse.Namespace) -> "Classifier | None":
    from jaxcnn import models

    if arguments.model is None:
        return None
    classes = {} if arguments.num_classes is None else {"num_classes": arguments.num_classes}
    return models.create_model(arguments.model, **classes)
