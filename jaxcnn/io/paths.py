"""Paths: of this machine's file system, or of a bucket (``gs://bucket/...``, ``s3://bucket/...``).

Here is decided what a name means. A local one becomes a ``pathlib.Path``, and nothing else is
imported; a URL becomes a :class:`jaxcnn.io.bucket.BucketPath`, which has the same methods.
"""

import os
from pathlib import Path

from jaxcnn.errors import UserError

# etils.epath, through which tfds reads, would use TensorFlow wherever that is installed. It looks
# once, when it is first used.
os.environ.setdefault("EPATH_USE_TF", "0")
# gcsfs would ask about each bucket, over gRPC, whether it is of a kind that is treated here as all
# others; without access that takes a minute. It looks when it is imported.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

SCHEMES = ("gs://", "s3://")


def in_bucket(path: str | os.PathLike[str]) -> bool:
    """Whether a path or a name is of a bucket."""
    return os.fspath(path).startswith(SCHEMES)


def as_path(name: str | os.PathLike[str]) -> Path:
    """The path that a user has named.

    Returns:
        A ``pathlib.Path``, or a :class:`jaxcnn.io.bucket.BucketPath` for a URL.

    Raises:
        UserError: for a URL of another kind or without a bucket, or if the package for its kind is
            not installed.
    """
    text = os.fspath(name)
    if not in_bucket(text):
        if "://" in text:
            raise UserError(
                f"{text} is neither a local path nor a URL that starts with "
                f"{' or '.join(SCHEMES)}; use one of these."
            )
        return Path(name)
    from jaxcnn.io.bucket import BucketPath

    return BucketPath.named(text)


def bucket_error(error: OSError) -> UserError | None:
    """The error for the user, if an error is that a bucket cannot be used; None: it is another."""
    if not isinstance(error.filename, str) or not in_bucket(error.filename):
        return None
    return UserError(
        f"{error.filename} cannot be used ({error.strerror}); check its name, the network, and "
        f"that this account has access."
    )


def is_unreachable(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in a bucket that could not be reached a moment ago.

    Each request is tried again for half a minute: a run that ends leaves out what it can.
    """
    if not in_bucket(path):
        return False
    from jaxcnn.io import bucket

    return bucket.is_unreachable()


def folder_size(folder: Path) -> tuple[int, int]:
    """How many files are in a folder, and their bytes.

    Raises:
        OSError: if it cannot be read.
    """
    if in_bucket(folder):
        sizes = list(folder.sizes().values())
    else:
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)
