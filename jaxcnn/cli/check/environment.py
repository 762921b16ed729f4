"""What ``jaxcnn check`` reports about the machine and what is installed."""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from jaxcnn import __version__
from jaxcnn.errors import UserError
from jaxcnn.io.cache import cache_folder

_PACKAGES = (
    "jax",
    "jaxlib",
    "jax-cuda12-plugin",
    "jax-cuda13-plugin",
    "libtpu",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-datasets",
    "tensorflow-cpu",
    "tensorflow",
    "torch",
)
_GIB = 2**30


def describe_environment(devices: list[jax.Device]) -> Iterator[tuple[str, str]]:
    """What there is, as pairs of a heading and its value."""
    yield "jaxcnn", __version__
    yield "Python", f"{platform.python_version()}, {platform.platform()}"
    yield "packages", ", ".join(f"{name} {version}" for name, version in _versions())
    for device in devices:
        yield device_name(device), f"{device.device_kind}, {_device_memory(device)}"
    yield "host", f"{os.cpu_count()} CPUs, {_host_memory()}"
    try:
        yield "cache folder", describe_folder(cache_folder())
    except UserError as error:
        yield "cache folder", str(error)
    data = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    yield "datasets", describe_folder(Path(os.path.expanduser(data)))
    yield "XLA_FLAGS", os.environ.get("XLA_FLAGS", "").strip() or "not set"


def device_name(device: jax.Device) -> str:
    """A short name, such as ``gpu:0``."""
    return f"{device.platform}:{device.id}"


def describe_folder(folder: Path) -> str:
    """The path, whether it exists, and how much of its disk is free."""
    existing = next((parent for parent in [folder, *folder.parents] if parent.is_dir()), None)
    if existing is None:
        return f"{folder} (does not exist)"
    free = f"{shutil.disk_usage(existing).free / _GIB:,.1f} GiB free"
    return f"{folder} ({free})" if existing == folder else f"{folder} (does not exist yet; {free})"


def has_unused_gpu(devices: list[jax.Device]) -> bool:
    """Whether this machine has an NVIDIA GPU that JAX, left to choose, does not use."""
    chosen = os.environ.get("JAX_PLATFORMS")
    return (
        not chosen
        and Path("/dev/nvidia0").exists()
        and all(device.platform != "gpu" for device in devices)
    )


def _versions() -> Iterator[tuple[str, str]]:
    for name in _PACKAGES:
        try:
            yield name, importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue


def _device_memory(device: jax.Device) -> str:
    statistics = device.memory_stats() or {}  # None on a CPU
    if "bytes_limit" not in statistics:
        return "memory of the host" if device.platform == "cpu" else "memory unknown"
    used = statistics.get("bytes_in_use", 0) / _GIB
    return f"{statistics['bytes_limit'] / _GIB:.1f} GiB for JAX, {used:.1f} GiB in use"


def _host_memory() -> str:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return "memory unknown"
    return f"{pages * size / _GIB:.1f} GiB of memory"
