"""Train a network: ``python train.py --config configs/resnet18.py:digits``."""

from jaxcnn.platform import set_xla_flags, use_compilation_cache
from jaxcnn.training import signals

signals.exit_on_signals()  # before the heavy imports, in which Ctrl-C could be lost
set_xla_flags()  # before JAX starts
use_compilation_cache()

import sys  # noqa: E402

from jaxcnn.cli.train import train  # noqa: E402

if __name__ == "__main__":
    train(sys.argv)
