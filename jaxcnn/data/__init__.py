"""Datasets in, uint8 batches out.

* :mod:`jaxcnn.data.source`: a split of any tfds image-classification dataset, record by record.
* :mod:`jaxcnn.data.transforms`: crops and flips, stateless, as TensorFlow ops.
* :mod:`jaxcnn.data.pipeline`: batches as a function of (seed, step).
* :mod:`jaxcnn.data.digits`: a dataset that needs no network.

The modules import TensorFlow, this package itself does not.
"""
