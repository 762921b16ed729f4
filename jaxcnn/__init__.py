"""Torchvision's convolutional networks, and the classics before them, as Flax modules.

Importing the package is cheap; its parts are imported by name::

    from jaxcnn import convert, models

* :mod:`jaxcnn.models`: the networks (needs jax and flax only).
* :mod:`jaxcnn.convert`: PyTorch state dicts to Flax variables and back.
* :mod:`jaxcnn.data`: tensorflow-datasets in, uint8 batches out (imports TensorFlow).
* :mod:`jaxcnn.training`: the training step, its schedules, checkpoints and loop.
"""

__version__ = "0.1.0"
