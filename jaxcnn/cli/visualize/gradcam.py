"""``jaxcnn visualize gradcam``: where a layer's map speaks for a class."""

import argparse

from jaxcnn.cli.visualize import shared


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the subcommand and its arguments."""
    parser = shared.kind_parser(
        subparsers,
        "gradcam",
        "where a layer's map speaks for a class",
        "Draw where the map of a layer speaks for a class (Grad-CAM), over the image.",
        (
            "gradcam cat.jpg --model resnet50",
            "gradcam --workdir runs/a --layer layer3 --class Bag --num_images 8",
        ),
    )
    parser.add_argument("--layer", metavar="PATH", help="such as layer4; by default the last map")
    shared.add_explained(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the maps.

    Raises:
        UserError: if the network, an image, the layer or the class cannot be used.
    """
    used, pixels, inputs, classes, titles = shared.explained(arguments)
    import numpy as np

    from jaxcnn import visualize
    from jaxcnn.visualize import figures
    from jaxcnn.visualize.layers import default_map

    layer = arguments.layer or default_map(used.model, pixels.shape)
    maps = visualize.grad_cam(used.model, used.variables, inputs, classes, layer=layer)
    figure = figures.attributions(
        pixels,
        np.asarray(maps),
        titles,
        f"{used.name}: Grad-CAM of {layer}",
        label="evidence",
        overlay=True,
    )
    return shared.write(figure, arguments.out)
