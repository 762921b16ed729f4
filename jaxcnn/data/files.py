"""Images in files: one folder per class, or a table of files and labels.

``folder:/path`` is the usual tree, with one folder per class in each split::

    /path/train/cat/0001.jpg        /path/val/cat/0007.png
    /path/train/dog/0002.jpg        /path/val/dog/0008.webp

``csv:/path`` has one table per split (``train.csv``, ``val.csv``) with two columns, the file
(relative to the table) and its label, with or without a heading::

    file,label
    images/0001.jpg,cat

The first line is a heading if its file does not exist and has no suffix.

The evaluation split is the first of ``val``, ``validation``, ``valid`` and ``test`` that exists.
The classes are those of the training split, in the order of ``torchvision.datasets.ImageFolder``:
sorted as strings, so ``10`` comes before ``9``. A class keeps its index if another split lacks it.

A file is an image that :func:`jaxcnn.data.images.decode` reads, or an array, uint8 or floating
with values in 0 to 1: a ``.npy`` (``[H, W]``, ``[H, W, C]``, or several images,
``[N, H, W, C]``), or a ``.pt`` that is a tensor (``[H, W]``, ``[C, H, W]`` or ``[N, C, H, W]``),
read without PyTorch.
"""

import csv
import functools
import io
import os
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from jaxcnn.data.images import BadImageError
from jaxcnn.errors import UserError, suggest
from jaxcnn.io.checkpoint import load_tensor
from jaxcnn.io.paths import as_path, in_bucket

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif"),
    *(".ppm", ".pgm", ".tif", ".tiff", ".avif"),
)
ARRAY_SUFFIXES = (".npy", ".pt")
SUFFIXES = (*IMAGE_SUFFIXES, *ARRAY_SUFFIXES)
TRAIN = "train"
EVALUATION = ("val", "validation", "valid", "test")

# (file, label) of each example of a split.
Table = list[tuple[Path, str]]


class FileSplit:
    """A split of images in files; a :class:`jaxcnn.data.source.Source`.

    Args:
        files: (file, label, number of the image in the file) of each example; None: the file is
            one image.
        classes: the names of the classes, by label.
        root: folder of the dataset.
    """

    channels = 3

    def __init__(
        self, files: list[tuple[Path, int, int | None]], classes: Sequence[str], root: Path
    ):
        self._files, self._root = files, root
        self.num_examples = len(files)
        self.classes = tuple(classes)
        self.num_classes = len(self.classes)

    @property
    def digest(self) -> int:
        """Checksum of the files' names under the root and their labels; computed on access."""
        digest = 0
        for path, label, part in self._files:
            name = f"{os.path.relpath(path, self._root)} {label} {part}"
            digest = zlib.crc32(name.encode("utf-8", "surrogateescape"), digest)
        return digest

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that have the examples."""
        return tuple(dict.fromkeys(path for path, _, _ in self._files))

    def read(self, number: int) -> tuple[bytes | np.ndarray, int]:
        """Read the image, encoded or as an array, and the label of an example."""
        path, label, part = self._files[number]
        if path.suffix.lower() in ARRAY_SUFFIXES:
            array = _open_array(path)
            return np.asarray(array if part is None else array[part]), label
        try:
            return path.read_bytes(), label
        except OSError as error:
            if in_bucket(path) and not isinstance(error, FileNotFoundError):
                raise  # of the network: it says nothing about the image
            raise BadImageError(error.strerror or str(error)) from error

    def file_of(self, number: int) -> Path:
        """The file that has the image of an example."""
        return self._files[number][0]

    def describe(self, number: int) -> str:
        """The file of an example."""
        path, _, part = self._files[number]
        return str(path) if part is None else f"image {part} of {path}"


def split_names(kind: str, path: str) -> list[str]:
    """The splits of a dataset: training, and those for evaluation that exist.

    Args:
        kind: ``"folder"`` or ``"csv"``.
        path: folder of the dataset.

    Raises:
        UserError: if there is no such folder.
    """
    root, name_of = _opened(kind, path)
    return [TRAIN, *(name for name in EVALUATION if (root / name_of(name)).exists())]


def open_files(kind: str, path: str, split: str | None) -> FileSplit:
    """Open a split.

    Args:
        kind: ``"folder"`` or ``"csv"``.
        path: folder of the dataset.
        split: name of the split, or a part of one (``"train[:90%]"``, ``"train[10:]"``); the
            parts are those of a fixed order that mixes the classes. None, or an evaluation split
            that does not exist: the first of ``val``, ``validation``, ``valid`` and ``test`` that
            exists.

    Raises:
        UserError: if the split does not exist, is empty, or has a class that training lacks.
    """
    root, _ = _opened(kind, path)
    try:
        return _open_split(kind, root, split)
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(
            f"The dataset {root} cannot be read ({error}); it must be {_EXPECTED[kind]}."
        ) from error


def _opened(kind: str, path: str) -> tuple[Path, Callable[[str], str]]:
    """The folder of a dataset, and the name in it of each split."""
    _, name_of = _KINDS[kind]
    try:
        root = as_path(os.path.expanduser(path))
        exists = bool(path) and root.is_dir()
    except OSError as error:
        raise UserError(f"config.dataset: {path} cannot be read ({error.strerror}).") from error
    if not exists:
        raise UserError(
            f"config.dataset: there is no folder {path!r}; give {kind}:/path of a folder with "
            f"{name_of(TRAIN)} and {name_of(EVALUATION[0])}."
        )
    return root, name_of


def _open_split(kind: str, root: Path, split: str | None) -> FileSplit:
    read, name_of = _KINDS[kind]
    # A config for ImageNet says "validation".
    if split is None or (split in EVALUATION and not (root / name_of(split)).exists()):
        existing = [name for name in EVALUATION if (root / name_of(name)).exists()]
        if not existing:
            raise UserError(
                f"The folder {root} has none of {', '.join(map(name_of, EVALUATION))} for "
                f"evaluation; make one, or set --config.eval.split to a part of another, such as "
                f"'train[90%:]', and --config.train_split to the rest."
            )
        split = existing[0]
    match = re.fullmatch(r"([^][/]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if match is None or match[1] == "..":
        raise UserError(
            f"{split!r} is not a valid split; give a name, or a part such as 'train[:90%]' or "
            f"'train[100:]' (config.train_split, config.eval.split)."
        )
    name = match[1]
    for needed in (TRAIN, name):
        if not (root / name_of(needed)).exists():
            known = sorted(p.stem for p in root.iterdir() if name_of(p.stem) == p.name)
            raise UserError(f"The folder {root} has no {name_of(needed)}; {suggest(needed, known)}")
    table = read(root / name_of(name))
    classes = _classes(table if name == TRAIN else read(root / name_of(TRAIN)))
    unknown = sorted({label for _, label in table} - classes.keys())
    if unknown:
        raise UserError(
            f"{root / name_of(name)} has the class {unknown[0]!r}, which {name_of(TRAIN)} lacks; "
            f"{suggest(unknown[0], classes)}"
        )
    files = [(file, classes[label], part) for file, label in table for part in _images_in(file)]
    if not files:
        raise UserError(
            f"{root / name_of(name)} has no images; it must be {_EXPECTED[kind]}, with files "
            f"that end in {', '.join(SUFFIXES)}."
        )
    if "[" in split:
        whole = len(files)
        files = _part(files, match[2], match[3])
        if not files:
            raise UserError(
                f"The split {split!r} of {root} is empty; {name!r} has {whole:,} images, so choose "
                f"a larger part."
            )
    return FileSplit(files, list(classes), root)


def _read_tree(folder: Path) -> Table:
    def stop(error: OSError) -> None:
        raise error

    if in_bucket(folder):
        return _read_bucket_tree(folder)
    table = []
    for label in sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
        seen = set()  # links may form a circle
        for parent, folders, names in os.walk(folder / label, onerror=stop, followlinks=True):
            seen.add(os.path.realpath(parent))
            folders[:] = sorted(
                f for f in folders if os.path.realpath(os.path.join(parent, f)) not in seen
            )
            table += [
                (Path(parent, name), label)
                for name in sorted(names)
                if name.lower().endswith(SUFFIXES) and name[0] != "."
            ]
    return table


def _read_bucket_tree(folder: Path) -> Table:
    """The same for a folder in a bucket, in the same order, from one listing of its objects."""
    found = []
    for name in folder.sizes():
        *folders, file = name.split("/")
        hidden = not folders or folders[0].startswith(".") or file.startswith(".")
        if not hidden and file.lower().endswith(SUFFIXES):
            # The files of a folder come before those of the folders in it.
            found.append(([(1, part) for part in folders] + [(0, file)], name, folders[0]))
    return [(folder / name, label) for _, name, label in sorted(found)]


def _read_csv(path: Path) -> Table:
    with io.StringIO(path.read_bytes().decode("utf-8-sig"), newline="") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    table = []
    for number, row in rows:
        if len(row) != 2:
            raise UserError(
                f"Line {number} of {path} has {len(row)} columns; it must have two, the file and "
                f"its label."
            )
        if "\0" in "".join(row):
            raise UserError(
                f"Line {number} of {path} contains a NUL byte; save the table as plain text in "
                f"UTF-8."
            )
        file, label = path.parent / row[0].strip(), row[1].strip()
        # An image may have any name, a file that is missing later is reported then.
        if file.suffix.lower() not in SUFFIXES and not file.exists():
            if number == rows[0][0] and not file.suffix:
                continue  # the heading
            raise UserError(
                f"Line {number} of {path}: {row[0].strip()!r} does not exist, and does not end in "
                f"{', '.join(SUFFIXES)}; give a file relative to {path.parent}."
            )
        table.append((file, label))
    return table


_KINDS: dict[str, tuple[Callable[[Path], Table], Callable[[str], str]]] = {
    "folder": (_read_tree, "{}".format),
    "csv": (_read_csv, "{}.csv".format),
}
_EXPECTED = {
    "folder": "a tree of readable folders, one per class in each split",
    "csv": "tables of file,label in UTF-8, one per split",
}


def _classes(table: Table) -> dict[str, int]:
    """The labels by name, in the order of ``torchvision.datasets.ImageFolder``."""
    return {name: label for label, name in enumerate(sorted({name for _, name in table}))}


def _images_in(path: Path) -> list[int | None]:
    if path.suffix.lower() in ARRAY_SUFFIXES:
        try:
            array = _open_array(path)
        except BadImageError:
            return [None]  # reported when it is read
        if array.ndim == 4:
            return list(range(len(array)))
    return [None]


@functools.lru_cache(maxsize=64)
def _open_array(path: Path) -> np.ndarray:
    """Map a file as ``[H, W]``, ``[H, W, C]`` or ``[N, H, W, C]``."""
    try:
        if path.suffix.lower() == ".npy":
            if in_bucket(path):
                return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
            return np.lib.format.open_memmap(path, mode="r")
        tensor = load_tensor(path)
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error
    except Exception as error:  # numpy raises all kinds of errors for a damaged header
        raise BadImageError(str(error) or type(error).__name__) from error
    return np.moveaxis(tensor, -3, -1) if tensor.ndim in (3, 4) else tensor


def _part(
    files: list[tuple[Path, int, int | None]], start: str | None, end: str | None
) -> list[tuple[Path, int, int | None]]:
    # In the order of the folders a part would have only some of the classes.
    order = np.random.default_rng(0).permutation(len(files))

    def position(text: str | None) -> int | None:
        if text is None:
            return None
        return round(int(text[:-1]) / 100 * len(files)) if text.endswith("%") else int(text)

    return [files[number] for number in order[position(start) : position(end)]]
