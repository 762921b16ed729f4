"""``jaxcnn embed``: the features that a network computes of images, in a file."""

import argparse
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.cli import network
from jaxcnn.cli.checks import check_at_least_1
from jaxcnn.cli.images import add_images, progress
from jaxcnn.errors import UserError, missing_package

if TYPE_CHECKING:
    import numpy as np

_BATCH_SIZE = 32


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "embed",
        help="write the features of images to a file",
        description="Compute the features of images: the input of the network's last layer, the\n"
        "classifier. They are written to an .npz file (numpy.load: paths [N], features\n"
        "[N, D] in float32) or a .parquet file with the columns path and features\n"
        "(needs pyarrow). The images are preprocessed as the weights expect.",
        epilog="examples:\n"
        "  jaxcnn embed photos --model resnet50 --out features.npz\n"
        "  jaxcnn embed 'photos/**/*.jpg' --workdir runs/a --out features.parquet",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_images(parser)
    network.add_arguments(parser)
    network.add_folding_argument(parser)
    parser.add_argument(
        "--batch_size", type=int, default=_BATCH_SIZE, help=f"images at once: {_BATCH_SIZE}"
    )
    parser.add_argument(
        "--out", metavar="FILE", required=True, help="file to write, *.npz or *.parquet"
    )
    parser.set_defaults(run=run, crops=1)


def run(arguments: argparse.Namespace) -> int:
    """Write the features of each image.

    Raises:
        UserError: if an argument is invalid, the network or an image cannot be read, or the file
            cannot be written.
    """
    check_at_least_1(arguments, "batch_size")
    out = Path(arguments.out).expanduser()
    write = _writer(out)
    import numpy as np

    from jaxcnn.data.image_list import ImageList

    images = ImageList(arguments.images)
    used = network.load_for_evaluation(arguments)
    features_of = _compiled(used)
    # An exception on Ctrl-C, not an exit: a file half written is removed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = []
    with progress(images.num_examples, arguments.batch_size) as bar:
        for names, batch in images.batches(used.preprocess, arguments.batch_size):
            features = features_of(batch)[: len(names)]
            for name, row in zip(names, features, strict=True):
                if not np.isfinite(row).all():
                    raise UserError(
                        f"The features of {name} are not finite: the weights are damaged, or of a "
                        f"network that was not trained."
                    )
            rows.append(features)
            bar.update(len(names))
    features = np.concatenate(rows)
    try:
        write(out, images.names, features)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror}); choose a folder that exists and where "
            f"you may write."
        ) from error
    count, length = features.shape
    print(f"Wrote {length:,} features of {count:,} image{'s' * (count > 1)} to {out}.")
    return 0


def _compiled(used: network.Network) -> "Callable[[np.ndarray], np.ndarray]":
    """The features ``[N, D]`` of uint8 images ``[N, H, W, C]``, as a compiled function."""
    import jax
    import numpy as np

    # The variables of the classifier are not used.
    model = used.model.clone(num_classes=0)

    @jax.jit
    def features(variables: Any, images: jax.Array) -> jax.Array:
        return model.apply(variables, used.normalize(images)).astype("float32")

    return lambda images: np.asarray(features(used.variables, images))


def _writer(out: Path) -> "Callable[[Path, Sequence[str], np.ndarray], None]":
    """The function that writes a file of this kind.

    Raises:
        UserError: if there is none, or the package for it is not installed.
    """
    if out.suffix == ".npz":
        return _write_npz
    if out.suffix != ".parquet":
        raise UserError(f"--out must end in .npz or .parquet, but is {str(out)!r}.")
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        missing = missing_package(str(out), "pyarrow", "parquet")
        raise UserError(f"{missing} An .npz file needs no more than NumPy.") from error
    return _write_parquet


def _write_npz(out: Path, paths: "Sequence[str]", features: "np.ndarray") -> None:
    import numpy as np

    from jaxcnn.io.atomic import atomic_write

    with atomic_write(out) as file:
        np.savez(file, paths=np.asarray(paths, str), features=features)


def _write_parquet(out: Path, paths: "Sequence[str]", features: "np.ndarray") -> None:
    import pyarrow as pa
    import pyarrow.parquet

    from jaxcnn.io.atomic import atomic_write

    column = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    table = pa.table({"path": pa.array(paths, pa.string()), "features": column})
    with atomic_write(out) as file:
        pyarrow.parquet.write_table(table, file)
