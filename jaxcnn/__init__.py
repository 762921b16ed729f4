"""torchvision's convolutional networks, and the classics before them, as Flax modules.

Importing the package is cheap; its parts are imported by name::

    from jaxcnn import convert, models

* :mod:`jaxcnn.models`: the networks (needs jax and flax only).
* :mod:`jaxcnn.convert`: PyTorch state dicts to Flax variables and back; published weights.
* :mod:`jaxcnn.data`: tensorflow-datasets or files in, uint8 batches out.
* :mod:`jaxcnn.training`: configuration, the training step, checkpoints and the loop.
* :mod:`jaxcnn.io`: the file formats behind them.
"""

__version__ = "0.2.0"
