"""Train a network: ``python train.py --config configs/resnet18.py:digits``."""

from jaxcnn.platform import set_xla_flags, use_compilation_cache
from jaxcnn.training import signals

signals.exit_on_signals()  # before the heavy imports, in which Ctrl-C could be lost
set_xla_flags()  # before JAX starts
use_compilation_cache()

from collections.abc import Sequence  # noqa: E402

from absl import app, flags  # noqa: E402
from ml_collections import config_flags  # noqa: E402

from jaxcnn.cli.report import write_pictures  # noqa: E402
from jaxcnn.training import main as training  # noqa: E402

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config",
    None,
    "The config file, and after a colon the dataset if it is not to be the file's own "
    "(configs/resnet18.py:digits). Each key is a flag too: --config.batch_size=128.",
    lock_config=True,
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


def main(argv: Sequence[str]) -> int:
    """Do what the flags ask for, and return the exit status."""
    return training.main(
        argv[1:],
        config=lambda: FLAGS.config,
        workdir=FLAGS.workdir,
        data_dir=FLAGS.data_dir,
        compilation_cache=FLAGS.compilation_cache,
        profile_steps=FLAGS.profile_steps,
        debug_nans=FLAGS.debug_nans,
        coordinator_address=FLAGS.coordinator_address,
        num_processes=FLAGS.num_processes,
        process_id=FLAGS.process_id,
        heartbeat_timeout=FLAGS.heartbeat_timeout,
        start_timeout=FLAGS.start_timeout,
        draw=write_pictures,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=training.parse_flags)
