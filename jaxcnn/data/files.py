"""Images in files of their own: a folder a class, or a table of files and labels.

``folder:/path`` is the usual tree, one folder a class in each split::

    /path/train/cat/0001.jpg        /path/val/cat/0007.png
    /path/train/dog/0002.jpg        /path/val/dog/0008.webp

``csv:/path`` has a table a split (``train.csv``, ``val.csv``) of two columns, the file and its
label, with or without a line of headings; files are looked for beside the table::

    file,label
    images/0001.jpg,cat

The evaluation split is ``val``, ``validation``, ``valid`` or ``test``, whichever is there. The
classes are those of the training split, sorted (as numbers, if all are): a class keeps its index
where another split lacks it.

A file is an image that :func:`jaxcnn.data.images.decode` reads, or an array, uint8 or floating of
values in 0 to 1: a ``.npy`` (``[H, W]``, ``[H, W, C]``, or several images, ``[N, H, W, C]``), or a
``.pt`` that is a tensor (``[H, W]``, ``[C, H, W]`` or ``[N, C, H, W]``), read without PyTorch.
"""

import csv
import functools
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxcnn.data.images import BadImageError
from jaxcnn.errors import UserError, suggest
from jaxcnn.io.checkpoint import load_tensor

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
        files: (file, class, which of the images in the file) of each example; None: the file is
            one image.
        num_classes: how many classes there are.
        root: of the dataset.
    """

    channels = 3

    def __init__(self, files: list[tuple[Path, int, int | None]], num_classes: int, root: Path):
        self._files, self._root = files, root
        self.num_examples = len(files)
        self.num_classes = num_classes

    @property
    def digest(self) -> int:
        """Of the files' names under the root, and their classes; computed when asked for."""
        digest = 0
        for path, label, part in self._files:
            name = f"{os.path.relpath(path, self._root)} {label} {part}"
            digest = zlib.crc32(name.encode("utf-8", "surrogateescape"), digest)
        return digest

    def read(self, number: int) -> tuple[bytes | np.ndarray, int]:
        """The image, encoded or as an array, and the class of an example."""
        path, label, part = self._files[number]
        if path.suffix.lower() in ARRAY_SUFFIXES:
            array = _open_array(path)
            return np.asarray(array if part is None else array[part]), label
        try:
            return path.read_bytes(), label
        except OSError as error:
            raise BadImageError(error.strerror or str(error)) from error

    def where(self, number: int) -> str:
        """Names an example."""
        path, _, part = self._files[number]
        return str(path) if part is None else f"image {part} of {path}"


def open_files(kind: str, path: str, split: str | None) -> FileSplit:
    """Opens a split.

    Args:
        kind: ``"folder"`` or ``"csv"``.
        path: of the dataset.
        split: name of the split, or a part of one (``"train[:90%]"``, ``"train[10:]"``) of the
            examples in a fixed order that mixes the classes; None, or one of these names that is
            not there: the first of ``val``, ``validation``, ``valid`` and ``test`` that is.

    Raises:
        UserError: if there is no such split, it is empty, or has a class that training lacks.
    """
    read, name_of = _KINDS[kind]
    root = Path(os.path.expanduser(path))
    if not path or not root.is_dir():
        raise UserError(
            f"The folder {path!r} of config.dataset is not there; give {kind}:/path of a folder "
            f"that holds {name_of(TRAIN)} and {name_of(EVALUATION[0])}."
        )
    try:
        return _open_split(root, read, name_of, split)
    except (OSError, UnicodeError, csv.Error) as error:
        raise UserError(
            f"The dataset {root} cannot be read ({error}); it must be {_MEANING[kind]}."
        ) from error


def _open_split(
    root: Path, read: Callable[[Path], Table], name_of: Callable[[str], str], split: str | None
) -> FileSplit:
    # A config for ImageNet says "validation".
    if split is None or (split in EVALUATION and not (root / name_of(split)).exists()):
        there = [name for name in EVALUATION if (root / name_of(name)).exists()]
        if not there:
            raise UserError(
                f"The folder {root} has none of {', '.join(map(name_of, EVALUATION))} for "
                f"evaluation; make one, or set --config.eval.split to a part of another, such as "
                f"'train[90%:]', and --config.train_split to the rest."
            )
        split = there[0]
    match = re.fullmatch(r"([^][/]+)(?:\[(-?\d+%?)?:(-?\d+%?)?\])?", split)
    if match is None or match[1] == "..":
        raise UserError(
            f"There is no split {split!r}; give the name of one, or a part such as 'train[:90%]' "
            f"or 'train[100:]' (config.train_split, config.eval.split)."
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
    if "[" in split:
        files = _part(files, match[2], match[3])
    if not files:
        raise UserError(f"There are no images in {split!r} of {root}; give it some.")
    return FileSplit(files, len(classes), root)


def _read_tree(folder: Path) -> Table:
    def stop(error: OSError) -> None:
        raise error

    table = []
    for label in sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "."):
        seen = set()  # links may lead in a circle
        for where, folders, names in os.walk(folder / label, onerror=stop, followlinks=True):
            seen.add(os.path.realpath(where))
            folders[:] = sorted(
                f for f in folders if os.path.realpath(os.path.join(where, f)) not in seen
            )
            table += [
                (Path(where, name), label)
                for name in sorted(names)
                if name.lower().endswith(SUFFIXES) and name[0] != "."
            ]
    return table


def _read_csv(path: Path) -> Table:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    for number, row in rows:
        if len(row) != 2:
            raise UserError(
                f"Line {number} of {path} has {len(row)} columns; each must have two, the file "
                f"and its label."
            )
    table = [(path.parent / file.strip(), label.strip()) for _, (file, label) in rows]
    headings = table and table[0][0].suffix.lower() not in SUFFIXES
    return table[1:] if headings else table


_KINDS: dict[str, tuple[Callable[[Path], Table], Callable[[str], str]]] = {
    "folder": (_read_tree, "{}".format),
    "csv": (_read_csv, "{}.csv".format),
}
_MEANING = {
    "folder": "a tree of readable folders, one a class in each split",
    "csv": "tables of file,label in UTF-8, one a split",
}


def _classes(table: Table) -> dict[str, int]:
    labels = {label for _, label in table}
    numbers = all(re.fullmatch(r"\d+", label) for label in labels)
    return {label: n for n, label in enumerate(sorted(labels, key=int if numbers else None))}


def _images_in(path: Path) -> list[int | None]:
    if path.suffix.lower() in ARRAY_SUFFIXES:
        try:
            array = _open_array(path)
        except BadImageError:
            return [None]  # told of when it is its turn
        if array.ndim == 4:
            return list(range(len(array)))
    return [None]


@functools.lru_cache(maxsize=64)
def _open_array(path: Path) -> np.ndarray:
    """A view of the file: ``[H, W]``, ``[H, W, C]`` or ``[N, H, W, C]``."""
    try:
        if path.suffix.lower() == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        tensor = load_tensor(path)
    except OSError as error:
        raise BadImageError(error.strerror or str(error)) from error
    except Exception as error:  # numpy raises whatever it trips over in a damaged header
        raise BadImageError(str(error) or type(error).__name__) from error
    return np.moveaxis(tensor, -3, -1) if tensor.ndim in (3, 4) else tensor


def _part(
    files: list[tuple[Path, int, int | None]], begin: str | None, end: str | None
) -> list[tuple[Path, int, int | None]]:
    # In the order of the folders a part would have some of the classes only.
    order = np.random.default_rng(0).permutation(len(files))

    def place(text: str | None) -> int | None:
        if text is None:
            return None
        return round(int(text[:-1]) / 100 * len(files)) if text.endswith("%") else int(text)

    return [files[number] for number in order[place(begin) : place(end)]]
