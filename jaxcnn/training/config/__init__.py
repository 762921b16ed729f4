"""Configuration: every key, what it may be, and how open keys are filled in.

A config file (``configs/NAME.py``) gives :func:`open_config`, in which most keys are ``None``:
open. Once the flags are read, :func:`resolve` fills them in from the model's recipe and the
dataset's preset, so that ``--config.model`` and ``--config.dataset`` bring their own settings, and
:func:`validate` checks the result. :func:`jaxcnn.training.build.build` makes objects of it; nothing
below that sees a config.

* :mod:`~jaxcnn.training.config.keys`: the table of all keys. To add one, add an entry to ``KEYS``
  (and use it in ``build``).
* :mod:`~jaxcnn.training.config.resolve`: open configs, and what fills them in.
* :mod:`~jaxcnn.training.config.named`: the files of ``configs/`` by name.
* :mod:`~jaxcnn.training.config.validate`: what is refused before anything starts.
* :mod:`~jaxcnn.training.config.export`: configs and the table in other forms.
"""

from jaxcnn.training.config.export import as_json, digest, markdown_table, run_name
from jaxcnn.training.config.keys import KEYS, RESUMABLE, Key
from jaxcnn.training.config.named import finetune_config, get_config
from jaxcnn.training.config.resolve import open_config, resolve, resolved_from_json
from jaxcnn.training.config.rules import evaluation_size
from jaxcnn.training.config.validate import host_memory, training_sizes, validate, validate_data

__all__ = [
    "KEYS",
    "RESUMABLE",
    "Key",
    "as_json",
    "digest",
    "evaluation_size",
    "finetune_config",
    "get_config",
    "host_memory",
    "markdown_table",
    "open_config",
    "resolve",
    "resolved_from_json",
    "run_name",
    "training_sizes",
    "validate",
    "validate_data",
]
