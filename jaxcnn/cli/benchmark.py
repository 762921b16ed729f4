"""``jaxcnn benchmark``: how fast this machine trains and computes networks."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from jaxcnn.cli.checks import check_at_least_1

if TYPE_CHECKING:
    from jaxcnn.models.classifier import Classifier

_DTYPES = ("float32", "bfloat16")
_FORWARD_PASSES = {"step": 3, "forward": 1}  # what a program's arithmetic is worth
_HEADS = (
    *("network", "pixels", "batch", "program", "images/s", "spread"),
    *("of peak", "compiled in", "memory"),
)


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "benchmark",
        help="time training steps and forward passes of networks on this machine",
        description="Time training steps (SGD-momentum) and forward passes of networks on one\n"
        "device of this machine, on random images that are there already: images per\n"
        "second (the median of the rounds, and the largest deviation from it), the\n"
        "fraction of the arithmetic of a large product of matrices, seconds of\n"
        "compilation, and memory as the compiler plans it.",
        epilog="examples:\n"
        "  jaxcnn benchmark resnet18 mobilenet_v2 --batch_size 8\n"
        "  jaxcnn benchmark resnet50 --dtype bfloat16 --batch_size 256 --only step --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "names", nargs="+", metavar="NAME", help="networks, as jaxcnn models lists them"
    )
    parser.add_argument(
        "--image_size", type=int, metavar="PIXELS", help="default: each network's own"
    )
    parser.add_argument(
        "--batch_size", type=int, metavar="N", help="default: 8 on a CPU, 128 elsewhere"
    )
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", help="default: float32")
    parser.add_argument("--only", choices=("step", "forward"), help="default: both")
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="of half a second or more; default: 5"
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--markdown", action="store_true", help="print a Markdown table")
    output.add_argument("--json", action="store_true", help="print a JSON list")
    # Seconds of compilation are a result.
    parser.set_defaults(run=run, no_compilation_cache=True)


def run(arguments: argparse.Namespace) -> int:
    """Print a line per network and program.

    Raises:
        UserError: for an unknown network, or sizes that it does not accept.
    """
    import jax

    from jaxcnn import models
    from jaxcnn.training.speed import peak_arithmetic

    check_at_least_1(arguments, "image_size", "batch_size", "rounds")
    device = jax.devices()[0]
    batch_size = arguments.batch_size or (8 if device.platform == "cpu" else 128)
    multiply_adds = [  # before the first of them takes its time
        models.summary(name, image_size=arguments.image_size, depth=0).multiply_adds
        for name in arguments.names
    ]
    if not arguments.json:
        print(f"JAX {jax.__version__} on {device.device_kind}, {arguments.dtype}\n", flush=True)
        _print_row(_HEADS, arguments.markdown)
        if arguments.markdown:
            _print_row(["---", *["---:"] * 2, "---", *["---:"] * 5], True)
    peak, results = peak_arithmetic(arguments.dtype), []
    for name, cost in zip(arguments.names, multiply_adds, strict=True):
        model = models.create_model(name, dtype=arguments.dtype)
        for result in _measured(model, batch_size, arguments):
            result = {"network": name} | result
            cost_per_image = cost * _FORWARD_PASSES[result["program"]]
            result["peak_fraction"] = cost_per_image * result["images_per_second"] / peak
            results.append(result)
            if not arguments.json:
                _print_row(_cells(result), arguments.markdown)
    if arguments.json:
        print(json.dumps(results, indent=1))
    return 0


def _measured(
    model: "Classifier", batch_size: int, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    from jaxcnn.training.speed import forward_pass, measure, training_step

    makers = {"step": training_step, "forward": forward_pass}
    if arguments.only is not None:
        makers = {arguments.only: makers[arguments.only]}
    size = arguments.image_size or model.input_size
    programs = {
        kind: make(model, image_size=size, batch_size=batch_size) for kind, make in makers.items()
    }
    measured = measure(list(programs.values()), rounds=arguments.rounds)
    return [
        {
            "image_size": size,
            "batch_size": batch_size,
            "program": kind,
            "images_per_second": found.images_per_second,
            "spread": found.spread,
            "compile_seconds": program.compile_seconds,
            "memory_bytes": program.memory,
        }
        for (kind, program), found in zip(programs.items(), measured, strict=True)
    ]


def _cells(result: dict[str, Any]) -> list[str]:
    memory = result["memory_bytes"]
    return [
        result["network"],
        str(result["image_size"]),
        str(result["batch_size"]),
        result["program"],
        f"{result['images_per_second']:,.1f}",
        f"{result['spread']:.0%}",
        f"{result['peak_fraction']:.0%}",
        f"{result['compile_seconds']:.1f} s",
        "" if memory is None else f"{memory / 2**20:,.0f} MiB",
    ]


def _print_row(cells: "list[str] | tuple[str, ...]", markdown: bool) -> None:
    if markdown:
        print(f"| {' | '.join(cells)} |", flush=True)
    else:
        widths = (20, 6, 5, 7, 10, 6, 7, 11, 11)
        aligned = [
            f"{cell:<{w}}" if i in (0, 3) else f"{cell:>{w}}"
            for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        ]
        print("  ".join(aligned).rstrip(), flush=True)
