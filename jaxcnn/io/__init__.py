"""Files and formats, without PyTorch and without knowing any network.

* :mod:`jaxcnn.io.checkpoint`: the weights in a file, whatever its format.
* :mod:`jaxcnn.io.torch_files`: the formats of ``torch.save``, old and new;
  :mod:`jaxcnn.io.unpickler`, :mod:`jaxcnn.io.pickled_numpy`: the pickles in them.
* :mod:`jaxcnn.io.safetensors`: the safetensors format.
* :mod:`jaxcnn.io.download`: verified downloads into the cache folder.
* :mod:`jaxcnn.io.paths`: what a name means, a local path or a URL; :mod:`jaxcnn.io.bucket`: paths
  in buckets, ``gs://`` and ``s3://``.
* :mod:`jaxcnn.io.atomic`: files that are written completely or not at all.
"""
