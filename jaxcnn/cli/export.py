"""``jaxcnn export``: a network in a form that other programs run."""

import argparse
import os
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jaxcnn.cli import network
from jaxcnn.cli.checks import check_at_least_1
from jaxcnn.errors import UserError

if TYPE_CHECKING:
    import jax

    from jaxcnn.convert.export import Exported

FORMATS = ("stablehlo", "onnx", "savedmodel")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "export",
        help="write a network as StableHLO, ONNX or a SavedModel",
        description="Write a network with its weights in a form that programs without jaxcnn\n"
        "run: a function from images [N, H, W, C] to logits [N, num_classes].\n"
        "docs/exporting.md shows how each is loaded.",
        epilog="examples:\n"
        "  jaxcnn export --model resnet50 --to stablehlo resnet50.stablehlo\n"
        "  jaxcnn export --workdir runs/a --preprocess --fold_batch_norm --to onnx net.onnx\n"
        "  jaxcnn export --model resnet18 --batch_size 8 --to savedmodel resnet18",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", help="file to write; of a SavedModel a new folder")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format")
    network.add_arguments(parser)
    parser.add_argument(
        "--batch_size",
        default="dynamic",
        metavar="N|dynamic",
        help="number of images per call; default: dynamic, any number",
    )
    parser.add_argument(
        "--image_size",
        type=int,
        metavar="PIXELS",
        help="height and width of the images; default: what the weights were evaluated with",
    )
    parser.add_argument(
        "--fold_batch_norm",
        action="store_true",
        help="fold batch norms into the convolutions before them",
    )
    parser.add_argument(
        "--preprocess",
        action="store_true",
        help="take uint8 images of 0 to 255 and normalize them; else images are float32, "
        "normalized already",
    )
    parser.set_defaults(run=run, crops=1)


def run(arguments: argparse.Namespace) -> int:
    """Write the network.

    Raises:
        UserError: if an argument is invalid, the network cannot be read, or the file cannot be
            written.
    """
    batch_size = _batch_size(arguments.batch_size)
    check_at_least_1(arguments, "image_size")
    _check_path(arguments)
    from jaxcnn.convert import export

    used = network.load_for_evaluation(arguments)
    exported = _exported(used, batch_size, arguments.image_size, arguments.preprocess)
    save = {
        "stablehlo": export.save_stablehlo,
        "onnx": export.save_onnx,
        "savedmodel": export.save_saved_model,
    }[arguments.to]
    # An exception on Ctrl-C, not an exit: a file half written is removed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        save(arguments.file, exported)
    except OSError as error:
        raise UserError(
            f"{arguments.file} cannot be written ({error.strerror}); choose a folder that exists "
            f"and where you may write."
        ) from error
    print(f"Wrote {used.name} to {arguments.file}.")
    print(_interface(used, exported, arguments.preprocess))
    return 0


def _batch_size(value: str) -> int | None:
    """The number of images per call; None: any.

    Raises:
        UserError: if it is neither a number above 0 nor ``dynamic``.
    """
    if value == "dynamic":
        return None
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"--batch_size={value} must be a number, at least 1, or dynamic.")
    return int(value)


def _check_path(arguments: argparse.Namespace) -> None:
    """Refuse a path that is in the way, before the work."""
    path = arguments.file
    if arguments.to == "savedmodel" and os.path.lexists(path):
        raise UserError(f"{path} exists already; give a new folder for the SavedModel.")
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder; give the name of a file.")


def _exported(
    used: network.Network, batch_size: int | None, image_size: int | None, preprocess: bool
) -> "Exported":
    """The function of a network, and its images.

    Raises:
        UserError: if the network does not accept images of this size.
    """
    import jax
    import jax.numpy as jnp

    from jaxcnn.convert.export import Exported

    size = image_size or used.preprocess.image_size
    shape = (size, size, used.channels)

    def logits(variables: Mapping[str, Any], images: "jax.Array") -> "jax.Array":
        inputs = used.normalize(images) if preprocess else images
        return used.model.apply(variables, inputs).astype(jnp.float32)

    exported = Exported(
        logits, used.variables, shape, batch_size, jnp.uint8 if preprocess else jnp.float32
    )
    images = jax.ShapeDtypeStruct((batch_size or 2, *shape), exported.dtype)
    jax.eval_shape(exported.of_images, images)  # raises what the network says of the size
    return exported


def _interface(used: network.Network, exported: "Exported", preprocess: bool) -> str:
    """What the function takes and gives, for whoever loads it."""
    sizes = ", ".join(map(str, (exported.batch_size or "N", *exported.image_shape)))
    if preprocess:
        images = f"uint8 [{sizes}], RGB" if used.channels == 3 else f"uint8 [{sizes}]"
    else:
        images = f"float32 [{sizes}], (pixels / 255 - mean) / std"
        if len(used.mean) == used.channels:
            mean, std = (tuple(map(float, values)) for values in (used.mean, used.std))
            images += f" with mean {mean} and std {std}"
    return f"Images: {images}\nLogits: float32 [{exported.batch_size or 'N'}, {len(used.classes)}]"
