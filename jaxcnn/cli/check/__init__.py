"""``jaxcnn check``: whether this machine computes correctly, or a run's files are intact."""

import argparse
import contextlib
import importlib.metadata
import os
import sys
from typing import TYPE_CHECKING

from jaxcnn.errors import UserError, one_sentence
from jaxcnn.io.paths import as_path

if TYPE_CHECKING:
    import jax

WRONG_RESULTS = 1
_JAX = ("jax", "jaxlib")

# The largest relative error that rounding explains, by platform and dtype. On a CPU the worst
# seen was a tenth of these. GPUs and TPUs add in other orders, and have faster algorithms for
# convolutions (Winograd) that round more.
_TOLERANCES = {("cpu", "float64"): 1e-12, ("cpu", "float32"): 1e-5}
_TOLERANCE = 1e-4

# Releases of jaxlib known to compute wrong results: platform, versions, what is known.
_KNOWN_FAULTS = (
    (
        "cpu",
        ("0.10.2",),
        "jaxlib 0.10.2 is known to compute wrong sums on CPUs "
        "(https://github.com/jax-ml/jax/issues/39103).",
    ),
    (
        "gpu",
        ("0.11.0", "0.11.1"),
        "jaxlib 0.11.0 and 0.11.1 are known to compute wrong results on some GPUs "
        "(https://github.com/jax-ml/jax/issues/40633).",
    ),
)
_HINT = "Install the versions that were tested: pip install -c constraints.txt -e '.[train]'"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "check",
        help="test whether this machine computes correctly, or a run's files are intact",
        description="Report Python, packages, devices, memory and folders; then run computations\n"
        "with known results (convolutions, reductions, batch norm, a training step) on\n"
        "each device, in a few seconds. Exit status 0: all results are right; 1: some\n"
        "are wrong.\n\n"
        "With --workdir, verify the checkpoints and weights of a run instead: that each\n"
        "file is what was saved. Exit status 0: all are intact; 1: some are damaged.",
        epilog="examples:\n  jaxcnn check\n  jaxcnn check --workdir runs/a",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", metavar="RUN", help="the folder of a run of train.py")
    # What is compiled here is checked, too.
    parser.set_defaults(run=run, no_compilation_cache=True)


def run(arguments: argparse.Namespace) -> int:
    """Print the report, then one line per check; or one line per checkpoint of a run.

    Returns:
        0 if all results are right or all files intact, 1 if some are not.

    Raises:
        UserError: if JAX cannot start, or the run has no checkpoint.
    """
    if arguments.workdir is not None:
        from jaxcnn.cli.check.workdir import check_workdir

        return WRONG_RESULTS if check_workdir(as_path(arguments.workdir)) else 0
    devices = _devices()
    from jaxcnn.cli.check import environment

    for heading, value in environment.describe_environment(devices):
        print(f"{heading:12}  {value}")
    if environment.has_unused_gpu(devices):
        print(
            "\nThis machine has an NVIDIA GPU that JAX does not use. Install JAX's CUDA packages: "
            "pip install -c constraints.txt -e '.[cuda12]'"
        )
    print()
    failed = [name for device in devices for name in _failed_checks(device)]
    faults = known_faults({device.platform for device in devices})
    if failed:
        sys.stdout.flush()
        print(f"\njaxcnn: {_failure(failed, faults)}", file=sys.stderr)
        return WRONG_RESULTS
    print("\nAll results are right.")
    for fault in faults:
        print(f"But {fault} {_HINT}")
    return 0


def known_faults(platforms: set[str]) -> list[str]:
    """What is known against the installed jaxlib on these platforms, a sentence each."""
    version = importlib.metadata.version("jaxlib")
    return [
        sentence
        for platform, versions, sentence in _KNOWN_FAULTS
        if platform in platforms and version in versions
    ]


def _devices() -> "list[jax.Device]":
    """The devices that JAX would use, and the CPU beside them."""
    import jax

    try:
        devices = jax.local_devices()
    # Among others an AssertionError, for a platform of which nothing is installed.
    except Exception as error:
        chosen = os.environ.get("JAX_PLATFORMS")
        if not chosen:
            raise UserError(f"JAX cannot start: {one_sentence(error)}") from error
        raise UserError(
            f"JAX cannot start with JAX_PLATFORMS={chosen!r} in the environment: unset it, or "
            f"install what the platform needs, such as pip install -c constraints.txt -e "
            f"'.[cuda12]'."
        ) from error
    if all(device.platform != "cpu" for device in devices):
        with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS excludes it
            devices += jax.local_devices(backend="cpu")
    return devices


def _failed_checks(device: "jax.Device") -> list[str]:
    """Run the checks on a device, and print one line each."""
    from jax.errors import JaxRuntimeError

    from jaxcnn.cli.check.environment import device_name
    from jaxcnn.cli.check.known_answers import checks

    failed = []
    for dtype in ("float32", "float64") if device.platform == "cpu" else ("float32",):
        tolerance = _TOLERANCES.get((device.platform, dtype), _TOLERANCE)
        for check in checks():
            # Before it runs, so that a crash or a hang is seen to be its own.
            print(f"{check.name:33} {device_name(device)} {dtype}  ", end="", flush=True)
            try:
                error = check.relative_error(device, dtype)
            except JaxRuntimeError as failure:
                right, found = False, one_sentence(failure)
            else:
                right, found = error <= tolerance, f"relative error {error:.1e}"  # NaN is not
            print(f"{found}  {'ok' if right else 'FAILED'}", flush=True)
            if not right:
                failed.append(f"{check.name} in {dtype} on {device_name(device)}")
    return failed


def _failure(failed: list[str], faults: list[str]) -> str:
    versions = " and ".join(f"{name} {importlib.metadata.version(name)}" for name in _JAX)
    shown = failed[:3] + ([f"and {len(failed) - 3} more"] if len(failed) > 3 else [])
    sentence = f"{versions} do not compute correctly on this machine; failed: {'; '.join(shown)}."
    return " ".join([sentence, *faults, _HINT])
