"""``jaxcnn visualize occlusion``: what changes when a part of an image is covered."""

import argparse

from jaxcnn.cli.visualize import shared


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the subcommand and its arguments."""
    parser = shared.kind_parser(
        subparsers,
        "occlusion",
        "what changes when a part of an image is covered",
        "Cover one part of an image after another with a gray square, and draw the class's\n"
        "probability, the prediction and the strongest channel of a layer by the place of\n"
        "the square (Zeiler and Fergus 2013, figure 7).",
        (
            "occlusion dog.jpg --model resnet18",
            "occlusion --workdir runs/a --size 8 --stride 2",
        ),
    )
    parser.add_argument("--layer", metavar="PATH", help="such as layer4; by default the last map")
    shared.add_class(parser)
    parser.add_argument("--size", type=int, help="of the square in pixels: a quarter of the image")
    parser.add_argument("--stride", type=int, help="pixels per move: a quarter of the square")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the maps.

    Raises:
        UserError: if the network, the image, the layer or the class cannot be used.
    """
    shared.check_range(arguments, "size", "stride")
    images = shared.load(arguments)
    used = images.used
    label = shared.class_number(arguments.label, used.classes)
    from jaxcnn import visualize
    from jaxcnn.visualize import figures

    (image,), (name,) = images.first(1)
    inputs = used.normalize(image[None])
    if label is None:
        label = int(visualize.predicted(used.model, used.variables, inputs)[0])
    size = arguments.size or visualize.occlusion_size(image.shape)
    with shared.progress("square") as report:
        maps = visualize.occlusion(
            used.model,
            used.variables,
            inputs[0],
            label,
            size=size,
            stride=arguments.stride,
            layer=arguments.layer,
            report=report,
        )
    figure = figures.occlusion(
        image, maps, used.classes, used.classes[label], size, f"{used.name}: occlusion of {name}"
    )
    return shared.write(figure, arguments.out)
