"""What ``train.py`` does with its flags, down to the exit status."""

import datetime
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from jaxcnn.errors import UserError, one_sentence

if TYPE_CHECKING:
    from ml_collections import ConfigDict

WRONG_REQUEST = 2
NO_CONFIG_FILE = (
    "The file of --config is not there, or cannot be read; give one of configs/, such as "
    "--config configs/resnet18.py, with a dataset after a colon if you like."
)


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses the command line for ``absl.app.run``; a mistake is one sentence and status 2.

    Returns:
        What is left when the flags are taken out.
    """
    if {"--help", "-help", "-h", "-?"} & set(argv):
        print(sys.modules["__main__"].__doc__)
        print(flags.FLAGS.main_module_help())
        sys.exit(0)
    try:
        return flags.FLAGS(list(argv))
    # config_flags runs the config file and sets its keys here: whatever the file or a value of
    # the wrong type raises is the user's to mend.
    except Exception as error:
        if isinstance(error, AttributeError) and isinstance(error.args[0], KeyError):
            key, _, hint = error.args[0].args[0].partition("\n")
            sys.exit(_refuse(f"There is no config key {key}; {hint or 'the README lists them.'}"))
        if isinstance(error, OSError):
            sys.exit(_refuse(NO_CONFIG_FILE))
        sys.exit(_refuse(f"{one_sentence(error)} See python train.py --help."))


def main(
    arguments: Sequence[str],
    *,
    config: "Callable[[], ConfigDict | None]",
    workdir: str | None,
    data_dir: str | None,
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> int:
    """Trains as the flags say.

    Args:
        arguments: what is no flag.
        config: gives the value of ``--config``.
        workdir: the flag; None: a new folder.
        data_dir: the flag.
        coordinator_address: the flag.
        num_processes: the flag.
        process_id: the flag.

    Returns:
        0: trained; 2: the request was wrong, and one sentence on stderr says how to mend it; 128
        and the signal's number (143 for SIGTERM): told to stop, state saved.
    """
    from jaxcnn.training import distributed, request
    from jaxcnn.training.signals import Stopped

    logging.set_verbosity(logging.ERROR)  # or every library tells of its day
    try:
        if arguments:
            raise UserError(f"{arguments[0]!r} is no flag; see python train.py --help.")
        settings = _read_config(config)
        distributed.initialize(coordinator_address, num_processes, process_id)
        request.check_config(settings)
        request.check_devices(settings)
        request.model_factory(settings)
        if workdir and "://" in workdir:
            raise UserError(f"--workdir is {workdir!r}; it must be on a local or mounted disk.")
        folder = Path(workdir) if workdir else _new_workdir(settings)
        # The data come with it: a mistake above is answered sooner.
        from jaxcnn.training.loop import train

        train(settings, folder, data_dir)
    except UserError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return 128 + signal.SIGINT
    except Stopped as stopped:
        name = signal.Signals(stopped.signal_number).name
        print(f"Stopped by {name}; run again with --workdir {folder} to go on.", file=sys.stderr)
        return 128 + stopped.signal_number
    return 0


def _refuse(sentence: str) -> int:
    print(f"train.py: {sentence}", file=sys.stderr)
    return WRONG_REQUEST


def _read_config(config: "Callable[[], ConfigDict | None]") -> "ConfigDict":
    from ml_collections import ConfigDict

    value = config()
    if value is None:
        raise UserError(
            "There is no --config; give one, such as --config configs/resnet18.py:digits."
        )
    if not isinstance(value, ConfigDict):  # config_flags puts off the error of a missing file
        raise UserError(NO_CONFIG_FILE)
    return value


def _new_workdir(config: "ConfigDict") -> Path:
    from jaxcnn.training import distributed

    if not distributed.is_alone():
        raise UserError("Several processes need one --workdir that all of them can reach.")
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    dataset = str(config.dataset).replace("/", "-").replace(":", "-")
    return Path("runs") / f"{config.model}-{dataset}" / now
