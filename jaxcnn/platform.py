"""Settings of XLA that have to be in the environment before JAX starts.

Nothing here imports JAX, so that a program can call it first.
"""

import importlib.metadata
import os
import re

# XLA on a CPU hands each convolution to YNNPACK. Eigen, its other way, trains a network on large
# images faster, by how much depends on the processor (benchmarks/xla_flags.py, docs/python.md).
# Reductions and products stay with YNNPACK.
YNN_FLAG = "--xla_cpu_experimental_ynn_fusion_type"
YNN_VALUE = "-individual_convolution"
# Releases of jaxlib that know the flag, from and before: XLA ends the process at an unknown one.
YNN_JAXLIB = ((0, 10), (0, 13))


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
    try:
        version = importlib.metadata.version("jaxlib")
    except importlib.metadata.PackageNotFoundError:
        return False
    first, before = YNN_JAXLIB
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and first <= (int(numbers[1]), int(numbers[2])) < before
