"""``jaxcnn visualize saliency``: which pixels a class's score depends on."""

import argparse
import sys

from jaxcnn.cli.visualize import shared

_METHODS = {
    "gradient": "the gradient's largest absolute value over the channels",
    "smooth": "the same of the mean gradient over 25 noisy copies (SmoothGrad)",
    "guided": "the same of guided backpropagation",
    "integrated": "integrated gradients, added over the channels",
}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the subcommand and its arguments."""
    parser = shared.kind_parser(
        subparsers,
        "saliency",
        "which pixels the score of a class depends on",
        "Draw which pixels the score of a class depends on:\n"
        + "\n".join(f"  {name:10}  {text}" for name, text in _METHODS.items()),
        (
            "saliency cat.jpg --model resnet18 --method smooth",
            "saliency --workdir runs/a --method integrated --class Bag",
        ),
    )
    parser.add_argument("--method", choices=_METHODS, default="gradient", help="default: gradient")
    shared.add_explained(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the maps.

    Raises:
        UserError: if the network, an image or the class cannot be used.
    """
    used, pixels, inputs, classes, titles = shared.explained(arguments)
    import numpy as np

    from jaxcnn import visualize
    from jaxcnn.visualize import figures

    method = arguments.method
    long = method in ("smooth", "integrated")
    with shared.progress("step", shown=long) as report:
        more = {"report": report} if long else {}
        if method == "integrated":
            more["warn"] = lambda sentence: print(sentence, file=sys.stderr)
        compute = {
            "gradient": visualize.saliency,
            "smooth": visualize.smooth_saliency,
            "guided": visualize.guided_backpropagation,
            "integrated": visualize.integrated_gradients,
        }[method]
        values = np.asarray(compute(used.model, used.variables, inputs, classes, **more))
    signed = method == "integrated"
    figure = figures.attributions(
        pixels,
        values.sum(axis=-1) if signed else np.abs(values).max(axis=-1),
        titles,
        f"{used.name}: saliency ({method})",
        label="contribution" if signed else "|gradient|",
    )
    return shared.write(figure, arguments.out)
