"""Datasets in, uint8 batches out.

* :mod:`jaxcnn.data.source`: a split of a dataset, read example by example in any order;
  :mod:`jaxcnn.data.prepared` reads tfds datasets, :mod:`jaxcnn.data.files` folders and tables.
* :mod:`jaxcnn.data.resized`: copies of datasets with smaller images.
* :mod:`jaxcnn.data.images`: encoded images and arrays to pixels.
* :mod:`jaxcnn.data.transforms`: crops, resizes and flips on the host;
  :mod:`jaxcnn.data.policies`: automatic augmentation, from the operations of
  :mod:`jaxcnn.data.operations` and :mod:`jaxcnn.data.tensor_operations` and the tables of
  :mod:`jaxcnn.data.spaces`.
* :mod:`jaxcnn.data.pipeline`: batches as a function of (seed, step).
* :mod:`jaxcnn.data.series`: time series to images.
* :mod:`jaxcnn.data.digits`: a dataset that needs no download.

TensorFlow is imported only while tfds prepares a dataset.
"""
