"""Networks in forms that other programs run: StableHLO, ONNX, TensorFlow's SavedModel.

Each takes a function of images, with the weights inside. The file of StableHLO needs JAX to be
loaded (``jax.export.deserialize``), that of ONNX any runtime, a SavedModel TensorFlow.
"""

import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import export
from jax.typing import DTypeLike

from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_write
from jaxcnn.models.layers import traced_for

if TYPE_CHECKING:
    import onnx

Function = Callable[[Mapping[str, Any], jax.Array], jax.Array]

# What StableHLO is lowered for; XLA's other backends run none of these programs.
PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Exported:
    """What is exported: a function of images, its weights, and what the images are.

    Attributes:
        function: ``function(variables, images)`` gives the logits ``[N, num_classes]``.
        variables: the weights.
        image_shape: of an image, ``(H, W, C)``.
        batch_size: N; None: any number of images.
        dtype: of the images.
    """

    function: Function
    variables: Mapping[str, Any]
    image_shape: tuple[int, int, int]
    batch_size: int | None = None
    dtype: DTypeLike = jnp.float32

    def of_images(self, images: jax.Array) -> jax.Array:
        """The logits of images, as a function of nothing else."""
        return self.function(self.variables, images)


def save_stablehlo(path: str | os.PathLike[str], exported: Exported) -> None:
    """Write a function as serialized StableHLO, which programs with JAX load and call.

    It is lowered for CPUs, NVIDIA's GPUs and TPUs. JAX guarantees that later releases load it for
    half a year.

    Args:
        path: of the file, which is written completely or not at all.
        exported: what to export.

    Example::

        with open(path, "rb") as file:
            logits = jax.export.deserialize(file.read()).call(images)
    """
    batch = exported.batch_size or export.symbolic_shape("batch")[0]
    images = jax.ShapeDtypeStruct((batch, *exported.image_shape), exported.dtype)
    program = export.export(jax.jit(exported.of_images), platforms=PLATFORMS)(images)
    with atomic_write(path) as file:
        file.write(program.serialize())


def save_onnx(path: str | os.PathLike[str], exported: Exported) -> None:
    """Write a function as an ONNX model, with the input ``images`` and the output ``logits``.

    The images stay ``[N, H, W, C]``. The conversion is jax2onnx's, of the network as XLA has it on
    no particular platform.

    Args:
        path: of the file, which is written completely or not at all.
        exported: what to export.

    Raises:
        ModuleNotFoundError: without the package jax2onnx (``pip install 'jaxcnn[onnx]'``).

    Example::

        session = onnxruntime.InferenceSession(path)
        (logits,) = session.run(None, {"images": images})
    """
    import jax2onnx

    shape = (exported.batch_size or "batch", *exported.image_shape)
    # jax2onnx does not know JAX 0.12's equations of functions within jax.jit.
    with traced_for("any"), jax.disable_jit(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package itself
        model = jax2onnx.to_onnx(
            exported.of_images,
            [jax.ShapeDtypeStruct(shape, exported.dtype)],
            model_name="jaxcnn",
            input_names=["images"],
            output_names=["logits"],
        )
    _pool_in_two_dimensions(model.graph)
    with atomic_write(path) as file:
        file.write(model.SerializeToString())


def save_saved_model(folder: str | os.PathLike[str], exported: Exported) -> None:
    """Write a function as TensorFlow's SavedModel, with a signature ``images`` to ``logits``.

    Args:
        folder: where to; it is created.
        exported: what to export.

    Raises:
        ModuleNotFoundError: without TensorFlow (``pip install 'jaxcnn[train]'``).
        UserError: if the installed TensorFlow is too old for this JAX. TensorFlow 2.21 is for JAX
            0.12 and any number of images, not for a fixed number.

    Example::

        serve = tf.saved_model.load(folder).signatures["serving_default"]
        logits = serve(images=tf.constant(images))["logits"]
    """
    import tensorflow as tf
    from jax.experimental import jax2tf

    leaves, structure = jax.tree.flatten(exported.variables)

    def of_leaves(leaves: list[jax.Array], images: jax.Array) -> jax.Array:
        return exported.function(jax.tree.unflatten(structure, leaves), images)

    converted = jax2tf.convert(
        of_leaves,
        polymorphic_shapes=[None, f"({exported.batch_size or 'batch'}, ...)"],
        with_gradient=False,
        native_serialization_platforms=PLATFORMS,
    )
    module = tf.Module()
    with tf.device("CPU"):
        weights = [tf.Variable(leaf, trainable=False) for leaf in leaves]
    module.weights = weights  # variables, for a constant may have 2 GiB at most
    images = tf.TensorSpec(
        (exported.batch_size, *exported.image_shape), jnp.dtype(exported.dtype).name, name="images"
    )
    signature = tf.function(
        lambda images: {"logits": converted(weights, images)},
        input_signature=[images],
        autograph=False,
    )
    try:  # before it is written: TensorFlow may be too old for what JAX lowers it to
        signature(tf.zeros((exported.batch_size or 1, *exported.image_shape), images.dtype))
    except tf.errors.InvalidArgumentError as error:
        raise UserError(
            f"TensorFlow {tf.__version__} cannot run what JAX {jax.__version__} writes for "
            f"{exported.batch_size or 'any number of'} images; fix the number (--batch_size=1), or "
            f"use JAX 0.10."
        ) from error
    tf.saved_model.save(module, os.fspath(folder), signatures=signature)


def _pool_in_two_dimensions(graph: "onnx.GraphProto") -> None:
    """Replace the pooling over all four axes that jax2onnx writes, which no runtime computes.

    It is ``Unsqueeze, Unsqueeze, MaxPool or Conv (a sum of windows), Squeeze``, where windows are 1
    along all axes but two, or one. It becomes pooling over those.
    """
    producers = {output: node for node in graph.node for output in node.output}
    users = {name: node for node in graph.node for name in node.input}
    replaced: dict[str, list[onnx.NodeProto]] = {}
    removed: set[str] = set()
    for node in graph.node:
        if node.op_type in ("MaxPool", "Conv") and len(_attributes(node)["strides"]) == 4:
            second, last = producers[node.input[0]], users[node.output[0]]
            first = producers[second.input[0]]
            around = [first.op_type, second.op_type, last.op_type]
            if around != ["Unsqueeze", "Unsqueeze", "Squeeze"]:
                raise ValueError(f"pooling among {around} in the ONNX graph")
            replaced[node.output[0]] = _pooling(graph, node, first.input[0], last.output[0])
            removed |= {first.output[0], second.output[0], last.output[0]}
    nodes = []
    for node in graph.node:
        if node.output[0] not in removed:
            nodes += replaced.get(node.output[0], [node])
    used = {name for node in nodes for name in node.input}
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    del graph.value_info[:]  # shapes, also of values that are gone; a runtime infers them
    graph.node.extend(nodes)
    graph.initializer.extend(weights)


def _pooling(
    graph: "onnx.GraphProto", node: "onnx.NodeProto", source: str, target: str
) -> "list[onnx.NodeProto]":
    """Nodes that pool the value ``source`` into ``target`` as a node does over all four axes."""
    from onnx import helper

    attributes = _attributes(node)
    is_sum = node.op_type == "Conv"
    if is_sum:
        (kernel,) = (tensor for tensor in graph.initializer if tensor.name == node.input[1])
    window = kernel.dims[2:] if is_sum else attributes["kernel_shape"]
    strides, pads = attributes["strides"], attributes.get("pads", [0] * 8)
    settings = list(zip(window, strides, pads[:4], pads[4:], strict=True))
    pooled = [axis for axis in range(4) if settings[axis] != (1, 1, 0, 0)]
    axes = [1, 2] if set(pooled) <= {1, 2} else [2, 3]  # of the image, or its channels
    if not set(pooled) <= set(axes):
        raise ValueError(f"pooling over the axes {pooled} in the ONNX graph")
    order = [axis for axis in range(4) if axis not in axes] + axes
    name = node.output[0]
    arguments = {
        "kernel_shape": [window[axis] for axis in axes],
        "strides": [strides[axis] for axis in axes],
        "pads": [*(pads[axis] for axis in axes), *(pads[4 + axis] for axis in axes)],
    }
    before = helper.make_node("Transpose", [source], [f"{name}_before"], perm=order)
    if not is_sum:
        pools = [helper.make_node("MaxPool", [f"{name}_before"], [f"{name}_after"], **arguments)]
    else:
        size = helper.make_tensor(f"{name}_size", kernel.data_type, (), [math.prod(window)])
        graph.initializer.append(size)
        arguments["count_include_pad"] = 1
        mean = helper.make_node("AveragePool", [f"{name}_before"], [f"{name}_mean"], **arguments)
        total = helper.make_node("Mul", [f"{name}_mean", f"{name}_size"], [f"{name}_after"])
        pools = [mean, total]
    inverse = [order.index(axis) for axis in range(4)]
    after = helper.make_node("Transpose", [f"{name}_after"], [target], perm=inverse)
    return [before, *pools, after]


def _attributes(node: "onnx.NodeProto") -> dict[str, Any]:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
