"""The ``jaxcnn`` command.

Each subcommand is a module with ``add_parser(subparsers)``, which declares its arguments, and
``run(arguments)``, which returns the exit status. They import JAX and other slow packages only in
``run``, so that ``--help`` answers at once.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from jaxcnn import __version__
from jaxcnn.cli import (
    benchmark,
    check,
    config,
    convert,
    embed,
    export,
    inspection,
    models,
    predict,
    prepare,
    push,
    report,
    summary,
    train,
    validate,
    visualize,
)
from jaxcnn.cli.extras import missing_extra
from jaxcnn.errors import UserError
from jaxcnn.io.paths import bucket_error
from jaxcnn.platform import set_xla_flags, use_compilation_cache
from jaxcnn.training.signals import exit_at_once

_COMMANDS = (
    *(models, summary, inspection, convert, export, push),
    *(prepare, train, predict, embed, validate, visualize, report, config, benchmark, check),
)

_EXAMPLES = """examples:
  jaxcnn models --family resnet
  jaxcnn summary resnet50
  jaxcnn inspect resnet18.pth
  jaxcnn convert resnet18.pth resnet18.safetensors --model resnet18
  jaxcnn export --model resnet50 --to onnx resnet50.onnx
  jaxcnn config resnet18:cifar10
  jaxcnn benchmark resnet18 --batch_size 8
  jaxcnn check
  jaxcnn prepare imagenet2012 --out tfds-400
  jaxcnn train resnet18:digits
  jaxcnn predict cat.jpg --model resnet50
  jaxcnn embed photos --model resnet50 --out features.npz
  jaxcnn validate --workdir runs/a
  jaxcnn visualize gradcam cat.jpg --model resnet50
  jaxcnn report runs/a runs/b
  jaxcnn push runs/a OWNER/NAME

Each command explains its arguments: jaxcnn convert --help
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        argv: the arguments; None: those of the process.

    Returns:
        0: done; 1: ``jaxcnn check`` found wrong results; 2: the arguments or a file were wrong,
        and one sentence on stderr says how to fix it; 141: stdout was closed, as shells report
        it. Ctrl-C ends the process, with status 130.
    """
    arguments = _parser().parse_args(argv)
    set_xla_flags()  # before a command imports JAX
    if not arguments.no_compilation_cache:
        use_compilation_cache()
    previous = signal.signal(signal.SIGINT, exit_at_once)
    try:
        status = arguments.run(arguments)
        sys.stdout.flush()  # here, where a closed pipe is expected
        return status
    except UserError as error:
        print(f"jaxcnn: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        missing = missing_extra(f"jaxcnn {arguments.command}", error)
        if missing is None:
            raise
        print(f"jaxcnn: {missing}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # of a command that cleans up
        exit_at_once(signal.SIGINT)
    except BrokenPipeError:  # as in jaxcnn models | head -1
        # Python flushes stdout once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # 128 + SIGPIPE, which Windows does not have
    except OSError as error:
        refused = bucket_error(error)
        if refused is None:
            raise
        print(f"jaxcnn: {refused}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGINT, previous)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jaxcnn",
        description="Convolutional networks in Flax: list them, convert their weights to and\n"
        "from PyTorch, classify images with them, check this machine.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"jaxcnn {__version__}")
    parser.add_argument(
        "--no_compilation_cache",
        action="store_true",
        help="do not keep compiled programs in the cache folder (~/.cache/jaxcnn)",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", dest="command", required=True)
    for command in _COMMANDS:
        command.add_parser(subparsers)
    return parser
