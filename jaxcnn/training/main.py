"""The flags of ``train.py`` and ``jaxcnn train``, and what these do, down to the exit status."""

import datetime
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging
from ml_collections import config_flags

from jaxcnn.errors import UserError, one_sentence, program
from jaxcnn.io.paths import as_path, bucket_error

if TYPE_CHECKING:
    from ml_collections import ConfigDict

WRONG_REQUEST = 2
FAILED = 1
# What Gloo and JAX's coordination service say where another process is gone.
_LOST = re.compile(
    "Connection (closed|reset|refused)|Broken pipe|Socket closed|Timed out waiting|heartbeat"
    "|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED",
    re.IGNORECASE,
)
EXAMPLE = "--config configs/resnet18.py:digits"
FLAGS = flags.FLAGS


def define_flags(argv: Sequence[str]) -> None:
    """Declare the flags.

    Args:
        argv: the command line that will be parsed: the flags ``--config.KEY`` depend on it.
    """
    config_flags.DEFINE_config_file(
        "config",
        None,
        "The config file, and after a colon the dataset if it is not to be the file's own "
        "(configs/resnet18.py:digits). Each key is a flag too: --config.batch_size=128.",
        lock_config=True,
        sys_argv=list(argv),
    )
    flags.DEFINE_string(
        "workdir",
        None,
        "Where metrics and checkpoints go; a run that is already there resumes. "
        "By default a new folder under runs/.",
    )
    flags.DEFINE_string(
        "data_dir", None, "Where tfds datasets are prepared. By default ~/tensorflow_datasets."
    )
    flags.DEFINE_boolean(
        "compilation_cache",
        True,
        "Keep compiled programs in the cache folder (~/.cache/jaxcnn), where later runs find them.",
    )
    flags.DEFINE_string(
        "profile_steps",
        None,
        "FIRST:LAST, steps of which JAX's profiler writes a trace into the workdir.",
    )
    flags.DEFINE_boolean(
        "debug_nans",
        False,
        "Look at every step, and name the first layer whose output is NaN or infinite. Slower.",
    )
    flags.DEFINE_string(
        "coordinator_address",
        None,
        "host:port of process 0, where several processes train together. "
        "TPU pods and Slurm need none of these three flags.",
    )
    flags.DEFINE_integer("num_processes", None, "Number of processes that train together.")
    flags.DEFINE_integer("process_id", None, "The number of this process, from 0.")
    flags.DEFINE_integer(
        "heartbeat_timeout",
        100,
        "Seconds after which a process that is not heard of ends those that train with it.",
        lower_bound=1,
    )
    flags.DEFINE_integer(
        "start_timeout",
        300,
        "Seconds in which all processes that train together have to start.",
        lower_bound=1,
    )


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parse the command line for ``absl.app.run``; a mistake is one sentence and status 2.

    Returns:
        The arguments that are not flags.
    """
    if {"--help", "-help", "-h", "-?"} & set(argv):
        print("Train a network.")
        print(FLAGS.module_help(__name__))
        sys.exit(0)
    try:
        arguments = FLAGS(list(argv))
        # A config file that cannot be opened raises only when the flag's value is used.
        getattr(FLAGS.config, "model", None)
        return arguments
    # config_flags runs the config file and sets its keys here: whatever the file or a value of
    # the wrong type raises is the user's to fix.
    except Exception as error:
        sys.exit(_refuse(_flag_error(error, _config_path(argv))))


def _config_path(argv: Sequence[str]) -> str | None:
    """The file that ``--config`` names, without what stands after its colon."""
    for argument, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return (value if equals else following).partition(":")[0]
    return None


def _flag_error(error: BaseException, config_path: str | None) -> str:
    chain = [error]  # the error, and what it was raised from
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(cause)
    origin = chain[-1]
    if config_path is not None:
        if not os.path.isfile(config_path):
            return f"config file not found: {config_path}; give one of configs/, such as {EXAMPLE}."
        if isinstance(origin, UserError):
            return str(origin)
        if isinstance(origin, AttributeError) and origin.name == "get_config":
            return f"{config_path} has no function get_config(); see configs/resnet18.py."
        for cause in chain:
            if isinstance(cause, SyntaxError) and cause.filename == config_path:
                return f"{config_path}, line {cause.lineno}: {type(cause).__name__}: {cause.msg}."
            frames = traceback.extract_tb(cause.__traceback__)
            lines = [frame.lineno for frame in frames if frame.filename == config_path]
            if lines:
                name, text = type(cause).__name__, one_sentence(cause)
                return f"{config_path}, line {lines[-1]}: {name}: {text}"
    if isinstance(error, AttributeError) and error.args and isinstance(error.args[0], KeyError):
        key, _, hint = error.args[0].args[0].partition("\n")
        return f"There is no config key {key}; {hint or 'see docs/training.md for all of them.'}"
    return f"{one_sentence(error)} See --help."


def main(arguments: Sequence[str], draw: Callable[[Path], None]) -> int:
    """Train as the flags say.

    Args:
        arguments: the arguments that are not flags.
        draw: draws the trained run into its workdir, on the main process.

    Returns:
        0: trained; 2: the request was wrong, and a sentence on stderr says how to fix it; 128
        plus the signal's number (143 for SIGTERM): told to stop, state saved. A signal during the
        start or the end, where there is nothing to save, or a second one ends the process here.
    """
    from ml_collections import ConfigDict

    from jaxcnn.training.signals import Stopped, exit_on_signals

    logging.set_verbosity(logging.ERROR)  # silence INFO logs of all libraries
    try:
        if arguments:
            raise UserError(f"unexpected argument {arguments[0]!r}; see --help.")
        workdir = FLAGS.workdir
        given_folder = as_path(workdir) if workdir else None
        settings = FLAGS.config
        if settings is None:
            raise UserError(f"--config is required, for example {EXAMPLE}.")
        if not isinstance(settings, ConfigDict):
            raise UserError(
                f"get_config() in the file of --config returned a {type(settings).__name__}; it "
                f"must return a ConfigDict, as jaxcnn.training.config.open_config does."
            )

        if not FLAGS.compilation_cache:
            import jax

            jax.config.update("jax_enable_compilation_cache", False)
        from jaxcnn.training import distributed

        distributed.initialize(
            FLAGS.coordinator_address,
            FLAGS.num_processes,
            FLAGS.process_id,
            heartbeat_timeout=FLAGS.heartbeat_timeout,
            start_timeout=FLAGS.start_timeout,
        )
        exit_on_signals()  # again: JAX's preemption service has taken SIGTERM for itself
        settings = _agreed(settings)
        folder = given_folder or _new_workdir(settings)
        # Only now what reads data: a mistake above is answered sooner.
        from jaxcnn.training.build import build
        from jaxcnn.training.loop import train_and_evaluate
        from jaxcnn.training.profiling import Profile, parse_steps

        profile = None
        if FLAGS.profile_steps is not None:
            profile = Profile(*parse_steps(FLAGS.profile_steps), folder / "profile")
        train_and_evaluate(
            build(settings, FLAGS.data_dir),
            folder,
            profile=profile,
            debug_nans=FLAGS.debug_nans,
        )
        if distributed.is_main_process():
            _draw(draw, folder)
    except UserError as error:
        return _refuse(str(error))
    except Stopped as stopped:
        name = signal.Signals(stopped.signal_number).name
        print(f"Stopped by {name}; resume with --workdir {folder}.", file=sys.stderr)
        return 128 + stopped.signal_number
    except Exception as error:
        if isinstance(error, OSError) and (refused := bucket_error(error)) is not None:
            return _refuse(str(refused))
        _leave_others(error)
        raise
    return 0


def _leave_others(error: Exception) -> None:
    """End this process at once after an unexpected error, if it is one of several.

    Otherwise JAX would wait for the others, which wait for this one.
    """
    if "jax" not in sys.modules:
        return
    import jax

    from jaxcnn.training import distributed

    if distributed.is_single_process():
        return
    if isinstance(error, jax.errors.JaxRuntimeError) and _LOST.search(str(error)):
        print(f"{program()}: {distributed.lost_process()}", file=sys.stderr)
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(FAILED)


def _draw(draw: Callable[[Path], None], workdir: Path) -> None:
    """Draw, or say why not: the run is trained, with pictures or without."""
    try:
        draw(workdir)
    except (OSError, UserError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error).rstrip(".")
        print(f"{program()}: {workdir} has no new pictures ({reason}).", file=sys.stderr)


def _refuse(sentence: str) -> int:
    print(f"{program()}: {sentence}", file=sys.stderr)
    return WRONG_REQUEST


def _agreed(config: "ConfigDict") -> "ConfigDict":
    """The resolved config, if all processes have the same.

    Raises:
        UserError: on all processes, if it cannot be resolved on one or they differ.
    """
    from jaxcnn.training import distributed
    from jaxcnn.training.config import digest, resolve

    resolved = distributed.on_all_processes(lambda: resolve(config))
    distributed.check_equal(
        lambda: digest(resolved),
        "The processes were started with different configs; give all of them the same --config "
        "and the same --config.KEY flags.",
    )
    return resolved


def _new_workdir(config: "ConfigDict") -> Path:
    from jaxcnn.training import distributed
    from jaxcnn.training.config import run_name

    if not distributed.is_single_process():
        raise UserError("--workdir is required for several processes: one folder for all of them.")
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / run_name(config) / now
