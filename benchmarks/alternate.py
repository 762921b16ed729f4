"""Time the same work in jaxcnn, plain Flax and PyTorch, in turn: what two benchmarks share.

Each side runs in a process of its own, which prepares the work once and then waits; the sides take
turns, several rounds, so that a noisy machine treats them alike. Neither TensorFlow nor
tensorflow-datasets is needed.
"""

import argparse
import contextlib
import itertools
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

# The table of the documentation: network, pixels, batch.
NETWORKS = (
    "resnet18:32:32,resnet18:64:32,resnet18:224:32,resnet50:224:8,resnext50_32x4d:224:4,"
    "regnet_y_400mf:224:8,alexnet:224:8,vgg11:224:4,googlenet:224:8,densenet121:224:8,"
    "squeezenet1_1:224:8,shufflenet_v2_x1_0:224:8,mobilenet_v2:224:8,mobilenet_v3_large:224:8,"
    "mnasnet1_0:224:8,efficientnet_b0:224:8,convnext_tiny:224:4,inception_v3:299:4"
)
ROUND_SECONDS = 1.0
HERE = pathlib.Path(__file__).parent


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--networks", default=NETWORKS, help="NAME:PIXELS:BATCH,...")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--together", type=int, default=1, help="networks that are prepared at the same time"
    )
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--flax", action="store_true", help="time plain Flax as well")
    parser.add_argument("--out", type=pathlib.Path, help="JSON, where rows of other runs stay")
    parser.add_argument("--child", help=argparse.SUPPRESS)


# Runs work so many times, and waits for the last.
Run = Callable[[int], object]


def serve(prepare: Callable[[], tuple[Run, dict[str, object]]]) -> None:
    """A child: prepares, reports, then runs as often as each line of stdin says."""
    start = time.perf_counter()
    run, facts = prepare()
    run(1)
    facts = {"compile_seconds": time.perf_counter() - start, **facts}
    # The peak starts again, without the compilation's, where it can.
    if "torch" in sys.modules and (torch := sys.modules["torch"]).cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    run(1)
    print(json.dumps({"memory": _peak_memory(), **facts}), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        run(int(line))
        print(json.dumps((time.perf_counter() - start) / int(line)), flush=True)


def facts_of(program) -> dict[str, object]:
    """What a side reports of a compiled program of this project.

    JAX's peak on a GPU cannot be reset, and includes what its compiler allocated to choose
    algorithms: there ``memory`` is what the program allocates, temporary arrays and cuDNN's
    workspaces included.
    """
    import jax

    facts = {"compile_seconds": program.compile_seconds}
    if jax.default_backend() != "cpu" and program.memory is not None:
        facts["memory"] = program.memory / 2**20
    return facts


def _peak_memory() -> float | None:
    """MiB: PyTorch's on a GPU, or else of the process."""
    if "torch" in sys.modules and (torch := sys.modules["torch"]).cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return None


@contextlib.contextmanager
def _child(script: str, flags: Sequence[str], side: str) -> Iterator[subprocess.Popen[str]]:
    environ = {
        "OMP_WAIT_POLICY": "passive",  # torch's threads spin otherwise
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # the sides share a GPU
        **os.environ,
    }
    process = subprocess.Popen(
        [sys.executable, script, *flags, f"--child={side}"],
        env={**environ, "PYTHONPATH": f"{HERE.parent}:{environ.get('PYTHONPATH', '')}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _answer(process: subprocess.Popen[str]) -> object:
    for line in process.stdout:
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(line)
    raise SystemExit(f"a side ended with status {process.wait()}")


def compare(
    script: str,
    networks: Sequence[Sequence[str]],
    flags: Sequence[str],
    sides: Sequence[str],
    rounds: int,
) -> Iterator[dict[str, dict[str, object]]]:
    """For each network, by side: images per second (median and spread), what it reported.

    Args:
        script: what the children run.
        networks: names, pixels and batches; several are prepared at the same time, and then timed
            one after another.
        flags: of the children.
        sides: of each network.
        rounds: in which the sides of a network take turns.
    """
    with contextlib.ExitStack() as stack:
        children: dict[tuple[int, str], subprocess.Popen[str]] = {}
        facts = {}
        for number, network in enumerate(networks):
            for side in sides:
                key, only = (number, side), f"--networks={':'.join(network)}"
                children[key] = stack.enter_context(_child(script, [*flags, only], side))
                if len(networks) == 1:  # one after another: compilation takes all cores
                    facts[key] = _answer(children[key])
        for key in children.keys() - facts.keys():
            facts[key] = _answer(children[key])
        for number, (_, _, batch) in enumerate(networks):
            own = {side: children[number, side] for side in sides}
            counts = {side: max(1, round(ROUND_SECONDS / _seconds(own[side], 2))) for side in sides}
            rates: dict[str, list[float]] = {side: [] for side in sides}
            for _ in range(rounds):
                for side in sides:
                    rates[side].append(int(batch) / _seconds(own[side], counts[side]))
            yield {side: _median(rates[side]) | facts[number, side] for side in sides}


def _seconds(child: subprocess.Popen[str], times: int) -> float:
    """The mean seconds of one of several runs by a child."""
    print(times, file=child.stdin, flush=True)
    return _answer(child)


def _median(rates: Sequence[float]) -> dict[str, object]:
    middle = statistics.median(rates)
    spread = max(abs(rate - middle) for rate in rates) / middle
    return {"images_per_second": middle, "spread": spread}


def main(
    script: str,
    document: str,
    prepare: dict[str, Callable[..., tuple[Run, dict[str, object]]]],
    more: Callable[[argparse.ArgumentParser], None],
    cost: int,
) -> None:
    """The command line of a benchmark.

    Args:
        script: its file.
        document: its docstring.
        prepare: by side, a function of (name, pixels, batch, arguments) that prepares the work.
        more: declares more arguments.
        cost: multiply-adds of the work, in forward passes.
    """
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    more(parser)
    arguments = parser.parse_args()
    networks = [network.split(":") for network in arguments.networks.split(",")]
    if arguments.child:
        ((name, size, batch),) = networks
        side = prepare[arguments.child]
        serve(lambda: side(name, int(size), int(batch), arguments))
        return
    from jaxcnn import models

    peak = json.loads(
        subprocess.run(
            [sys.executable, "-c", _PEAK.format(dtype=arguments.dtype)],
            env={**os.environ, "PYTHONPATH": f"{HERE.parent}"},
            stdout=subprocess.PIPE,
            check=True,
        ).stdout
    )
    sides = [side for side in prepare if side != "flax" or arguments.flax]
    print(f"{peak['device']} ({platform.machine()}, {os.cpu_count()} cores), ", end="")
    print(f"JAX {peak['jax']}, {arguments.dtype}\n")
    heads = [f"{side}, images/s" for side in sides]
    print(f"| network, pixels, batch | {' | '.join(heads)} | ratio | of peak | spread | ", end="")
    print("compile, s | memory, MiB |")
    print("|---" + "|---:" * (len(sides) + 5) + "|", flush=True)
    chunks = range(0, len(networks), arguments.together)
    found_of_each = itertools.chain.from_iterable(
        compare(
            script,
            networks[first : first + arguments.together],
            sys.argv[1:],
            sides,
            arguments.rounds,
        )
        for first in chunks
    )
    for (name, size, batch), found in zip(networks, found_of_each, strict=True):
        own, torch = found["jaxcnn"], found["torch"]
        multiply_adds = models.summary(name, image_size=int(size), depth=0).multiply_adds
        row = {
            "device": peak["device"],
            "jax": peak["jax"],
            "dtype": arguments.dtype,
            "together": arguments.together,
            "ratio": own["images_per_second"] / torch["images_per_second"],
            "peak": cost * multiply_adds * own["images_per_second"] / peak["peak"],
            "sides": found,
        }
        cells = [f"{name} {size}, {batch}"]
        cells += [f"{side['images_per_second']:,.1f}" for side in found.values()]
        cells += [f"{row['ratio']:.2f}", f"{row['peak']:.0%}"]
        for fact, form in (("spread", ".0%"), ("compile_seconds", ".0f"), ("memory", ",.0f")):
            cells.append(", ".join(format(side[fact] or 0, form) for side in found.values()))
        print(f"| {' | '.join(cells)} |", flush=True)
        if arguments.out is not None:
            rows = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
            of_machine = f"{arguments.dtype}:{peak['device']}:JAX {peak['jax']}"
            rows[f"{name}:{size}:{batch}:{of_machine}"] = row
            arguments.out.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n")


_PEAK = """
import json
from jaxcnn.platform import set_xla_flags
set_xla_flags()
import jax
from jaxcnn.training.speed import peak_arithmetic
print(json.dumps({{
    "device": jax.devices()[0].device_kind,
    "jax": jax.__version__,
    "peak": peak_arithmetic("{dtype}"),
}}))
"""


def plain_flax(next_function, args, kwargs, context):
    """Flax's own convolution and batch norm in place of this project's, with equal parameters."""
    from flax import linen as nn

    from jaxcnn.models.layers import BatchNorm, Conv

    layer = context.module
    if context.method_name != "__call__" or layer.is_initializing():
        return next_function(*args, **kwargs)
    (x, *rest), variables = args, layer.variables
    if type(layer) is Conv and not layer.weight_norm:
        from jaxcnn.models.arithmetic import pair

        plain = nn.Conv(
            layer.features,
            pair(layer.kernel_size),
            pair(layer.stride),
            [(p, p) for p in pair(layer.padding)],
            kernel_dilation=pair(layer.dilation),
            feature_group_count=layer.groups,
            use_bias=layer.use_bias,
            dtype=layer.dtype,
        )
        return plain.apply(variables, x)
    if type(layer) is BatchNorm:
        train = kwargs.get("train", rest[0] if rest else False)
        plain = nn.BatchNorm(
            use_running_average=not train,
            momentum=1 - layer.momentum,
            epsilon=layer.eps,
            dtype=layer.dtype,
        )
        y, updated = plain.apply(variables, x, mutable=["batch_stats"])
        if train:
            for name, value in updated["batch_stats"].items():
                layer.put_variable("batch_stats", name, value)
        return y
    return next_function(*args, **kwargs)


def sides(prepare, prepare_torch):
    """The sides by name: ``prepare`` as this project runs, and with plain Flax; and PyTorch's."""

    def prepare_jax(*args):
        from jaxcnn.platform import set_xla_flags

        set_xla_flags()
        return prepare(*args)

    def prepare_flax(*args):
        from flax import linen as nn

        with nn.intercept_methods(plain_flax):
            return prepare(*args)

    return {"jaxcnn": prepare_jax, "flax": prepare_flax, "torch": prepare_torch}


def torch_module(name: str):
    """Torchvision's network on the best device, and that device's name."""
    import torch
    import torchvision

    torch.backends.cudnn.benchmark = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}  # slow ones
    module = getattr(torchvision.models, name)(weights=None, **more).to(device)
    return module, device


def in_best_layout(module, work, shape: tuple[int, ...], device: str):
    """``work(images)`` of a module as a side's, channels_last or not, whichever is faster."""
    import torch

    def in_layout(memory_format: torch.memory_format) -> Run:
        module.to(memory_format=memory_format)
        images = torch.randn(shape, device=device).contiguous(memory_format=memory_format)

        def run(times: int) -> None:
            for _ in range(times):
                work(images)
            if device == "cuda":
                torch.cuda.synchronize()

        return run

    if device == "cuda":
        return in_layout(torch.channels_last), {}
    seconds = {}
    for memory_format in (torch.channels_last, torch.contiguous_format):
        run = in_layout(memory_format)
        run(1)
        start = time.perf_counter()
        run(2)
        seconds[memory_format] = time.perf_counter() - start
    best = min(seconds, key=seconds.__getitem__)
    return in_layout(best), {"layout": str(best)}
