"""What the commands that read a dataset share.

This module imports nothing heavy.
"""

import argparse
import contextlib
from collections.abc import Iterator, Mapping

from jaxcnn.errors import UserError


def add_data_dir(parser: "argparse._ActionsContainer") -> None:
    """Declare ``--data_dir``."""
    parser.add_argument("--data_dir", help="where tfds's prepared datasets are")


@contextlib.contextmanager
def renamed(arguments: Mapping[str, str]) -> Iterator[None]:
    """Name a command's arguments in errors that name config keys.

    Args:
        arguments: of the command, by the config keys in errors that are written for train.py.

    Raises:
        UserError: with the changed message, if the block raises one.
    """
    try:
        yield
    except UserError as error:
        message = str(error)
        for key, argument in arguments.items():
            message = message.replace(key, argument)
        raise UserError(message) from error
