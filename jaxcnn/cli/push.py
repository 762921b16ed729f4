"""``jaxcnn push``: a network to the Hugging Face Hub, with its model card."""

import argparse
import contextlib
import dataclasses
import json
import os
import re
import signal
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxcnn.cli import network
from jaxcnn.errors import UserError, missing_package

if TYPE_CHECKING:
    from jaxcnn.visualize.report import Run

_CURVES = "curves.png"
_FILES = ("README.md", "config.json", "model.safetensors", "mean_image.npy", _CURVES)
_MAX_CLASSES = 20  # that the card lists
# Settings whose values may be paths of this machine, which are nobody else's business.
_PATHS = ("dataset", "init_from", "teacher_weights")
# Settings that the card shows at once if they are set, beside those of the augmentation.
_RECIPE = (
    *("recipe", "init_from", "freeze", "num_epochs", "batch_size", "image_size", "optimizer"),
    *("momentum", "weight_decay", "learning_rate", "schedule", "warmup_epochs"),
    *("label_smoothing", "ema.decay", "teacher", "dtype", "seed"),
)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What is pushed.

    Attributes:
        used: the network.
        workdir: of the run that it is from; None: it is not from a run.
        weights: name of the file of the run; None: its final weights.
    """

    used: network.Network
    workdir: Path | None = None
    weights: str | None = None


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the command and its arguments."""
    parser = subparsers.add_parser(
        "push",
        help="upload a network to the Hugging Face Hub",
        description="Upload a network to the Hugging Face Hub: its weights with torchvision's\n"
        "names (model.safetensors), config.json, and a model card with the accuracy, the\n"
        "recipe and the curves of the run. Needs huggingface_hub and a login (hf auth login).",
        epilog="examples:\n"
        "  jaxcnn push runs/resnet18-cifar10 OWNER/NAME --private\n"
        "  jaxcnn push runs/resnet18-cifar10/best.safetensors OWNER/NAME\n"
        "  jaxcnn push mine.pth OWNER/NAME --model resnet50 --out folder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "source",
        metavar="RUN_OR_FILE",
        help="workdir of a run of train.py, a file of weights, or a folder that --out wrote",
    )
    parser.add_argument("repository", metavar="OWNER/NAME", help="made if it does not exist")
    parser.add_argument("--model", metavar="NAME", help="architecture of a file of weights")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument(
        "--revision", metavar="BRANCH", help="branch, made if it does not exist (default: main)"
    )
    parser.add_argument(
        "--out", metavar="FOLDER", help="write the files to this folder and upload nothing"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Write the files of the repository, and upload them.

    Raises:
        UserError: if an argument is invalid, the network cannot be read, a file cannot be
            written, or the Hub refuses the upload or cannot be reached.
    """
    repository = arguments.repository.removeprefix("hf-hub:")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise UserError(f"{repository!r} is not a repository of the Hub; expected OWNER/NAME.")
    if arguments.out is not None:
        if arguments.private or arguments.revision:
            raise UserError("--out uploads nothing; leave out --private and --revision.")
        with _writing(arguments.out):
            _write(_source(arguments), Path(arguments.out).expanduser(), repository)
        print(f"Wrote {arguments.out}; jaxcnn push {arguments.out} {repository} uploads it.")
        return 0
    hub = _Hub()  # before the work: it may be missing, or want a login
    source = _source(arguments)
    # An exception on Ctrl-C, not an exit: the temporary folder is removed.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="jaxcnn-push-") as temporary:
        folder = Path(arguments.source).expanduser()
        if not _is_saved(folder):  # one that is has the card that its owner may have edited
            folder = Path(temporary) / "network"
            with _writing(temporary):
                _write(source, folder, repository)
        url = hub.upload(folder, repository, arguments.revision, private=arguments.private)
    print(f"Pushed {source.used.name} to {url}.")
    return 0


@contextlib.contextmanager
def _writing(folder: str) -> Iterator[None]:
    """Report an OSError within the block as a UserError about the folder."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); choose a folder where you may write."
        ) from error


class _Hub:
    """The Hugging Face Hub, for the user who is logged in.

    Raises:
        UserError: if huggingface_hub is not installed, or nobody is logged in.
    """

    def __init__(self):
        try:
            from huggingface_hub import HfApi, get_token
        except ImportError as error:
            raise missing_package("jaxcnn push", "huggingface_hub", "hub") from error
        if get_token() is None:
            raise UserError(
                "You are not logged in to the Hugging Face Hub; run hf auth login, or set HF_TOKEN "
                "to a token that may write."
            )
        self._api = HfApi(library_name="jaxcnn")

    def upload(self, folder: Path, repository: str, revision: str | None, *, private: bool) -> str:
        """Upload a network in one commit; files of the repository that it has not stay.

        Args:
            folder: with the files.
            repository: ``OWNER/NAME``, made if it does not exist.
            revision: branch, made if it does not exist; None: the main branch.
            private: whether the repository must be private.

        Returns:
            The address of the repository.

        Raises:
            UserError: if the Hub refuses it or cannot be reached, or if the repository exists and
                is public but must be private.
        """
        from huggingface_hub import CommitOperationAdd

        from jaxcnn.convert.hub import hub_reason, progress_bars_in_terminals

        operations = [
            CommitOperationAdd(name, folder / name) for name in _FILES if (folder / name).is_file()
        ]
        try:
            url = self._api.create_repo(repository, private=private or None, exist_ok=True)
            if private and not self._api.model_info(repository).private:
                raise UserError(
                    f"{repository} exists and is public; make it private on the Hub, or leave out "
                    f"--private."
                )
            if revision is not None:
                self._api.create_branch(repository, branch=revision, exist_ok=True)
            with progress_bars_in_terminals():
                self._api.create_commit(
                    repository,
                    operations,
                    commit_message="Upload by jaxcnn push",
                    revision=revision,
                )
        except UserError:
            raise
        except Exception as error:  # of the package, or of any that it uses
            raise UserError(
                f"{repository} cannot be uploaded ({hub_reason(error)}); check its name, your "
                f"network, and that your login may write there."
            ) from error
        return str(url)


def _source(arguments: argparse.Namespace) -> _Source:
    """The network that is named.

    Raises:
        UserError: see :func:`jaxcnn.cli.network.load`; if nothing of this name exists.
    """
    from jaxcnn.training.workdir import BEST_WEIGHTS, CONFIG, EMA_WEIGHTS, WEIGHTS

    path = Path(arguments.source).expanduser()

    def load(**names: str | None) -> network.Network:
        named = {"model": arguments.model, "weights": None, "workdir": None} | names
        return network.load(argparse.Namespace(**named))

    if path.is_dir():
        if _is_saved(path):
            return _Source(load(weights=str(path)))
        return _Source(load(workdir=str(path)), path)
    if not path.is_file():
        raise UserError(f"There is no file or folder {path}; give a run or a file of weights.")
    of_run = path.name in (WEIGHTS, EMA_WEIGHTS, BEST_WEIGHTS) and (path.parent / CONFIG).is_file()
    if of_run and arguments.model is None:
        used = load(workdir=str(path.parent), weights=str(path))
        return _Source(used, path.parent, path.name)
    if arguments.model is None:
        raise UserError(f"{path} needs --model, the name of its architecture; see jaxcnn models.")
    return _Source(load(weights=str(path)))


def _is_saved(folder: Path) -> bool:
    """Whether :func:`jaxcnn.convert.save_pretrained` wrote a folder, and not a run."""
    from jaxcnn.convert.hub import CONFIG, WEIGHTS

    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def _write(source: _Source, folder: Path, repository: str) -> None:
    """Write the files of a repository.

    Raises:
        UserError: see :func:`jaxcnn.convert.save_pretrained`.
        OSError: if a file cannot be written.
    """
    from jaxcnn.convert.hub import HUB, describe, model_card, save_pretrained
    from jaxcnn.io.atomic import atomic_write

    used = source.used
    model = used.model
    if used.settings is not None:
        # Some networks have parameters whose shapes depend on the size of the images.
        model = model.clone(input_size=used.settings.image_size)
    parts = {"classes": used.classes, "preprocessing": _preprocessing(used)}
    about, curves = "", None
    if source.workdir is not None:
        about, curves = _about_run(source)
    config = describe(model, used.variables, **parts)
    card = model_card(config, HUB + repository, about)
    save_pretrained(folder, model, used.variables, **parts, card=card)
    if curves is not None:
        with atomic_write(folder / _CURVES) as file:
            file.write(curves)


def _preprocessing(used: network.Network) -> dict[str, Any]:
    """What the network expects of an image, as ``save_pretrained`` takes it."""
    how = used.preprocess
    return {
        "crop_size": how.image_size,
        "resize_size": None if how.crop == "none" else how.resize_size,
        "fit": how.fit,
        "interpolation": how.interpolation,
        "crops": how.crops,
        "mean": used.mean,
        "std": used.std,
    }


def _about_run(source: _Source) -> tuple[str, bytes | None]:
    """What the model card tells of a run in Markdown, and its curves as a PNG file.

    There are no curves if nothing has been logged, or without matplotlib.
    """
    from jaxcnn.cli.report import read_run

    run = read_run(source.workdir, source.workdir.resolve().name, with_kernel=False)
    parts = [_results(run, source)]
    curves = None
    if run.lines:
        try:
            from jaxcnn.visualize import runs
            from jaxcnn.visualize.images import figure_png

            curves = figure_png(runs.curves({run.name: run.lines}, _title(run)))
        except ImportError:  # matplotlib is missing
            pass
        else:
            parts.append(f"![Loss, top-1 accuracy and learning rate by epoch]({_CURVES})")
    if len(source.used.classes) <= _MAX_CLASSES:
        parts.append(f"Classes: {', '.join(map(_code, source.used.classes))}.")
    parts.append(_recipe(run.settings))
    return "\n\n".join(parts), curves


def _title(run: "Run") -> str:
    return f"{run.settings.get('model')} on {_shown(run.settings, 'dataset')}"


def _results(run: "Run", source: _Source) -> str:
    """The figures of the weights that are pushed, as a section."""
    split = run.settings.get("eval.split")
    train_split = run.settings.get("train_split")
    trained = f"## Data and accuracy\n\nTrained on {_code(_shown(run.settings, 'dataset'))}"
    trained += f", split {_code(train_split)}." if train_split else "."
    line = _evaluation(run, source)
    if not line:
        return f"{trained} These weights have not been evaluated."
    rows = [
        ("examples", f"{line['examples']:,}" if "examples" in line else ""),
        ("top-1 accuracy", f"{line['top1']:.2%}"),
        ("top-5 accuracy", f"{line['top5']:.2%}" if "top5" in line else ""),
        ("loss", f"{line['loss']:.4f}"),
    ]
    what = "the average of the weights" if line["split"] == "eval_ema" else "the weights"
    split = f", on the split {_code(split)}" if split else ""
    epochs = f"{line['epoch']:.4g} epoch{'' if line['epoch'] == 1 else 's'}"
    return (
        f"{trained} Evaluation of {what} after {epochs} ({line['step']:,} steps){split}:\n\n"
        + _table("figure", "value", [row for row in rows if row[1]])
    )


def _evaluation(run: "Run", source: _Source) -> Mapping[str, Any]:
    """The line of ``metrics.jsonl`` for the weights that are pushed; empty if there is none."""
    from jaxcnn.training.best import EMA, ranked
    from jaxcnn.training.workdir import BEST_WEIGHTS, EMA_WEIGHTS

    weights = source.weights
    if weights == BEST_WEIGHTS:
        best_by = run.settings.get("checkpoint.best_by") or "top1"
        split = "eval_ema" if best_by.startswith(EMA) else "eval"
        lines = {line["step"]: line for line in run.lines if line["split"] == split}
        figure = best_by.removeprefix(EMA)
        return lines[ranked(lines, lines, figure)[0]] if lines else {}
    if weights is None and (source.workdir / EMA_WEIGHTS).is_file():
        weights = EMA_WEIGHTS
    return run.last("eval_ema" if weights == EMA_WEIGHTS else "eval")


def _recipe(settings: Mapping[str, Any]) -> str:
    """The settings of a run as a section: those that matter most, then all of them."""
    given = {key: value for key, value in settings.items() if value is not None}
    crop = given.get("augment.crop")
    unused = {
        "augment.padding": crop != "pad_and_crop",
        "augment.resize_size": crop != "resize_and_crop",
        "augment.repeats": given.get("augment.repeats") == 1,
    }

    def matters(key: str) -> bool:
        value = given[key]
        if not (any(value) if isinstance(value, list) else value) or value == "none":
            return False
        return key in _RECIPE or (key.startswith("augment.") and not unused.get(key))

    def table(keys: Iterable[str]) -> str:
        rows = [(_code(key), _code(_shown(settings, key))) for key in keys]
        return _table("setting", "value", rows)

    return (
        f"## Recipe\n\n{table(filter(matters, given))}\n\n"
        f"<details><summary>All settings</summary>\n\n{table(given)}\n\n</details>"
    )


def _shown(settings: Mapping[str, Any], key: str) -> str:
    """A setting as text; of a path its last part only."""
    value = settings.get(key)
    if key in _PATHS and isinstance(value, str):
        kind, colon, path = value.partition(":")
        if colon and kind in ("folder", "csv"):
            return f"{kind}:{os.path.basename(path.rstrip('/'))}"
        if key != "dataset" and not value.startswith("hf-hub:"):
            return os.path.basename(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _table(first: str, second: str, rows: list[tuple[str, str]]) -> str:
    lines = [(first, second), ("---", "---"), *rows]
    return "\n".join(f"| {name} | {value} |" for name, value in lines)


def _code(text: str) -> str:
    """A code span, in which a table's bars and backticks do no harm."""
    text = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return f"`{text}`"
