"""The folder of a run: which run it belongs to, and what is written there once."""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxcnn.errors import UserError
from jaxcnn.io.atomic import atomic_write
from jaxcnn.io.paths import as_path, in_bucket
from jaxcnn.training.checkpoint_folder import damaged, none_left, saved_steps

CONFIG = "config.json"
CLASSES = "classes.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
TENSORBOARD = "tensorboard"
LAST_EVALUATION = "evaluation.npz"
WEIGHTS, EMA_WEIGHTS = "weights.safetensors", "weights_ema.safetensors"
BEST_WEIGHTS = "best.safetensors"


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run has saved its state in a workdir."""
    try:
        return bool(saved_steps(workdir / CHECKPOINTS))
    except UserError:  # claim_workdir tells what is wrong
        return False


def claim_workdir(
    workdir: Path,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    *,
    resumable: Collection[str] = (),
    write: bool = True,
) -> None:
    """Make a workdir this run's: a new one, or one in which the same run was started.

    Writes ``config.json`` and ``classes.json``, the names of the classes in the order of the
    logits. A workdir without a checkpoint is free, whatever ``config.json`` it has, unless its
    checkpoints are damaged.

    Args:
        workdir: the folder; made if it does not exist.
        settings: the config as nested dicts of plain values, as JSON gives them.
        classes: names of the dataset's classes.
        resumable: keys (with dots) that may change when a run resumes.
        write: whether this process writes for all.

    Raises:
        UserError: if the workdir is another run's, is damaged, or cannot be written.
    """
    with usable(workdir):
        for name in (CHECKPOINTS, TENSORBOARD):
            if (workdir / name).exists() and not (workdir / name).is_dir():
                raise UserError(
                    f"{workdir / name} is a file, but must be a folder; remove it, or use another "
                    f"--workdir."
                )
        if (workdir / METRICS).is_dir():
            raise UserError(
                f"{workdir / METRICS} is a folder, but must be a file; remove it, or use another "
                f"--workdir."
            )
        if has_checkpoint(workdir):
            _check_same_run(workdir, settings, classes, resumable)
        elif names := damaged(workdir / CHECKPOINTS):
            raise none_left(workdir / CHECKPOINTS, names)
        if not write and not (workdir / CONFIG).exists():
            raise UserError(
                f"The workdir {workdir} of this process is not that of the main process; give all "
                f"processes one folder on a shared disk."
            )
        if write:
            workdir.mkdir(parents=True, exist_ok=True)
            _write_json(workdir / CLASSES, list(classes), indent=None)
            _write_json(workdir / CONFIG, settings, indent=2)


@contextlib.contextmanager
def usable(workdir: Path) -> Iterator[None]:
    """Report an OSError within the block as a UserError about the folder."""
    try:
        yield
    except OSError as error:
        remedy = "choose a --workdir in a folder where you may write"
        if in_bucket(workdir):
            remedy = "check its name, the network, and that this account may read and write there"
        raise UserError(
            f"The workdir {workdir} cannot be used ({error.strerror}); {remedy}."
        ) from error


def read_config(workdir: Path) -> dict[str, Any]:
    """The config in a run's ``config.json``, as nested dicts of plain values.

    Raises:
        UserError: if the folder does not exist, or is not that of a run.
    """
    path = workdir / CONFIG
    if not workdir.is_dir():
        raise UserError(f"There is no folder {workdir}; give the --workdir of a run.")
    if not path.is_file():
        raise UserError(
            f"{workdir} is not the folder of a run: it has no {CONFIG}; give the --workdir that "
            f"train.py wrote to."
        )
    settings = _read_config(path)
    if not {"model", "dataset"} <= settings.keys():
        raise UserError(f"{path} lacks the model or the dataset; restore it.")
    return settings


def read_settings(workdir: Path) -> dict[str, Any]:
    """The config that :func:`read_config` reads, with dotted keys."""
    return _flatten(read_config(workdir))


def read_classes(folder: Path) -> list[str] | None:
    """The names of the classes in a folder's ``classes.json``; None: it has none.

    Raises:
        UserError: if the file is not a list of names.
    """
    path = folder / CLASSES
    if not path.is_file():
        return None
    classes = _read_json(path)
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise UserError(f"{path} is not a list of class names; remove it or restore it.")
    return classes


def has_other_classes(weights: str | Path, classes: Sequence[str]) -> bool:
    """Whether weights are a file of a run on other classes, or in another order."""
    path = as_path(weights)
    own = read_classes(path.parent) if path.is_file() else None
    return own is not None and own != list(classes)


def _write_json(path: Path, value: Any, indent: int | None) -> None:
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=indent) + "\n").encode())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} is not valid JSON ({error}); restore it, or use another --workdir."
        ) from error


def _read_config(path: Path) -> dict[str, Any]:
    config = _read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a config; restore it, or use another --workdir.")
    return config


def _check_same_run(
    workdir: Path,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    resumable: Collection[str],
) -> None:
    path = workdir / CONFIG
    if not path.exists():
        raise UserError(
            f"The workdir {workdir} has checkpoints, but no {CONFIG} that says what they belong "
            f"to; use another --workdir."
        )
    old, new = _flatten(_read_config(path)), _flatten(settings)
    # A key that only one of them has was added or removed between two versions of this package.
    changed = [
        f"config.{key} was {old[key]!r} and is now {new[key]!r}"
        for key in sorted(old.keys() & new.keys())
        if key not in resumable
        and old[key] != new[key]
        # 0.1.0 wrote None for an argument's default.
        and not (key.startswith("model_args.") and old[key] is None)
    ]
    if changed:
        raise UserError(
            f"The workdir {workdir} belongs to a different run: {'; '.join(changed)}. Use another "
            f"--workdir, or the same config to resume that run."
        )
    if "schedule_by" not in old and _changed_since_0_1(new):
        raise UserError(
            f"The workdir {workdir} belongs to a run of an earlier version of jaxcnn, in which "
            f"warm-ups and schedules were others: the learning rate would jump. Finish it with "
            f"that version, or use another --workdir."
        )
    saved_classes = read_classes(workdir)
    if saved_classes is None and all(name.isdecimal() for name in classes):
        saved_classes = sorted(classes, key=int)  # 0.1.0 wrote no names, and sorted them so
    if saved_classes is not None and saved_classes != list(classes):
        raise UserError(
            f"The workdir {workdir} belongs to a run on other classes: "
            f"{_first_difference(saved_classes, classes)}. Use another --workdir, or the dataset "
            f"as it was."
        )


def _changed_since_0_1(settings: Mapping[str, Any]) -> bool:
    """Whether 0.1.0 had another learning rate with these settings."""
    if "schedule" not in settings:
        return False
    same = settings["schedule"] in ("constant", "step") or settings["schedule_by"] == "step"
    return bool(settings["warmup_epochs"]) or not same


def _first_difference(old: Sequence[str], new: Sequence[str]) -> str:
    if len(old) != len(new):
        return f"there were {len(old)} and are now {len(new)}"
    index = next(i for i, names in enumerate(zip(old, new, strict=True)) if names[0] != names[1])
    return f"class {index} was {old[index]!r} and is now {new[index]!r}"


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
