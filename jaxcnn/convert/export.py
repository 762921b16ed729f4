"""Networks in forms that other programs run: StableHLO, ONNX, TensorFlow's SavedModel.

Each takes a function of images, with the weights inside. The file of StableHLO needs JAX to be
loaded (``jax.export.deserialize``), that of ONNX any runtime, a SavedModel TensorFlow.
"""

import dataclasses
import os
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import export
from jax.typing import DTypeLike

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
    with traced_for("any"), warnings.catch_warnings():
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
    tf.saved_model.save(module, os.fspath(folder), signatures=signature)


def _pool_in_two_dimensions(graph: "onnx.GraphProto") -> None:
    """Replace the pooling over all four axes that jax2onnx writes, which no runtime computes.

    It is ``Unsqueeze, Unsqueeze, MaxPool or Conv (a sum of windows), Squeeze`` of ``[N, H, W, C]``
    with windows of 1 over N and C. It becomes pooling of ``[N, C, H, W]``.
    """
    from onnx import helper

    producers = {output: node for node in graph.node for output in node.output}
    users = {name: node for node in graph.node for name in node.input}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    replaced, removed = {}, []
    for node in graph.node:
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        strides = attributes.get("strides", ())
        if node.op_type not in ("MaxPool", "Conv") or len(strides) != 4:
            continue
        second = producers[node.input[0]]
        first, last = producers[second.input[0]], users[node.output[0]]
        if node.op_type == "MaxPool":
            window = attributes["kernel_shape"]
        else:
            window = constants[node.input[1]].dims[2:]
        pads = attributes.get("pads", [0] * 8)
        chain = [first.op_type, second.op_type, last.op_type]
        flat = (window[0], window[3], strides[0], strides[3], *pads[::4], *pads[3::4])
        if chain != ["Unsqueeze", "Unsqueeze", "Squeeze"] or flat != (1, 1, 1, 1, 0, 0, 0, 0):
            raise ValueError(f"unexpected pooling in the ONNX graph: {node.name}")
        name = node.output[0]
        arguments = {
            "kernel_shape": window[1:3],
            "strides": strides[1:3],
            "pads": [*pads[1:3], *pads[5:7]],
        }
        channels_first = helper.make_node(
            "Transpose", [first.input[0]], [f"{name}_nchw"], perm=(0, 3, 1, 2)
        )
        pooled = helper.make_node("MaxPool", [f"{name}_nchw"], [f"{name}_pooled"], **arguments)
        pooling = [pooled]
        if node.op_type == "Conv":
            pooled.op_type = "AveragePool"
            pooled.attribute.append(helper.make_attribute("count_include_pad", 1))
            size = helper.make_tensor(
                f"{name}_size", constants[node.input[1]].data_type, (), [window[1] * window[2]]
            )
            graph.initializer.append(size)
            pooling.append(
                helper.make_node("Mul", [f"{name}_pooled", f"{name}_size"], [f"{name}_sum"])
            )
        channels_last = helper.make_node(
            "Transpose", [pooling[-1].output[0]], [last.output[0]], perm=(0, 2, 3, 1)
        )
        replaced[node.output[0]] = [channels_first, *pooling, channels_last]
        removed += [first.output[0], second.output[0], last.output[0]]
    nodes = []
    for node in graph.node:
        if node.output[0] in replaced:
            nodes += replaced[node.output[0]]
        elif node.output[0] not in removed:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    # Of values that are gone; onnx infers the others' shapes.
    del graph.value_info[:]
