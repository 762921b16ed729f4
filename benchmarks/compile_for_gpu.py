"""What XLA makes of a bfloat16 training step for an NVIDIA H100, on a machine without a GPU.

    pip install -c constraints.txt -e '.[cuda12]'
    python benchmarks/compile_for_gpu.py [--networks=NAME:PIXELS:BATCH,...] [--out=DIR]

For each network: the memory that the compiled step allocates, how often it calls each of cuDNN's
functions, and with ``--out`` its HLO. Algorithms are not chosen by timing them, so that workspaces
are missing and products of matrices are all cuBLAS's.
"""

import argparse
import collections
import functools
import os
import pathlib
import re

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"

import jax_plugins.xla_cuda12 as plugin

plugin._check_cuda_versions = lambda **_: None  # asks the driver, which is not there

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax.experimental import topologies  # noqa: E402
from jax.sharding import SingleDeviceSharding  # noqa: E402

from jaxcnn import models  # noqa: E402
from jaxcnn.models.layers import traced_for  # noqa: E402
from jaxcnn.training.optimizer import sgd  # noqa: E402
from jaxcnn.training.speed import planned_memory  # noqa: E402
from jaxcnn.training.step import init_state, make_train_step  # noqa: E402

NETWORKS = "resnet50:224:256,convnext_tiny:224:128,regnet_y_400mf:224:128,vgg16:224:64"
# XLA's GpuTargetConfigProto of an H100 SXM, with CUDA's and cuDNN's limits.
H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  shared_memory_per_block_optin: 232448
  threads_per_core_limit: 2048
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84978434048
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


def compiled_step(name: str, size: int, batch: int, device: jax.Device) -> jax.stages.Compiled:
    model = models.create_model(name, dtype="bfloat16")
    optimizer = sgd(1e-3, momentum=0.9, weight_decay=1e-4)
    state = jax.eval_shape(lambda: init_state(model, optimizer, (1, size, size, 3)))
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)
    on_device = functools.partial(jax.ShapeDtypeStruct, sharding=SingleDeviceSharding(device))
    state, data = jax.tree.map(
        lambda leaf: on_device(leaf.shape, leaf.dtype), (state, {"image": images, "label": labels})
    )
    step = functools.partial(make_train_step(model, optimizer), axis_name=None)
    with traced_for("cuda"):
        return jax.jit(step, donate_argnums=0).lower(state, data).compile()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--networks", default=NETWORKS, help="NAME:PIXELS:BATCH,...")
    parser.add_argument("--out", type=pathlib.Path, help="folder for the programs")
    arguments = parser.parse_args()
    topology = topologies.get_topology_desc(
        "one H100", platform="cuda", target_config=H100, topology="1x1x1"
    )
    print("| network, pixels, batch | memory, MiB | cuDNN's functions |")
    print("|---|---:|---|", flush=True)
    for network in arguments.networks.split(","):
        name, size, batch = network.split(":")
        compiled = compiled_step(name, int(size), int(batch), topology.devices[0])
        program, memory = compiled.as_text(), planned_memory(compiled)
        calls = collections.Counter(re.findall(r'custom_call_target="__cudnn\$(\w+)"', program))
        found = ", ".join(f"{count} {function}" for function, count in sorted(calls.items()))
        print(f"| {name} {size}, {batch} | {memory / 2**20:,.0f} | {found} |")
        if arguments.out is not None:
            arguments.out.mkdir(parents=True, exist_ok=True)
            (arguments.out / f"{name}.hlo").write_text(program)


if __name__ == "__main__":
    main()
