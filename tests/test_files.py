"""Datasets of images in files."""

import csv
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from photos import image_file, jpeg, photo

from jaxcnn.data.files import FileSplit
from jaxcnn.data.images import BadImageError, decode, from_array
from jaxcnn.data.series import gramian_angular_field, to_image
from jaxcnn.data.source import open_source
from jaxcnn.errors import UserError


def tree(root: pathlib.Path, files: dict[str, bytes]) -> str:
    """Write files and return the value of config.dataset for them."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return f"folder:{root}"


def picture(seed: int) -> bytes:
    return jpeg(photo(seed, 20 + seed, 30))


ANIMALS = {
    "train/cat/2.jpg": picture(2),
    "train/cat/10.JPEG": picture(3),
    "train/dog/deep/er/1.png": image_file(photo(4, 20, 30), "PNG"),
    "train/emu/1.webp": image_file(photo(5, 20, 30), "WEBP"),
    "train/emu/1.gif": image_file(photo(5, 20, 30), "GIF"),
    "train/emu/1.bmp": image_file(photo(6, 20, 30), "BMP"),
    "train/emu/.hidden.jpg": b"",
    "train/emu/notes.txt": b"",
    "train/README": b"",
    "val/emu/7.jpg": picture(7),
    "val/cat/8.jpg": picture(8),
}


def labels(source: FileSplit) -> list[int]:
    return [source.read(number)[1] for number in range(source.num_examples)]


def test_folder_equals_torchvision_image_folder(tmp_path):
    source = open_source(tree(tmp_path, ANIMALS), "train")
    reference = torchvision.datasets.ImageFolder(tmp_path / "train")
    assert [(path, label) for path, label in reference.samples if "hidden" not in path] == [
        (source.describe(n), source.read(n)[1])
        for n in range(source.num_examples)
        if not source.describe(n).endswith(".gif")  # which torchvision ignores
    ]
    assert source.num_classes == 3 and source.channels == 3
    for n in range(source.num_examples):
        assert decode(source.read(n)[0], 3).shape[1:] == (30, 3)


def test_class_keeps_its_label_if_a_split_lacks_it(tmp_path):
    source = open_source(tree(tmp_path, ANIMALS), None)
    assert source.num_classes == 3
    assert labels(source) == [0, 2]


@pytest.mark.parametrize("name", ["val", "validation", "valid", "test"])
def test_evaluation_split_has_several_names(tmp_path, name):
    files = {key.replace("val/", f"{name}/"): value for key, value in ANIMALS.items()}
    dataset = tree(tmp_path, files)
    for split in (None, "validation", name):
        assert open_source(dataset, split).num_examples == 2


def test_numeric_classes_are_ordered_as_in_torchvision(tmp_path):
    files = {f"train/{name}/1.jpg": picture(1) for name in ("10", "9", "100", "09")}
    source = open_source(tree(tmp_path, files), "train")
    reference = torchvision.datasets.ImageFolder(tmp_path / "train")
    assert source.classes == tuple(reference.classes) == ("09", "10", "100", "9")
    assert reference.samples == [(source.describe(n), source.read(n)[1]) for n in range(4)]


def test_csv_labels_are_strings(tmp_path):
    (tmp_path / "train.csv").write_text("a.jpg,1\nb.jpg,01\nc.jpg,1\nd.jpg,10\n")
    tree(tmp_path, {f"{name}.jpg": b"" for name in "abcd"})
    source = open_source(f"csv:{tmp_path}", "train")
    assert source.classes == ("01", "1", "10")
    assert labels(source) == [1, 0, 1, 2]


def test_csv_heading_is_a_missing_file_without_suffix(tmp_path):
    dataset = f"csv:{tmp_path}"
    tree(tmp_path, {"image": b"", "a.jpg": b"", "b.jpg_large": b""})
    for first, count in (("path", 2), ("image", 3), ("missing.jpg", 3)):
        (tmp_path / "train.csv").write_text(f"{first},label\na.jpg,x\nb.jpg_large,x\n")
        assert open_source(dataset, "train").num_examples == count


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("first.tga,cat\na.jpg,dog\n", "Line 1 of .*train.csv: 'first.tga' does not exist"),
        ("file,label\na.jpg,dog\nnone,cat\n", "Line 3 of .*train.csv: 'none' does not exist"),
        ("a.jpg,do\0g\n", "Line 1 of .*train.csv contains a NUL byte"),
        ("a.jpg,dog\na\0.jpg,dog\n", "Line 2 of .*train.csv contains a NUL byte"),
    ],
)
def test_invalid_csv_line_raises(tmp_path, content, words):
    (tmp_path / "train.csv").write_text(content)
    with pytest.raises(UserError, match=words):
        open_source(f"csv:{tmp_path}", "train")


def test_parts_of_a_split_are_disjoint_mixed_and_complete(tmp_path):
    files = {f"train/{c}/{n}.jpg": b"" for c in "ab" for n in range(50)}
    dataset = tree(tmp_path, files)
    parts = [open_source(dataset, split) for split in ("train[:90%]", "train[90%:]")]
    assert [part.num_examples for part in parts] == [90, 10]
    assert set(labels(parts[1])) == {0, 1}
    names = [part.describe(n) for part in parts for n in range(part.num_examples)]
    assert sorted(names) == sorted(str(tmp_path / name) for name in files)
    assert open_source(dataset, "train[:7]").num_examples == 7
    assert open_source(dataset, "train[-7:]").num_examples == 7


@pytest.mark.parametrize("headings", [True, False])
def test_csv_dataset_loads(tmp_path, headings):
    tree(tmp_path, ANIMALS)
    for split, rows in {
        "train": [("train/cat/2.jpg", "a cat, sitting"), ("train/emu/1.bmp", "bird")],
        "val": [("val/emu/7.jpg", "bird")],
    }.items():
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file", "label")] * headings + rows)
    train, val = (open_source(f"csv:{tmp_path}", split) for split in ("train", None))
    assert (labels(train), labels(val)) == ([0, 1], [1])
    assert decode(val.read(0)[0], 3).shape == (27, 30, 3)


def test_array_files_load_as_images(tmp_path):
    color = photo(1, 6, 5).copy()
    files = {
        "color.npy": color,
        "gray.npy": color[..., 0],
        "several.npy": np.stack([color, color[::-1]]),
        "floating.npy": (color / 255).astype(np.float32),
    }
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for name, array in files.items():
        np.save(folder / name, array)
    tensor = torch.from_numpy(color).permute(2, 0, 1)
    torch.save(tensor, folder / "tensor.pt")
    torch.save(torch.stack([tensor, tensor]), folder / "tensors.pt")
    torch.save(tensor.contiguous() / 255, folder / "old.pt", _use_new_zipfile_serialization=False)
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.num_examples == 9
    for number in range(9):
        name = source.describe(number)
        expected = color
        if name.endswith("gray.npy"):
            expected = np.stack([color[..., 0]] * 3, -1)
        elif name.startswith("image 1 of") and name.endswith("several.npy"):
            expected = color[::-1]
        image = from_array(source.read(number)[0], 3)
        np.testing.assert_array_equal(image, expected, err_msg=name)


def test_time_series_become_a_dataset(tmp_path):
    (tmp_path / "train" / "sine").mkdir(parents=True)
    series = np.sin(np.linspace(0, 6, 50) * np.arange(1, 5)[:, None])
    np.save(tmp_path / "train" / "sine" / "all.npy", to_image(gramian_angular_field(series, 16)))
    source = open_source(f"folder:{tmp_path}", "train")
    assert source.num_examples == 4
    assert from_array(source.read(3)[0], 1).shape == (16, 16, 1)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", b""),
        ("a.npy", b"\x93NUMPY\x01\x00"),
        ("a.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr': (((((("),
        ("a.npy", b"PK\x05\x06" + bytes(18)),
        ("a.pt", b"PK\x03\x04 and no more"),
        ("a.pt", b""),
    ],
)
def test_damaged_array_is_a_bad_image(tmp_path, name, content):
    source = open_source(tree(tmp_path, {f"train/a/{name}": content}), "train")
    with pytest.raises(BadImageError):
        source.read(0)


def test_deleted_file_is_a_bad_image(tmp_path):
    source = open_source(tree(tmp_path, ANIMALS), "train")
    (tmp_path / "train/cat/2.jpg").unlink()
    with pytest.raises(BadImageError, match="No such file"):
        [source.read(n) for n in range(source.num_examples)]


def test_code_in_tensor_files_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pathlib.Path.touch, (tmp_path / "touched",))

    (tmp_path / "train" / "a").mkdir(parents=True)
    torch.save(Evil(), tmp_path / "train" / "a" / "x.pt")
    source = open_source(f"folder:{tmp_path}", "train")
    with pytest.raises(BadImageError, match="could run code"):
        source.read(0)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("files", "split", "words"),
    [
        ({}, "train", "there is no folder .*; give folder:/path"),
        ({"train": b""}, "train", "cannot be read .*Not a directory"),
        ({"train/a/1.jpg": b""}, "", "'' is not a valid split"),
        ({"train/a/1.jpg": b""}, "train[%:]", "not a valid split"),
        ({"train/a/1.jpg": b""}, "../train", "not a valid split"),
        (
            {"train/a/1.jpg": b""},
            "train[5:]",
            r"'train\[5:\]' of .* is empty; 'train' has 1 images",
        ),
        ({"train/a/1.jpg": b""}, "train[:0%]", "is empty"),
        ({"val/a/1.jpg": b""}, "train", "has no train; "),
        ({"train/a/1.jpg": b""}, None, "none of val, validation, valid, test"),
        ({"train/a/1.jpg": b""}, "trian", "has no trian; did you mean 'train'"),
        ({"train/a/1.txt": b""}, "train", "train has no images; .* end in .jpg"),
        ({"train/a/1.jpg": b"", "val/b/1.jpg": b""}, None, "the class 'b', which train lacks"),
    ],
)
def test_invalid_tree_raises(tmp_path, files, split, words):
    dataset = tree(tmp_path / "data", files)
    with pytest.raises(UserError, match=words):
        open_source(dataset, split)


@pytest.mark.parametrize(
    ("content", "words"),
    [("é.jpg,1\n".encode("latin-1"), "UTF-8"), (b"1.jpg," + b"1" * 200_000, "field larger")],
)
def test_unreadable_csv_raises(tmp_path, content, words):
    (tmp_path / "train.csv").write_bytes(content)
    with pytest.raises(UserError, match=words):
        open_source(f"csv:{tmp_path}", "train")


def test_missing_files_count_for_the_classes(tmp_path):
    (tmp_path / "train.csv").write_text("file,label\nmissing.png,7\n2.png,10\n3.png,9\n")
    source = open_source(f"csv:{tmp_path}", "train")
    assert (source.num_examples, source.num_classes) == (3, 3)
    (tmp_path / "train.csv").write_text("missing.png,7\n2.png,10\n")
    assert open_source(f"csv:{tmp_path}", "train").num_examples == 2


def test_circular_links_broken_links_and_hidden_folders_are_ignored(tmp_path):
    dataset = tree(tmp_path, ANIMALS | {"train/.checkpoints/1.jpg": b""})
    (tmp_path / "train" / "cat" / "again").symlink_to(tmp_path / "train" / "cat")
    (tmp_path / "train" / "cat" / "gone.npy").symlink_to(tmp_path / "nowhere")
    source = open_source(dataset, "train")
    assert (source.num_examples, source.num_classes) == (7, 3)


@pytest.mark.parametrize("dataset", ["/data/images", "./images", "~/images", "folders:/data"])
def test_path_without_kind_raises(dataset):
    with pytest.raises(UserError, match="folder:/path or csv:/path"):
        open_source(dataset, "train")


def test_equal_files_have_equal_digests(tmp_path):
    sources = []
    for name, files in (("a", ANIMALS), ("b", ANIMALS), ("c", ANIMALS | {"train/cat/3.jpg": b""})):
        sources.append(open_source(tree(tmp_path / name, files), "train"))
    assert sources[0].digest == sources[1].digest != sources[2].digest


def test_csv_with_three_columns_raises_with_line(tmp_path):
    (tmp_path / "train.csv").write_text("a.jpg,1\n\na.jpg,2,3\n")
    with pytest.raises(UserError, match=r"Line 3 of .*train.csv has 3 columns"):
        open_source(f"csv:{tmp_path}", "train")


def test_file_datasets_need_no_tensorflow(tmp_path):
    dataset = tree(tmp_path, ANIMALS)
    code = (
        "import sys\n"
        "from jaxcnn.data import pipeline\n"
        "from jaxcnn.data.source import open_source\n"
        f"source = open_source({dataset!r}, 'train')\n"
        "p = pipeline.EvalPreprocess(image_size=8, channels=3, crop='none', fit='resize')\n"
        "(batch,) = pipeline.eval_batches(source, p, batch_size=6)\n"
        "assert batch['mask'].sum() == 6\n"
        "assert not {'tensorflow', 'tensorflow_datasets', 'torch'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
