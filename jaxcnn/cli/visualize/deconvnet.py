"""``jaxcnn visualize deconvnet``: what the units of a layer respond to."""

import argparse

from jaxcnn.cli.visualize import shared

_MOST_UNITS = 24  # in one picture


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
    parser.add_argument(
        "--num_units", type=int, default=6, help=f"how many units: 6; up to {_MOST_UNITS}"
    )
    parser.add_argument(
        "--top", type=int, default=9, help=f"images per unit: 9; up to {shared.MOST_IMAGES}"
    )
    parser.add_argument(
        "--biases",
        action="store_true",
        help="add the convolutions' biases on the way back, as textbooks do and the paper does not",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the projections.

    Raises:
        UserError: if the network, an image or the layer cannot be used.
    """
    shared.check_range(arguments, "num_units", most=_MOST_UNITS)
    shared.check_range(arguments, "top", most=shared.MOST_IMAGES)
    units = shared.numbers(arguments.units, "--units", most=_MOST_UNITS)
    images = shared.load(arguments)
    import numpy as np

    from jaxcnn import visualize
    from jaxcnn.visualize import figures
    from jaxcnn.visualize.layers import default_map, receptive_boxes

    used = images.used
    model, variables = used.model, used.variables
    size = used.preprocess.image_size
    shape = (1, size, size, used.channels)
    layer = arguments.layer or default_map(model, shape)
    skipped: list[int] = []
    found = visualize.top_activations(
        model,
        variables,
        map(used.normalize, images.batches(skipped)),
        layer,
        units=units,
        num_units=arguments.num_units,
        top=arguments.top,
    )
    kept = np.delete(np.arange(images.count), skipped)
    patches, pixels = [], []
    with shared.progress("unit") as report:
        for unit, numbers, positions in zip(
            found.units, found.images, found.positions, strict=True
        ):
            seen = images.pixels(kept[numbers])
            projection = visualize.deconvnet(
                model, variables, used.normalize(seen), layer, unit, biases=arguments.biases
            )
            boxes = receptive_boxes(model, shape, layer, positions)
            patches.append(figures.patches_of(seen, boxes))
            pixels.append(figures.patches_of(np.asarray(projection.pixels), boxes, fill=0))
            report(len(patches), len(found.units))
    title = f"{used.name}, {layer}: strongest activations in {images.count:,} image(s)"
    figure = figures.projections(patches, pixels, found.units.tolist(), found.activations, title)
    return shared.write(figure, arguments.out)
