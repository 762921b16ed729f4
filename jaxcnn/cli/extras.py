"""What to install where a command needs a package that is missing."""

from jaxcnn.errors import UserError, missing_package

# The extra in pyproject.toml that brings a module, by the module's name.
EXTRAS = {
    "absl": "train",
    "array_record": "train",
    "importlib_resources": "train",
    "jax2onnx": "onnx",
    "matplotlib": "visualize",
    "onnx": "onnx",
    "orbax": "train",
    "sklearn": "train",
    "tensorboardX": "train",
    "tensorflow": "train",
    "tensorflow_datasets": "train",
}


def missing_extra(command: str, error: ModuleNotFoundError) -> UserError | None:
    """What to tell the user of a command that lacks a package.

    Args:
        command: such as ``"jaxcnn visualize"``.
        error: that a module is missing.

    Returns:
        The error to report; None: the module does not belong to an extra of jaxcnn. So a module
        that is missing within an installed package (``tensorflow.python``) stays a traceback.
    """
    if error.name not in EXTRAS:
        return None
    return missing_package(command, error.name, EXTRAS[error.name])
