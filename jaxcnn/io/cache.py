"""Where downloads and what else is worth keeping between runs are kept."""

import os
from pathlib import Path

from jaxcnn.errors import UserError


def cache_folder() -> Path:
    """Where downloads are kept: ``$JAXCNN_CACHE``, or ``jaxcnn`` in the user's folder of caches.

    The latter is ``$XDG_CACHE_HOME`` or ``~/.cache``.

    Raises:
        UserError: if none of them is known.
    """
    if own := os.environ.get("JAXCNN_CACHE"):
        return Path(os.path.expanduser(own))
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(caches):  # the standard has relative ones ignored
        return Path(caches, "jaxcnn")
    try:
        return Path.home() / ".cache" / "jaxcnn"
    except RuntimeError as error:
        raise UserError(
            "There is no home folder to keep downloads in; set JAXCNN_CACHE to a folder where you "
            "may write."
        ) from error
