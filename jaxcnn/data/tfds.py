"""tensorflow-datasets, for a host that trains with JAX.

Modules that need it say ``from jaxcnn.data.tfds import tfds``. It imports TensorFlow only to
prepare a dataset: what is prepared is read without.
"""

import os
import sys

# Read by TensorFlow's C++ at its import: less chatter, and none about oneDNN, which nothing uses.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow_datasets as tfds

if not sys.stderr.isatty():
    tfds.disable_progress_bar()


def keep_off_accelerators() -> None:
    """Imports TensorFlow, which would else take the memory that JAX needs."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    tf.config.set_visible_devices([], "TPU")


__all__ = ["keep_off_accelerators", "tfds"]
