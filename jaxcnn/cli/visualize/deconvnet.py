"""``jaxcnn visualize deconvnet``: what the units of a layer respond to."""

import argparse

from jaxcnn.cli.visualize import shared


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the subcommand and its arguments."""
    parser = shared.kind_parser(
        subparsers,
        "deconvnet",
        "the strongest activations of units, projected back to pixels",
        "For units of a layer, find the images in which they are most active, and project\n"
        "these activations back to the pixels with a deconvnet, beside the patches of the\n"
        "images that the units saw (Zeiler and Fergus 2013, figure 2).",
        (
            "deconvnet photos --model alexnet --layer features.8 --top 9",
            "deconvnet cat.jpg dog.jpg --model resnet50 --layer layer2.0 --units 3,17",
            "deconvnet --workdir runs/a --layer conv2",
        ),
    )
    parser.add_argument("--layer", metavar="PATH", help="such as features.8; by default the last")
    parser.add_argument(
        "--units", metavar="N,N", help="numbers of the units; by default those that stand out most"
    )
    parser.add_argument("--num_units", type=int, default=6, help="how many units: 6")
    parser.add_argument("--top", type=int, default=9, help="images per unit: 9")
    parser.add_argument(
        "--biases",
        action="store_true",
        help="add the convolutions' biases on the way down, as textbooks do and the paper does not",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the projections.

    Raises:
        UserError: if the network, an image or the layer cannot be used.
    """
    shared.check_positive(arguments, "num_units", "top")
    units = shared.numbers(arguments.units, "--units")
    images = shared.load(arguments)
    import numpy as np

    from jaxcnn import visualize
    from jaxcnn.visualize import figures
    from jaxcnn.visualize.layers import default_map, seen_by

    used = images.used
    shape = (1, *images.pixels(0).shape)
    layer = arguments.layer or default_map(used.model, shape)
    found = visualize.top_activations(
        used.model,
        used.variables,
        map(used.normalize, images.batches()),
        layer,
        units=units,
        num_units=arguments.num_units,
        top=arguments.top,
    )
    patches, pixels = [], []
    for unit, numbers, positions in zip(found.units, found.images, found.positions, strict=True):
        pictures = np.stack([images.pixels(number) for number in numbers])
        projection = visualize.deconvnet(
            used.model,
            used.variables,
            used.normalize(pictures),
            layer,
            int(unit),
            biases=arguments.biases,
        )
        boxes = seen_by(used.model, shape, layer, positions)
        patches.append(figures.patches_of(pictures, boxes))
        pixels.append(figures.patches_of(np.asarray(projection.pixels), boxes, fill=0))
    title = (
        f"{used.name}, {layer}: strongest activations in {images.source.num_examples:,} image(s)"
    )
    figure = figures.projections(patches, pixels, found.units.tolist(), found.activations, title)
    return shared.write(figure, arguments.out)
