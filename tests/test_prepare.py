"""``jaxcnn prepare``: copies with smaller images, and what interrupts them."""

import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from photos import Photos, image_file, jpeg, photo
from PIL import Image
from processes import ROOT, documented_commands, run_documented

from jaxcnn import cli
from jaxcnn.data.images import decode
from jaxcnn.data.originals import ImageSettings, smaller
from jaxcnn.data.pipeline import TrainPreprocess, train_batches
from jaxcnn.data.resized import copy_resized
from jaxcnn.data.source import open_source
from jaxcnn.data.tfds import tfds
from jaxcnn.errors import UserError

SETTINGS = ImageSettings(shorter_side=80)
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT)}
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> str:
    """A data_dir with photos, with shorter sides from 27 to 120 pixels."""
    folder = str(tmp_path_factory.mktemp("photos"))
    Photos(data_dir=folder).download_and_prepare()
    return folder


def prepare(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "jaxcnn", "prepare", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRON,
    )


def contents(folder: pathlib.Path) -> Files:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pixels(encoded: bytes) -> np.ndarray:
    """As Pillow decodes them."""
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


# --- one image


def test_large_image_is_resized_by_pillow_and_written_with_the_quality():
    original = jpeg(photo(1, 300, 200))
    made = smaller(original, 3, ImageSettings(shorter_side=80, quality=95))
    resized = Image.open(io.BytesIO(original)).resize((80, 120), Image.Resampling.BICUBIC)
    assert pixels(made).shape == (120, 80, 3)
    reference = Image.open(io.BytesIO(image_file(resized, "JPEG", quality=95)))
    assert Image.open(io.BytesIO(made)).quantization == reference.quantization
    assert np.abs(pixels(made).astype(int) - np.asarray(resized)).mean() < 1
    worse = smaller(original, 3, ImageSettings(shorter_side=80, quality=50))
    assert len(worse) < len(made)


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(80, 200), (50, 60)])
def test_small_image_is_kept_byte_for_byte(image_format, size):
    original = image_file(photo(1, *size), image_format)
    assert smaller(original, 3, SETTINGS) == original


@pytest.mark.parametrize("image_format", ["WEBP", "BMP", "GIF", "TIFF"])
def test_small_image_of_another_format_becomes_a_png_with_its_pixels(image_format):
    original = image_file(photo(1, 50, 60), image_format)
    made = smaller(original, 3, SETTINGS)
    assert Image.open(io.BytesIO(made)).format == "PNG"
    np.testing.assert_array_equal(pixels(made), decode(original, 3))


@pytest.mark.parametrize("image_format", ["JPEG", "PNG"])
def test_large_gray_image_stays_gray(image_format):
    original = image_file(photo(1, 300, 200, gray=True), image_format)
    for channels in (1, 3):
        made = Image.open(io.BytesIO(smaller(original, channels, SETTINGS)))
        assert (made.format, made.mode, made.size) == ("JPEG", "L", (80, 120))


@pytest.mark.parametrize(
    ("image_format", "mode"), [("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "I;16")]
)
def test_large_image_of_another_mode_has_the_pixels_that_the_loader_makes_of_it(image_format, mode):
    image = Image.fromarray(photo(1, 300, 200))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    original = image_file(image, image_format)
    made = smaller(original, 3, SETTINGS)
    assert Image.open(io.BytesIO(made)).format == "JPEG"
    assert made == smaller(image_file(decode(original, 3), "PNG"), 3, SETTINGS)


def test_array_becomes_an_image():
    array = photo(1, 50, 60)
    np.testing.assert_array_equal(pixels(smaller(array, 3, SETTINGS)), array)
    made = smaller(photo(1, 300, 200).astype(np.float32) / 255, 3, SETTINGS)
    assert pixels(made).shape == (120, 80, 3)


# --- a dataset of tfds


def test_copy_keeps_all_but_the_size_of_images(photos, tmp_path):
    made = copy_resized("photos", tmp_path, SETTINGS, data_dir=photos, shard_examples=8)
    assert made.examples == {"train": 20, "validation": 11}
    assert made.skipped == 0
    for split in ("train", "validation"):
        before, after = (open_source("photos", split, d) for d in (photos, str(tmp_path)))
        assert after.num_examples == before.num_examples
        assert after.classes == before.classes
        assert after.digest == before.digest
        for number in range(before.num_examples):
            (image, label), (small, small_label) = before.read(number), after.read(number)
            assert label == small_label
            height, width = decode(image, 3).shape[:2]
            if min(height, width) <= 80:
                assert small == image
            else:
                assert min(decode(small, 3).shape[:2]) == 80
            records = [source.read_record(number) for source in (before, after)]
            for record in records:
                del record.features.feature["image"]
            assert records[0] == records[1]
    sizes = [decode(after.read(n)[0], 3).shape[0] for n in range(11)]
    assert len(set(sizes)) > 5


def test_tfds_opens_the_copy(photos, tmp_path):
    copy_resized("photos", tmp_path, SETTINGS, data_dir=photos, shard_examples=8)
    folder = tmp_path / "photos" / "1.0.0"
    info = tfds.builder_from_directory(folder).info
    reference = tfds.builder("photos", data_dir=photos).info
    assert info.file_format.value == "array_record"
    assert info.features.to_json() == reference.features.to_json()
    assert info.supervised_keys == reference.supervised_keys
    assert info.splits["train"].shard_lengths == [6, 7, 7]
    records = open_source("photos", "train", str(tmp_path))
    total = sum(len(records.read_record(n).SerializeToString()) for n in range(20))
    assert info.splits["train"].num_bytes == total
    source = tfds.builder_from_directory(folder).as_data_source(split="validation")
    assert len(source) == 11
    assert {example["file_name"] for example in source} == {b"11-%d.jpg" % n for n in range(11)}
    assert max(min(example["image"].shape[:2]) for example in source) == 80
    assert {int(example["label"]) for example in source} == {0, 1, 2, 3}


def test_training_reads_the_copy(photos, tmp_path):
    copy_resized("photos", tmp_path, SETTINGS, data_dir=photos)
    preprocess = TrainPreprocess(48, 3, "random_resized_crop", "resize", flip=True)
    batches = [
        next(
            train_batches(
                open_source("photos", "train", folder),
                preprocess,
                batch_size=16,
                seed=0,
                start_step=0,
                num_steps=1,
            )
        )
        for folder in (photos, str(tmp_path))
    ]
    np.testing.assert_array_equal(batches[0]["label"], batches[1]["label"])
    # The same boxes, in proportion, of the same photos.
    difference = np.abs(batches[0]["image"].astype(int) - batches[1]["image"])
    assert difference.mean() < 4


def test_features_of_a_fixed_size_change_with_the_images(data_dir, tmp_path):
    copy_resized("digits", tmp_path, ImageSettings(shorter_side=6), data_dir=data_dir)
    image = tfds.builder_from_directory(tmp_path / "digits" / "1.0.0").info.features["image"]
    assert image.shape == (6, 6, 1)
    assert image.encoding_format == "jpeg"
    source = open_source("digits", "test", str(tmp_path))
    assert decode(source.read(0)[0], 1).shape == (6, 6, 1)


def test_splits_can_be_chosen(photos, tmp_path):
    copy_resized("photos", tmp_path, SETTINGS, data_dir=photos, splits=["validation"])
    info = tfds.builder_from_directory(tmp_path / "photos" / "1.0.0").info
    assert list(info.splits) == ["validation"]


# --- images in files


@pytest.fixture
def flowers(tmp_path) -> pathlib.Path:
    """A folder with photos larger and smaller than 80 pixels, and arrays."""
    root = tmp_path / "flowers"
    for number in range(10):
        name = ("rose", "tulip", "lily")[number % 3]
        for split in ("train", "val"):
            path = root / split / name / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg(photo(number, 60 + 10 * number, 150)))
    np.save(root / "train" / "rose" / "several.npy", np.stack([photo(1, 40, 50)] * 2))
    return root


def test_folder_becomes_a_tfds_dataset(flowers, tmp_path):
    out = tmp_path / "out"
    copy_resized(f"folder:{flowers}", out, SETTINGS, name="flowers")
    for split, copied in (("train", "train"), (None, None), ("val", "validation")):
        before = open_source(f"folder:{flowers}", split)
        after = open_source("flowers", copied, str(out))
        assert after.num_examples == before.num_examples
        assert after.classes == before.classes == ("lily", "rose", "tulip")
        for number in range(before.num_examples):
            (image, label), (small, small_label) = before.read(number), after.read(number)
            assert label == small_label
            if isinstance(image, bytes) and min(decode(image, 3).shape[:2]) <= 80:
                assert small == image
    builder = tfds.builder_from_directory(out / "flowers" / "1.0.0")
    assert builder.info.features["label"].names == ["lily", "rose", "tulip"]
    example = builder.as_data_source(split="train")[0]
    assert example["file_name"] == b"train/lily/2.jpg"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "--name is missing"),
        ("My-Flowers", "--name=My-Flowers is not valid; use lowercase letters"),
        ("cifar10", "--name=cifar10 is a dataset of its own"),
        ("digits", "--name=digits is a dataset of its own"),
    ],
)
def test_invalid_name_raises(flowers, tmp_path, name, words):
    with pytest.raises(UserError, match=words):
        copy_resized(f"folder:{flowers}", tmp_path / "out", SETTINGS, name=name)


def test_name_of_a_tfds_dataset_cannot_be_changed(photos, tmp_path):
    with pytest.raises(UserError, match="--name=mine is for images in files"):
        copy_resized("photos", tmp_path, SETTINGS, data_dir=photos, name="mine")


# --- interruptions


def tree(root: pathlib.Path, count: int) -> str:
    """A folder with so many images, which take some milliseconds each."""
    (root / "train" / "a").mkdir(parents=True)
    content = jpeg(photo(0, 1200, 1600))
    for number in range(count):
        (root / "train" / "a" / f"{number:03}.jpg").write_bytes(content)
    return f"folder:{root}"


def wait_for(folder: pathlib.Path, process: subprocess.Popen[str], files: int) -> None:
    """Until so many files of the copy are finished."""
    while len(list(folder.glob("[!.]*.array_record-*"))) < files:
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_copy_continues_and_ends_with_the_same_bytes(tmp_path, signal_number):
    dataset = tree(tmp_path / "data", 30)
    options = ("--name", "a", "--shorter_side", "200", "--shard_examples", "2")
    folder = tmp_path / "out" / "a" / "1.0.0.incomplete"
    process = prepare(dataset, "--out", tmp_path / "out", *options, "--workers", "1")
    wait_for(folder, process, 3)
    process.send_signal(signal_number)
    _, stderr = process.communicate(timeout=60)
    if signal_number == signal.SIGINT:
        assert (process.returncode, stderr) == (130, "Interrupted.\n")
        assert not list(folder.glob(".*"))
    finished = {p.name: p.stat().st_mtime_ns for p in folder.glob("[!.]*.array_record-*")}
    assert 3 <= len(finished) < 15
    assert not list(tmp_path.rglob("dataset_info.json"))
    assert not (tmp_path / "out" / "a" / "1.0.0").exists()
    with pytest.raises(UserError, match="no such dataset"):
        open_source("a", "train", str(tmp_path / "out"))

    assert cli.main(["prepare", dataset, "--out", str(tmp_path / "out"), *options]) == 0
    whole = tmp_path / "out" / "a" / "1.0.0"
    for name, changed in finished.items():
        assert (whole / name).stat().st_mtime_ns == changed
    assert cli.main(["prepare", dataset, "--out", str(tmp_path / "again"), *options]) == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "again")


def test_number_of_threads_does_not_change_a_byte(photos, tmp_path):
    for workers in (1, 5):
        out = tmp_path / str(workers)
        copy_resized("photos", out, SETTINGS, data_dir=photos, shard_examples=4, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "5")


def test_full_disk_is_one_sentence_and_leaves_no_half_file(tmp_path):
    dataset = tree(tmp_path / "data", 12)
    arguments = [dataset, "--name=a", f"--out={tmp_path / 'out'}", "--shorter_side=800"]
    process = subprocess.run(
        # The largest file, in KiB, in place of the largest disk.
        ["bash", "-c", 'ulimit -f 200; "$@"', "", sys.executable, "-m", "jaxcnn", "prepare"]
        + arguments,
        capture_output=True,
        text=True,
        env=ENVIRON,
        check=False,
    )
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert re.search(r"1\.0\.0.incomplete cannot be written \(File too large\)\. Make room", line)
    assert [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()] == ["jaxcnn_prepare.json"]


# --- what is refused


def test_copy_with_other_settings_is_refused(photos, tmp_path):
    def copied(side: int = 80, **options):
        settings = ImageSettings(shorter_side=side)
        return copy_resized("photos", tmp_path, settings, data_dir=photos, **options)

    first = copied()
    before = contents(tmp_path)
    with pytest.raises(UserError, match="a copy with --shorter_side=80, not 90; choose another"):
        copied(90)
    with pytest.raises(UserError, match="a copy with --shard_examples=4096, not 3"):
        copied(shard_examples=3)
    with pytest.raises(UserError, match="a copy of the splits train, validation;"):
        copied(splits=["train"])
    assert copied() == first
    assert contents(tmp_path) == before
    whole = tmp_path / "photos" / "1.0.0"
    (whole / "dataset_info.json").unlink()
    whole.rename(whole.with_name("1.0.0.incomplete"))
    with pytest.raises(UserError, match=r"1\.0\.0\.incomplete is a copy with --shorter_side=80"):
        copied(90)


def test_copy_of_changed_files_is_refused(flowers, tmp_path):
    copy_resized(f"folder:{flowers}", tmp_path / "out", SETTINGS, name="flowers")
    (flowers / "train" / "rose" / "0.jpg").rename(flowers / "train" / "rose" / "zero.jpg")
    with pytest.raises(UserError, match="is a copy of other examples"):
        copy_resized(f"folder:{flowers}", tmp_path / "out", SETTINGS, name="flowers")


def test_original_is_never_overwritten(photos):
    before = contents(pathlib.Path(photos))
    with pytest.raises(UserError, match="is not a copy by this command; choose another --out"):
        copy_resized("photos", photos, SETTINGS, data_dir=photos)
    assert contents(pathlib.Path(photos)) == before


def test_second_process_is_refused(flowers, tmp_path):
    import fcntl

    folder = tmp_path / "out" / "flowers" / "1.0.0.incomplete"
    folder.mkdir(parents=True)
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UserError, match="Another process is writing"):
        copy_resized(f"folder:{flowers}", tmp_path / "out", SETTINGS, name="flowers")
    os.close(descriptor)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--shorter_side=0"], "--shorter_side=0 must be at least 1"),
        (["--quality=101"], "--quality=101 must be from 1 to 100"),
        (["--workers=0"], "--workers=0 must be at least 1"),
        (["--splits", "trian"], "'photos' has no split 'trian'; did you mean 'train'?"),
    ],
)
def test_invalid_argument_is_one_sentence(arguments, words, photos, tmp_path, capsys):
    command = ["prepare", "photos", "--data_dir", photos, "--out", str(tmp_path), *arguments]
    assert cli.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["/data/flowers"], "DATASET '/data/flowers' is not valid; write folder:/path"),
        (["folder:/nowhere", "--name=a"], "DATASET: there is no folder '/nowhere'"),
        (["cifar11"], "DATASET 'cifar11': tfds has no such dataset; did you mean 'cifar10"),
    ],
)
def test_unknown_dataset_is_one_sentence(arguments, words, tmp_path, capsys):
    assert cli.main(["prepare", *arguments, "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


# --- damage


def test_damaged_images_are_named_and_refused_or_left_out(flowers, tmp_path, capsys):
    for name in ("train/rose/3.jpg", "train/tulip/1.jpg"):
        (flowers / name).write_bytes((flowers / name).read_bytes()[:200])
    arguments = ["prepare", f"folder:{flowers}", "--name=flowers", f"--out={tmp_path / 'out'}"]
    arguments += ["--shorter_side=80", "--shard_examples=4"]
    assert cli.main(arguments) == 2
    *named, last = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[:2] for line in named] == [
        ["Damaged", str(flowers / "train/rose/3.jpg")],
        ["Damaged", str(flowers / "train/tulip/1.jpg")],
    ]
    assert last.startswith("jaxcnn: 2 images are damaged; ") and "--skip_damaged" in last
    assert not list(tmp_path.rglob("dataset_info.json"))

    assert cli.main([*arguments, "--skip_damaged"]) == 0
    assert "10 train, 10 validation (2 damaged left out)" in capsys.readouterr().out
    source = open_source("flowers", "train", str(tmp_path / "out"))
    assert [source.read(n)[1] for n in range(10)] == [0] * 3 + [1] * 5 + [2] * 2


def test_repaired_images_are_taken_up(flowers, tmp_path):
    path = flowers / "train" / "rose" / "3.jpg"
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    arguments = (f"folder:{flowers}", tmp_path / "out", SETTINGS)
    with pytest.raises(UserError, match="1 image is damaged"):
        copy_resized(*arguments, name="flowers", shard_examples=4)
    path.write_bytes(whole)
    assert copy_resized(*arguments, name="flowers", shard_examples=4).examples["train"] == 12


def flip_a_bit(path: pathlib.Path) -> None:
    """In the pixels of the last image."""
    content = bytearray(path.read_bytes())
    content[content.rindex(b"\xff\xd9") - 20] ^= 1
    path.write_bytes(content)


def test_damaged_copy_is_found(photos, tmp_path):
    def copied():
        copy_resized("photos", tmp_path, SETTINGS, data_dir=photos, shard_examples=8)

    copied()
    before = contents(tmp_path)
    path = next(tmp_path.rglob("*train*-00001-of-00003"))
    flip_a_bit(path)
    with pytest.raises(UserError, match=f"Record 6 of .*{path.name} is damaged .* delete"):
        copied()
    path.unlink()  # as the error says
    copied()
    assert contents(tmp_path) == before
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{path.name} is damaged; delete"):
        copied()
    path.unlink()
    copied()
    description = next(tmp_path.rglob("dataset_info.json"))
    for content in (b"{", description.read_bytes().replace(b'"7"', b'"8"')):
        description.write_bytes(content)
        with pytest.raises(UserError, match="dataset_info.json does not match .*; delete"):
            copied()
        description.unlink()
        copied()
        assert contents(tmp_path) == before


def test_wrong_records_of_a_copy_are_found(photos, tmp_path):
    def written(records: list[bytes]) -> None:
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()

    copy_resized("photos", tmp_path, SETTINGS, data_dir=photos)
    path = next(tmp_path.rglob("*train*"))
    source = open_source("photos", "train", str(tmp_path))
    records = [source.read_record(n) for n in range(20)]
    whole = [record.SerializeToString() for record in records]
    images = records[3].features.feature["image"].bytes_list.value
    images[0] = images[0][:100]
    for content, words in (
        ([*whole[:3], records[3].SerializeToString(), *whole[4:]], "Record 3 of .* is damaged"),
        (whole[:-1], "dataset_info.json does not match the files beside it"),
        ([*whole, whole[0]], "has too many records"),
    ):
        written(content)
        with pytest.raises(UserError, match=words):
            copy_resized("photos", tmp_path, SETTINGS, data_dir=photos)


def test_damaged_array_record_is_a_bad_image_in_training(photos, tmp_path):
    copy_resized("photos", tmp_path, SETTINGS, data_dir=photos)
    flip_a_bit(next(tmp_path.rglob("*train*")))
    (batch,) = train_batches(
        open_source("photos", "train", str(tmp_path)),
        TrainPreprocess(48, 3, "random_resized_crop", "resize"),
        batch_size=20,
        seed=0,
        start_step=0,
        num_steps=1,
    )
    assert (batch["skipped"] > 0).sum() == 1


def test_truncated_array_record_file_raises(photos, tmp_path):
    copy_resized("photos", tmp_path, SETTINGS, data_dir=photos)
    path = next(tmp_path.rglob("*train*"))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{path.name} is damaged; prepare the dataset again"):
        open_source("photos", "train", str(tmp_path))


# --- documentation


def test_documented_commands_run(data_dir, flowers, tmp_path):
    commands = documented_commands("docs/training.md", "prepare")
    open_source("digits", "train", data_dir)
    for line in commands:
        done = run_documented(
            line,
            {"imagenet2012": "digits", "folder:/path": f"folder:{flowers}", "/data": data_dir},
            tmp_path,
            {},
        )
        assert done.returncode == 0, done.stderr
        assert re.search(r"\d train, .*; all images checked; .* MB became .* MB\.\n", done.stdout)
    assert json.loads(next(tmp_path.rglob("dataset_info.json")).read_text())["splits"]
