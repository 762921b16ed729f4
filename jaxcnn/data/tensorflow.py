"""TensorFlow and tensorflow-datasets, set up for a host that trains with JAX.

Modules that need them say ``from jaxcnn.data.tensorflow import tf, tfds``.
"""

import os
import sys

# Read by C++ at the import: less chatter, and none about oneDNN, which decoding does not use.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

import tensorflow as tf
import tensorflow_datasets as tfds

tf.config.set_visible_devices([], "GPU")  # or it would take the memory that JAX needs
tf.config.set_visible_devices([], "TPU")
if not sys.stderr.isatty():
    tfds.disable_progress_bar()

__all__ = ["tf", "tfds"]
