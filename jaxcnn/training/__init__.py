"""Training: from a config to a trained network.

* :mod:`jaxcnn.training.config`: the keys, what fills them in, what they may be;
  :mod:`jaxcnn.training.recipes`: how networks are trained.
* :mod:`jaxcnn.training.build`: from a config to the objects of a run.
* :mod:`jaxcnn.training.loop`: the run.
* :mod:`jaxcnn.training.step`: what one replica computes, of :mod:`~jaxcnn.training.losses`,
  :mod:`~jaxcnn.training.augmentation`, :mod:`~jaxcnn.training.optimizer`,
  :mod:`~jaxcnn.training.schedules`, :mod:`~jaxcnn.training.ema` and
  :mod:`~jaxcnn.training.parameters` (what trains, and at which rate). They need neither data nor
  files.
"""
