"""``jaxcnn visualize filters``: the filters of a convolution."""

import argparse

from jaxcnn.cli import network
from jaxcnn.cli.visualize import shared
from jaxcnn.errors import UserError, suggest

_MOST_FILTERS, _MOST_CHANNELS = 96, 16  # in one picture


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the subcommand and its arguments."""
    parser = shared.kind_parser(
        subparsers,
        "filters",
        "the filters of a convolution",
        "Draw the filters of a convolution: the first one unless --layer names another.\n"
        "Each filter has a contrast of its own; zero is mid-gray. A filter of other than 1 or 3\n"
        "input channels is a row with an image for each of its first channels.",
        ("filters --model alexnet", "filters --workdir runs/a --layer conv2 --units 0,1,2"),
        images=False,
    )
    parser.add_argument("--layer", metavar="PATH", help="of a convolution, such as conv1")
    parser.add_argument(
        "--units", metavar="N,N", help="numbers of the filters; by default the first"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Draw the filters.

    Raises:
        UserError: if the network or the layer cannot be used.
    """
    shared.check_out(arguments)
    units = shared.numbers(arguments.units, "--units", most=_MOST_FILTERS)
    used = network.load(arguments)
    import numpy as np
    from flax import traverse_util

    from jaxcnn.visualize import figures

    layer = arguments.layer or used.model.first_conv
    kernels = {
        ".".join(path[:-1]): leaf
        for path, leaf in traverse_util.flatten_dict(used.variables["params"]).items()
        if path[-1] == "kernel" and leaf.ndim == 4
    }
    if layer not in kernels:
        raise UserError(f"--layer={layer} is no convolution here; {suggest(layer, kernels)}")
    kernel = np.asarray(kernels[layer])
    *_, channels, count = kernel.shape
    pictures = channels in (1, 3)
    if not pictures:  # a row for each filter, with an image for each channel
        kernel = kernel[:, :, :_MOST_CHANNELS]
    most = _MOST_FILTERS if pictures else _MOST_CHANNELS
    units = list(range(min(count, most))) if units is None else units
    if unknown := [unit for unit in units if unit >= count]:
        raise UserError(
            f"--units={unknown[0]} does not exist: {layer} has the filters 0 to {count - 1}."
        )
    title = f"{used.name}, {layer}: {len(units)} of {count} filters"
    if not pictures:
        title += f" (rows), {kernel.shape[2]} of {channels} channels"
    return shared.write(figures.filters(kernel[..., units], title), arguments.out)
