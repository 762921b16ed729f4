"""Training: the step, its optimiser and schedules, checkpoints, metrics and the loop.

:mod:`jaxcnn.training.step` needs neither TensorFlow nor a file; :mod:`jaxcnn.training.loop` puts
everything together.
"""
