"""Settings of JAX and XLA that have to be in the environment before JAX starts.

Nothing here imports JAX, so that a program can call it first.
"""

import hashlib
import importlib.metadata
import os
import platform
import re
import time
from pathlib import Path

from jaxcnn.errors import UserError
from jaxcnn.io.cache import cache_folder

# XLA on a CPU hands each convolution to YNNPACK. Eigen, its other way, trains a network on large
# images faster, by how much depends on the processor (benchmarks/xla_flags.py, docs/python.md).
# Reductions and products stay with YNNPACK.
YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
YNN_VALUE = "-individual_convolution"
# Releases of jaxlib that know the flag, from and before: XLA ends the process at an unknown one.
YNN_JAXLIB = ((0, 10), (0, 13))

# Of the compiled programs of one kind of machine; the least recently used are deleted.
COMPILED_BYTES = 4 * 2**30
COMPILED_SECONDS = 0.1  # what compiles faster is not kept
# jaxlib before this release logs an error for each program of a CPU that it reads: it takes hints
# of the compiler (+prefer-no-gather) for instructions that the processor lacks.
QUIET_JAXLIB = (0, 12)


def set_xla_flags() -> None:
    """Append the flags that make convolutions faster on a CPU to the variable ``XLA_FLAGS``.

    A flag that the user has set stays as it is, and nothing is set for a release of jaxlib that is
    not known to have it. Call it before JAX starts its backend, best before JAX is imported::

        from jaxcnn.platform import set_xla_flags

        set_xla_flags()
        import jax
    """
    flags = os.environ.get("XLA_FLAGS", "")
    is_set = any(flag.partition("=")[0] == YNN_FLAG for flag in flags.split())
    if not is_set and _has_ynn_flag():
        os.environ["XLA_FLAGS"] = f"{flags} {YNN_FLAG}={YNN_VALUE}".strip()


def _has_ynn_flag() -> bool:
    first, before = YNN_JAXLIB
    version = _jaxlib()
    return version is not None and first <= version < before


def _jaxlib() -> tuple[int, int] | None:
    """The first two numbers of jaxlib's release; None without jaxlib."""
    try:
        version = importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        return None
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return None if numbers is None else (int(numbers[1]), int(numbers[2]))


def use_compilation_cache() -> None:
    """Keep compiled programs in the cache folder, where a later start finds them.

    Sets JAX's own variables (``JAX_COMPILATION_CACHE_DIR`` and others), where the user has not.
    Nothing is kept where the folder cannot be written, and nothing is done under
    ``JAX_ENABLE_COMPILATION_CACHE=false``. Call it before JAX is imported.
    """
    off = os.environ.get("JAX_ENABLE_COMPILATION_CACHE", "").lower() in ("0", "false", "f", "no")
    if off or "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        folder = cache_folder() / "compiled" / _machine()
        folder.mkdir(parents=True, exist_ok=True)
        _delete_unfinished(folder)
    except (OSError, UserError):
        return
    if not os.access(folder, os.W_OK):
        return
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(COMPILED_BYTES))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", str(COMPILED_SECONDS))
    if (_jaxlib() or QUIET_JAXLIB) < QUIET_JAXLIB and os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"


def _machine() -> str:
    """A name of the kind of processor.

    A program compiled for one may end in an illegal instruction on another with the same folder.
    """
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = ("model name", "flags", "Features")
        kind = sorted({line for line in lines if line.startswith(names)})
    except OSError:
        kind = [platform.processor()]
    return f"{platform.machine()}-{hashlib.sha256(repr(kind).encode()).hexdigest()[:12]}"


def _delete_unfinished(folder: Path) -> None:
    """Delete what a killed process has left: JAX writes a program, then when it was used."""
    for program in folder.glob("*-cache"):
        used = program.with_name(program.name.removesuffix("-cache") + "-atime")
        if not used.exists() and time.time() - program.stat().st_mtime > 60:
            program.unlink(missing_ok=True)
