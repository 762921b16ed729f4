"""Exports a network of each family; run where ``jaxcnn[onnx]`` is installed.

    python export_families.py FOLDER

writes ``NAME.stablehlo``, ``NAME.onnx``, ``NAME-images.npy``, and of the module
``NAME-logits.npy``.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn import convert, models
from jaxcnn.convert.export import Exported, save_onnx, save_stablehlo

_TINY_REGNET = {"depths": (1, 2), "widths": (16, 32), "group_widths": (8, 8), "se_ratio": 0.25}
# The smallest network of each family, made shallower where its arguments allow, and an image size.
FAMILIES = {
    "alexnet": (64, {}),
    "alexnet_original": (99, {}),
    "anynet": (32, _TINY_REGNET),
    "convnext_tiny": (32, {}),
    "densenet121": (32, {}),
    "efficientnet_b0": (32, {}),
    "googlenet": (64, {"aux_logits": False, "transform_input": True}),
    "googlenet_original": (64, {"aux_logits": False}),
    "inception_v3": (75, {"aux_logits": False}),
    "lenet5": (32, {}),
    "mnasnet0_5": (32, {}),
    "mobilenet_v2": (32, {}),
    "mobilenet_v3_small": (32, {}),
    "nin": (67, {}),
    "resnet18": (64, {}),
    "shufflenet_v2_x0_5": (32, {}),
    "squeezenet1_1": (64, {}),
    "vgg": (32, {"blocks": ((1, 8), (2, 16)), "batch_norm": True}),
    "zfnet": (64, {}),
}
# Those whose batch norms are folded as well, into NAME-folded.
FOLDED = ("densenet121", "resnet18")
BATCH = 3


def random_variables(model, images):
    """Initial kernels, and random biases, scales and running statistics."""
    rng = np.random.default_rng(0)

    def randomized(path, leaf):
        name = path[-1].key
        if name == "var":
            return rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype)
        if name in ("bias", "mean", "scale"):
            return leaf + rng.normal(0, 0.1, leaf.shape).astype(leaf.dtype)
        return leaf

    variables = jax.jit(model.init)(jax.random.key(0), images)
    return jax.tree_util.tree_map_with_path(randomized, variables)


def main(folder: pathlib.Path, *names: str) -> None:
    for name in names or FAMILIES:
        size, arguments = FAMILIES[name]
        model = models.create_model(name, **arguments).clone(input_size=size)
        shape = (size, size, 1 if name == "lenet5" else 3)
        images = np.random.default_rng(1).normal(size=(BATCH, *shape)).astype(np.float32)
        variables = random_variables(model, jnp.asarray(images))
        np.save(folder / f"{name}-images.npy", images)
        np.save(folder / f"{name}-logits.npy", jax.jit(model.apply)(variables, images))
        exported = Exported(model.apply, variables, shape)
        save_stablehlo(folder / f"{name}.stablehlo", exported)
        save_onnx(folder / f"{name}.onnx", exported)
        if name in FOLDED:
            model, variables = convert.fold_batch_norm(model, variables)
            assert "batch_stats" not in variables
            exported = Exported(model.apply, variables, shape)
            save_stablehlo(folder / f"{name}-folded.stablehlo", exported)
            save_onnx(folder / f"{name}-folded.onnx", exported)
        jax.clear_caches()
        print(name, flush=True)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), *sys.argv[2:])
