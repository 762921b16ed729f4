"""``jaxcnn visualize maximize``: the images that excite units or classes most."""

import argparse

from jaxcnn.cli import network
from jaxcnn.cli.visualize import shared
from jaxcnn.errors import UserError


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the subcommand and its arguments."""
    parser = shared.kind_parser(
        subparsers,
        "maximize",
        "the images that excite units or classes most",
        "Search, by gradient ascent, for images that excite classes or units of a layer.",
        (
            "maximize --model resnet18 --class goldfish",
            "maximize --workdir runs/a --layer conv2 --units 0,1,2,3",
        ),
        images=False,
    )
    what = parser.add_mutually_exclusive_group()
    shared.add_class(what)
    what.add_argument("--layer", metavar="PATH", help="such as layer3; by default the logits")
    parser.add_argument("--units", metavar="N,N", help="units, or classes; by default 0 to 7")
    parser.add_argument("--steps", type=int, default=256, help="of gradient ascent: 256")
    parser.add_argument("--image_size", type=int, help="in pixels; by default the network's")
    parser.add_argument("--seed", type=int, default=0, help="of the first image: 0")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the images.

    Raises:
        UserError: if the network, the layer, a unit or the class cannot be used.
    """
    shared.check_range(arguments, "steps", "image_size")
    shared.check_range(arguments, "seed", least=0, most=2**32 - 1)
    shared.check_out(arguments)
    units = shared.numbers(arguments.units, "--units", most=shared.MOST_IMAGES)
    if arguments.label is not None and units is not None:
        raise UserError("--class and --units both say what is maximized; give one of them.")
    used = network.load(arguments)
    size, layer = arguments.image_size or used.preprocess.image_size, arguments.layer
    if size != used.preprocess.image_size and hasattr(used.mean, "shape"):
        raise UserError(
            f"--image_size={size} is not that of this run, {used.preprocess.image_size}, which "
            f"subtracts the mean of its images; leave it out."
        )
    label = shared.class_number(arguments.label, used.classes)

    from jaxcnn import visualize
    from jaxcnn.visualize import figures
    from jaxcnn.visualize.layers import check_layer

    shape = (size, size, used.channels)
    count = check_layer(used.model, (1, *shape), layer)[-1] if layer else len(used.classes)
    chosen = units if label is None else [label]
    chosen = list(range(min(8, count))) if chosen is None else chosen
    with shared.progress("step") as report:
        found, values = visualize.maximize(
            used.model,
            used.variables,
            shape,
            chosen,
            layer=layer,
            normalize=used.normalize,
            steps=arguments.steps,
            seed=arguments.seed,
            report=report,
        )
    names = [
        f"{f'unit {unit}' if layer else used.classes[unit]}: {value:.3g}"
        for unit, value in zip(chosen, values, strict=True)
    ]
    title = f"{used.name}: {layer or 'class scores'}, maximized"
    return shared.write(figures.maximal(found, names, title), arguments.out)
