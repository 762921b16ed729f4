"""Training: from a config to a trained network.

* :mod:`jaxcnn.training.config`: the keys, what fills them in, what they may be;
  :mod:`jaxcnn.training.recipes`: how networks are trained.
* :mod:`jaxcnn.training.build`: from a config to the objects of a run.
* :mod:`jaxcnn.training.loop`: the run.
* :mod:`jaxcnn.training.step`, :mod:`jaxcnn.training.optimizer`,
  :mod:`jaxcnn.training.augmentation`: what is computed; they need neither data nor files.
"""
