"""``jaxcnn visualize features``: the maps that a layer makes of an image."""

import argparse

from jaxcnn.cli.visualize import shared

_MOST_UNITS = 96  # in one picture


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the subcommand and its arguments."""
    parser = shared.kind_parser(
        subparsers,
        "features",
        "the maps that a layer makes of an image",
        "Draw the maps of a layer's units for one image: of the units with the largest\n"
        "activations, unless --units names others.",
        (
            "features cat.jpg --model resnet18 --layer layer2",
            "features --workdir runs/a --layer conv2 --units 0,1,2",
        ),
    )
    parser.add_argument("--layer", metavar="PATH", help="such as layer2; by default the last map")
    parser.add_argument("--units", metavar="N,N", help="numbers of the units")
    parser.add_argument(
        "--num_units", type=int, default=18, help=f"how many units: 18; up to {_MOST_UNITS}"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the maps.

    Raises:
        UserError: if the network, the image or the layer cannot be used.
    """
    shared.check_range(arguments, "num_units", most=_MOST_UNITS)
    units = shared.numbers(arguments.units, "--units", most=_MOST_UNITS)
    images = shared.load(arguments)
    import jax
    import numpy as np

    from jaxcnn.visualize import figures
    from jaxcnn.visualize.layers import apply_to_layer, check_layer, check_units, default_map

    used = images.used
    (image,), (name,) = images.first(1)
    shape = (1, *image.shape)
    layer = arguments.layer or default_map(used.model, shape)
    check_units(layer, check_layer(used.model, shape, layer, spatial=True), units or ())

    @jax.jit
    def maps_of(variables, image):
        return apply_to_layer(used.model, variables, used.normalize(image), layer)[1]

    maps = np.asarray(maps_of(used.variables, image[None]))[0]
    if units is None:
        units = np.argsort(-maps.max(axis=(0, 1)), kind="stable")[: arguments.num_units].tolist()
    title = f"{used.name}, {layer} ({maps.shape[0]}x{maps.shape[1]}x{maps.shape[2]}): {name}"
    chosen = np.moveaxis(maps[..., units], -1, 0)
    return shared.write(figures.features(image, chosen, units, title), arguments.out)
