"""``jaxcnn report``: a page that compares runs; and the pictures in the workdir of a run."""

import argparse
import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxcnn.errors import UserError
from jaxcnn.io.paths import as_path, in_bucket

if TYPE_CHECKING:
    import numpy as np

    from jaxcnn.visualize.report import Evaluated, Run

CURVES, CONFUSION, CONFUSIONS, MISTAKES = (
    *("curves.png", "confusion.png"),
    *("confusion.txt", "mistakes.png"),
)
_PAIRS = 50  # in confusion.txt
_DPI = 110


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "report",
        help="write a page that compares training runs",
        description="Write one HTML file about training runs, with its pictures inside: final\n"
        "figures, settings that differ, curves, confusions, worst mistakes, first-layer filters.\n"
        "Of a run that has not ended, it shows what there is.",
        epilog="examples:\n"
        "  jaxcnn report runs/lenet5-digits/20260101-120000\n"
        "  jaxcnn report runs/a runs/b --out comparison.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", metavar="RUN", nargs="+", help="workdir of a run of train.py")
    parser.add_argument(
        "--out", metavar="FILE", default="report.html", help="file to write (default: report.html)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the report.

    Raises:
        UserError: if a folder is not that of a run, or the file cannot be written.
    """
    folders = list(dict.fromkeys(as_path(name).resolve() for name in arguments.runs))
    from tqdm import tqdm

    from jaxcnn.io.atomic import atomic_write
    from jaxcnn.visualize.report import report_html

    names = _names(folders)
    title = names[0] if len(names) == 1 else f"{len(names)} runs"
    runs = list(map(read_run, folders, names))
    progress = functools.partial(tqdm, unit="run", leave=False, disable=None)
    page = report_html(runs, title=f"jaxcnn report: {title}", progress=progress).encode()
    # An exception on Ctrl-C, not an exit: a file half written is removed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with atomic_write(arguments.out) as file:
            file.write(page)
    except OSError as error:
        raise UserError(
            f"--out={arguments.out} cannot be written ({error.strerror}); choose a file in a "
            f"folder that exists and where you may write."
        ) from error
    print(f"Wrote {arguments.out} ({len(page) / 1e6:,.1f} MB).")
    return 0


def write_pictures(workdir: Path) -> None:
    """Draw the metrics and the last evaluation of a run into its workdir.

    Writes ``curves.png``, and of an evaluated run ``confusion.png`` (of more than 100 classes
    ``confusion.txt``) and ``mistakes.png``.

    Args:
        workdir: of a run.

    Raises:
        OSError: if a file cannot be written.
        UserError: if a file in the workdir is damaged.
    """
    from jaxcnn.io.atomic import atomic_write
    from jaxcnn.visualize import report, runs
    from jaxcnn.visualize.images import figure_png

    run = read_run(workdir, workdir.resolve().name, with_kernel=False)
    files: dict[str, bytes | None] = dict.fromkeys((CURVES, CONFUSION, CONFUSIONS, MISTAKES))
    files[CURVES] = figure_png(runs.curves({run.name: run.lines}, run.title), _DPI)
    if run.evaluated is not None:
        if len(run.classes) <= runs.MAX_CONFUSION_CLASSES:
            files[CONFUSION] = report.confusion_png(run, _DPI)
        else:
            pairs = report.worst_confusions(run, _PAIRS)
            files[CONFUSIONS] = runs.confusion_text(pairs).encode()
        if len(run.evaluated.mistakes):
            files[MISTAKES] = report.mistakes_png(run, _DPI)
    for name, content in files.items():
        if content is None:
            (workdir / name).unlink(missing_ok=True)  # of an earlier end of this run
            continue
        with atomic_write(workdir / name) as file:
            file.write(content)


def _names(folders: Sequence[Path]) -> list[str]:
    """Short names that differ: the paths below what all have in common."""
    if len(folders) == 1:
        return [folders[0].name]
    if any(map(in_bucket, folders)):
        return list(map(str, folders))
    common = os.path.commonpath([folder.parent for folder in folders])
    return [os.path.relpath(folder, common) for folder in folders]


def read_run(folder: Path, name: str, *, with_kernel: bool = True) -> "Run":
    """Read what a report tells of a run.

    Args:
        folder: its workdir.
        name: what the report calls it.
        with_kernel: whether to read the filters of its first layer.

    Raises:
        UserError: if it is not the workdir of a run, or a file is damaged.
    """
    from jaxcnn.training import workdir
    from jaxcnn.training.metrics import read_metrics
    from jaxcnn.visualize.report import Run

    settings = workdir.read_settings(folder)
    evaluated = _evaluated(folder / workdir.LAST_EVALUATION)
    classes = workdir.read_classes(folder) or []
    if evaluated is not None:
        # A network may have more outputs than the dataset has classes.
        count = max(int(evaluated.labels.max()), int(evaluated.predictions.max())) + 1
        classes = [*classes, *map(str, range(len(classes), count))]
    weights = folder / workdir.WEIGHTS
    return Run(
        name=name,
        settings=settings,
        classes=classes,
        lines=read_metrics(folder / workdir.METRICS),
        finished=weights.is_file(),
        kernel=_kernel(weights, settings.get("model")) if with_kernel else None,
        evaluated=evaluated,
    )


def _evaluated(path: Path) -> "Evaluated | None":
    from jaxcnn.training.evaluation import load_evaluation
    from jaxcnn.visualize.report import Evaluated

    saved = load_evaluation(path)
    if saved is None:
        return None
    examples = saved.examples
    return Evaluated(
        step=saved.step,
        labels=examples.label,
        predictions=examples.prediction,
        confidences=examples.confidence,
        mistakes=saved.mistakes,
        images=saved.images,
    )


def _kernel(weights: Path, model: str) -> "np.ndarray | None":
    """The kernel of the first convolution, ``[kh, kw, C, n]``."""
    from jaxcnn import models
    from jaxcnn.convert import load_checkpoint

    if not weights.is_file():
        return None
    first_conv = models.create_model(model).first_conv
    return load_checkpoint(str(weights))[f"{first_conv}.weight"].transpose(2, 3, 1, 0)
