"""tensorflow-datasets, for a host that trains with JAX.

Modules that need it use ``from jaxcnn.data.tfds import tfds``. TensorFlow is imported only to
prepare a dataset; prepared datasets are read without it.
"""

import os
import sys

# Read by TensorFlow's C++ at import: silence INFO logs, and those about oneDNN, which is not used.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import jaxcnn.io.paths  # noqa: F401, I001  before tfds: it keeps epath from TensorFlow
import tensorflow_datasets as tfds

if not sys.stderr.isatty():
    tfds.disable_progress_bar()


def keep_off_accelerators() -> None:
    """Hide GPUs and TPUs from TensorFlow, which would otherwise take the memory that JAX needs."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")


__all__ = ["keep_off_accelerators", "tfds"]
