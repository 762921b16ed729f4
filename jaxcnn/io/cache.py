"""The cache folder, for downloads and for results that later runs reuse."""

import os
from pathlib import Path

from jaxcnn.errors import UserError


def cache_folder() -> Path:
    """The cache folder: ``$JAXCNN_CACHE``, or ``jaxcnn`` in the user's cache directory.

    The latter is ``$XDG_CACHE_HOME`` or ``~/.cache``. The folder need not exist.

    Raises:
        UserError: if the user has no home folder and neither variable is set.
    """
    if own := os.environ.get("JAXCNN_CACHE"):
        return Path(os.path.expanduser(own))
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(caches):  # the standard says to ignore relative paths
        return Path(caches, "jaxcnn")
    try:
        return Path.home() / ".cache" / "jaxcnn"
    except RuntimeError as error:
        raise UserError(
            "There is no home folder for the cache; set JAXCNN_CACHE to a folder that you can "
            "write to."
        ) from error
