"""``jaxcnn visualize saliency``: which pixels a class's score depends on."""

import argparse

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
    shared.add_class(parser)
    parser.add_argument("--num_images", type=int, default=4, help="at most so many images: 4")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the maps.

    Raises:
        UserError: if the network, an image or the class cannot be used.
    """
    shared.check_positive(arguments, "num_images")
    images = shared.load(arguments)
    used = images.used
    label = shared.class_number(arguments.label, used.classes)
    import numpy as np

    from jaxcnn import visualize
    from jaxcnn.visualize import figures

    compute = {
        "gradient": visualize.saliency,
        "smooth": visualize.smooth_saliency,
        "guided": visualize.guided_backpropagation,
        "integrated": visualize.integrated_gradients,
    }[arguments.method]
    pictures, names = images.first(arguments.num_images)
    inputs = used.normalize(pictures)
    classes = visualize.predicted(used.model, used.variables, inputs) if label is None else label
    values = np.asarray(compute(used.model, used.variables, inputs, classes))
    signed = arguments.method == "integrated"
    maps = values.sum(axis=-1) if signed else np.abs(values).max(axis=-1)
    labels = np.broadcast_to(np.asarray(classes), len(pictures))
    titles = [f"{n}\nfor {used.classes[c]!r}" for n, c in zip(names, labels, strict=True)]
    figure = figures.attributions(
        pictures,
        maps,
        titles,
        f"{used.name}: saliency ({arguments.method})",
        label="contribution" if signed else "|gradient|",
    )
    return shared.write(figure, arguments.out)
