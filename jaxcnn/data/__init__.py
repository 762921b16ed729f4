"""Datasets in, uint8 batches out.

* :mod:`jaxcnn.data.source`: a split of a dataset, read example by example in any order;
  :mod:`jaxcnn.data.prepared` reads tfds datasets, :mod:`jaxcnn.data.files` folders and tables.
* :mod:`jaxcnn.data.images`: encoded images and arrays to pixels.
* :mod:`jaxcnn.data.transforms`, :mod:`jaxcnn.data.policies`: crops, flips and automatic
  augmentation on the host.
* :mod:`jaxcnn.data.pipeline`: batches as a function of (seed, step).
* :mod:`jaxcnn.data.series`: time series to images.
* :mod:`jaxcnn.data.digits`: a dataset that needs no download.

TensorFlow is imported only while tfds prepares a dataset.
"""
