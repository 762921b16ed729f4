"""Datasets, transforms and the stream of batches."""

import collections
import functools
import io
import pathlib

import numpy as np
import pytest
import scipy.stats
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import Photos, jpeg, photo
from PIL import Image

from jaxcnn.data import pipeline, transforms
from jaxcnn.data.presets import PRESETS, preset
from jaxcnn.data.source import Source, _supervised_keys, open_source, parse_example
from jaxcnn.data.tensorflow import tf, tfds
from jaxcnn.errors import UserError


@pytest.fixture(scope="module")
def digits(data_dir) -> Source:
    return open_source("digits", "train", data_dir)


@pytest.fixture(scope="module")
def photos(data_dir) -> str:
    """A data_dir that holds photos; no code for them is registered where it is read."""
    Photos(data_dir=data_dir).download_and_prepare()
    return data_dir


# --- sources


def test_digits_are_scikit_learns_each_in_one_split(data_dir):
    from sklearn.datasets import load_digits

    expected = load_digits()
    seen = collections.Counter()
    for split, count in (("train", 1438), ("test", 359)):
        source = open_source("digits", split, data_dir)
        assert (source.num_examples, source.num_classes, source.channels) == (count, 10, 1)
        for record in source.read(np.arange(count)):
            encoded, label = parse_example(source, tf.constant(record))
            image = np.round(tf.io.decode_png(encoded)[..., 0].numpy() * (16 / 255))
            seen[image.astype(np.uint8).tobytes(), int(label)] += 1
    images = expected.images.astype(np.uint8)
    assert seen == collections.Counter(
        (image.tobytes(), int(label)) for image, label in zip(images, expected.target, strict=True)
    )


def test_records_are_those_of_tfds_in_its_order(photos):
    source = open_source("photos", "validation", photos)
    reference = tfds.load(
        "photos",
        split="validation",
        data_dir=photos,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    for record, example in zip(source.read(np.arange(11)), reference, strict=True):
        encoded, label = parse_example(source, tf.constant(record))
        assert encoded.numpy() == example["image"].numpy()
        assert int(label) == int(example["label"])


def test_a_part_of_a_split_is_that_part(photos):
    whole, part = (open_source("photos", split, photos) for split in ("train", "train[25%:]"))
    assert part.num_examples == 15
    assert part.read(np.arange(15)) == whole.read(np.arange(5, 20))
    both = open_source("photos", "validation+train[:5]", photos)
    assert both.num_examples == 16
    assert both.read(np.array([15])) == whole.read(np.array([4]))


def test_the_evaluation_split_is_found(photos, data_dir):
    assert open_source("photos", None, photos).num_examples == 11
    assert open_source("digits", None, data_dir).num_examples == 359


def test_array_record_files_are_read_too(tmp_path):
    for name, file_format in (("a", "array_record"), ("t", "tfrecord")):
        Photos(data_dir=tmp_path / name, file_format=file_format).download_and_prepare()
    sources = [open_source("photos", "train", str(tmp_path / name)) for name in "at"]
    records = [sorted(source.read(np.arange(20))) for source in sources]
    assert records[0] == records[1]


def shard(data_dir: pathlib.Path) -> pathlib.Path:
    Photos(data_dir=data_dir).download_and_prepare()
    (path,) = data_dir.rglob("*train*")
    return path


def test_a_truncated_file_is_named(tmp_path):
    path = shard(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{path.name} is damaged"):
        open_source("photos", "train", str(tmp_path))


def test_a_missing_file_is_named(tmp_path):
    path = shard(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name} is missing"):
        open_source("photos", "train", str(tmp_path))


def test_a_file_of_another_length_is_named(tmp_path):
    path = shard(tmp_path)
    (other,) = tmp_path.rglob("*validation*")
    path.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="11 examples where its description says 20"):
        open_source("photos", "train", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("digitz", "train", "no dataset 'digitz'; did you mean 'digits'"),
        ("digits", "trian", "no split 'trian'; it has train, test"),
        ("cifar10:9.9.9", "train", "cannot open"),
        ("imagenet2012", "train", "not prepared.*by hand.*':digits'"),
    ],
)
def test_what_cannot_be_opened_is_said(name, split, words, data_dir):
    with pytest.raises(UserError, match=words):
        open_source(name, split, data_dir)


# --- transforms


def boxes(height: int, width: int, count: int) -> np.ndarray:
    def draw(number: tf.Tensor) -> tf.Tensor:
        return tf.stack(transforms.random_resized_crop_box(height, width, [number, 7]))

    return tf.map_fn(tf.function(draw), tf.range(count), fn_output_signature=tf.int32).numpy()


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (100, 900), (40, 41)])
def test_crop_boxes_have_torchvisions_distribution(size):
    torch.manual_seed(0)
    image = torch.empty(3, *size)
    get_params = torchvision.transforms.RandomResizedCrop.get_params
    theirs = np.array([get_params(image, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(4000)])
    ours = boxes(*size, 4000)
    assert (ours[:, :2] >= 0).all() and (ours[:, 2:] > 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()

    def statistics(box: np.ndarray) -> dict[str, np.ndarray]:
        top, left, height, width = box.T.astype(float)
        return {
            "area": height * width,
            "aspect": width / height,
            "top": top,
            "left": left,
            "centre": (top + height / 2) - (left + width / 2),
        }

    for name, sample in statistics(ours).items():
        result = scipy.stats.ks_2samp(sample, statistics(theirs)[name])
        assert result.pvalue > 1e-4, name


def test_an_image_that_no_box_fits_gets_the_central_one():
    theirs = torchvision.transforms.RandomResizedCrop.get_params(
        torch.empty(3, 10, 1000), (0.9, 1), (3 / 4, 4 / 3)
    )
    # A part of at least 0.08 of 10x10000 pixels is never as square as 4/3.
    (ours,) = boxes(10, 10000, 1)
    assert ours.tolist() == [0, 4993, 10, 13]
    assert theirs[2:] == (10, 13)


def image_file(array: np.ndarray, image_format: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, image_format)
    return buffer.getvalue()


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("gray", [False, True])
def test_decoding_equals_pillows(image_format, gray):
    encoded = image_file(photo(3, 61, 83, gray=gray), image_format)
    ours = transforms.decode(tf.constant(encoded), 3).numpy()
    reference = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    np.testing.assert_array_equal(ours, reference)


@settings(deadline=None, max_examples=25)
@given(st.integers(30, 300), st.integers(30, 300))
def test_the_evaluation_crop_is_torchvisions(height, width):
    image = photo(5, height, width)
    ours = transforms.resize_and_center_crop(tf.constant(image), 64, 56).numpy()
    reference = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(64), torchvision.transforms.CenterCrop(56)]
    )(Image.fromarray(image))
    difference = np.abs(ours.astype(int) - np.asarray(reference))
    assert difference.max() <= 1


def test_a_random_resized_crop_of_a_jpeg_is_that_of_its_pixels():
    encoded = jpeg(photo(1, 120, 160), quality=100)
    png = image_file(np.asarray(Image.open(io.BytesIO(encoded))), "PNG")
    for seed in range(5):
        crops = [
            transforms.random_resized_crop(tf.constant(file), 64, 3, [seed, 0]).numpy().astype(int)
            for file in (encoded, png)
        ]
        assert np.abs(crops[0] - crops[1]).mean() < 0.5


def test_pad_and_crop_shows_every_window_of_the_padded_image():
    image = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[i : i + 3, j : j + 3].tobytes() for i in range(5) for j in range(5)}
    crop = tf.function(functools.partial(transforms.pad_and_crop, tf.constant(image), 2))
    drawn = {crop(tf.constant([seed, 1])).numpy().tobytes() for seed in range(400)}
    assert drawn == windows


def test_half_the_images_are_mirrored():
    image = np.arange(6, dtype=np.uint8).reshape(1, 3, 2)
    flip = tf.function(functools.partial(transforms.random_flip, tf.constant(image)))
    drawn = [flip(tf.constant([seed, 1])).numpy() for seed in range(400)]
    mirrored = [(array == image[:, ::-1]).all() for array in drawn]
    assert all(m or (array == image).all() for m, array in zip(mirrored, drawn, strict=True))
    assert 150 < sum(mirrored) < 250


def test_fitting_pads_or_resizes():
    image = tf.ones([28, 28, 1], tf.uint8)
    padded = transforms.fit(image, 32, "pad").numpy()
    assert padded.shape == (32, 32, 1) and padded.sum() == 28 * 28
    assert padded[2:30, 2:30].all()
    assert transforms.fit(image, 32, "resize").numpy().all()


# --- the stream


def options(source: Source, **kwargs) -> dict:
    return {"channels": source.channels, "image_size": 32, "fit": "resize", **kwargs}


def train_stream(source: Source, **kwargs) -> list[pipeline.Batch]:
    preprocess = pipeline.train_preprocess(
        **options(source, crop="pad_and_crop", padding=4, flip=True)
    )
    arguments = {"batch_size": 100, "seed": 3, "start_step": 0, "num_steps": 16} | kwargs
    return list(pipeline.train_batches(source, preprocess, **arguments))


def equal(a: list[pipeline.Batch], b: list[pipeline.Batch]) -> bool:
    return len(a) == len(b) and all(
        (x[key] == y[key]).all() for x, y in zip(a, b, strict=True) for key in x
    )


def test_batches_are_uint8_images_and_int32_labels(digits):
    (batch,) = train_stream(digits, num_steps=1)
    assert batch["image"].shape == (100, 32, 32, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (100,) and batch["label"].dtype == np.int32


def test_the_stream_is_a_function_of_the_seed(digits):
    assert equal(train_stream(digits), train_stream(digits))
    assert not equal(train_stream(digits), train_stream(digits, seed=4))


def test_a_resumed_stream_goes_on_bit_for_bit(digits):
    whole = train_stream(digits)
    for step in (1, 14, 15):  # 14 steps are an epoch
        assert equal(train_stream(digits, start_step=step), whole[step:])
    assert train_stream(digits, start_step=16) == []


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_stream_of_one(digits, hosts):
    parts = [train_stream(digits, process_index=i, process_count=hosts) for i in range(hosts)]
    together = [
        {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        for batches in zip(*parts, strict=True)
    ]
    assert equal(together, train_stream(digits))


def test_an_epoch_shows_no_example_twice_and_epochs_differ():
    orders = [pipeline.epoch_order(0, epoch, 1000) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(1000))
    assert (orders[0] != orders[1]).any()


def test_an_example_is_cropped_anew_every_epoch(digits):
    class One:
        """The first example alone."""

        num_examples = 1

        def __getattr__(self, name):
            return getattr(digits, name)

    batches = train_stream(One(), batch_size=1, num_steps=8)
    assert len({batch["image"].tobytes() for batch in batches}) > 4


@pytest.mark.parametrize("batch_size", [64, 359, 360, 1000])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_evaluation_shows_every_example_once(data_dir, batch_size, hosts):
    source = open_source("digits", "test", data_dir)
    preprocess = pipeline.eval_preprocess(**options(source, crop="none", resize_size=1))
    size = -(-batch_size // hosts) * hosts
    parts = [
        list(
            pipeline.eval_batches(
                source, preprocess, batch_size=size, process_index=i, process_count=hosts
            )
        )
        for i in range(hosts)
    ]
    assert len({len(part) for part in parts}) == 1  # or collectives would hang
    seen = collections.Counter(
        batch["image"][row].tobytes()
        for part in parts
        for batch in part
        for row in np.flatnonzero(batch["mask"])
    )
    assert seen.total() == 359
    (alone,) = pipeline.eval_batches(source, preprocess, batch_size=359)
    assert seen == collections.Counter(image.tobytes() for image in alone["image"])


def test_photographs_go_through_imagenets_crops(photos):
    train, evaluation = (open_source("photos", split, photos) for split in ("train", "validation"))
    preprocess = pipeline.train_preprocess(
        channels=3, image_size=48, crop="random_resized_crop", fit="resize", padding=0, flip=True
    )
    (batch,) = pipeline.train_batches(
        train, preprocess, batch_size=20, seed=0, start_step=0, num_steps=1
    )
    assert batch["image"].shape == (20, 48, 48, 3)
    preprocess = pipeline.eval_preprocess(
        channels=3, image_size=48, crop="resize_and_center_crop", fit="resize", resize_size=56
    )
    batches = list(pipeline.eval_batches(evaluation, preprocess, batch_size=4))
    assert sum(batch["mask"].sum() for batch in batches) == 11
    assert all(batch["image"].std() > 1 for batch in batches)


# --- presets


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"digits"}))
def test_every_preset_is_a_dataset_with_an_image_and_a_label(name, tmp_path):
    info = tfds.builder(name, data_dir=tmp_path).info
    assert _supervised_keys(name, info) == ("image", "label")
    channels = info.features["image"].shape[-1]
    assert len(PRESETS[name].mean) == len(PRESETS[name].std) == channels


def test_presets_of_the_digits_are_measured(digits):
    images = [
        tf.io.decode_png(parse_example(digits, tf.constant(record))[0]).numpy() / 255
        for record in digits.read(np.arange(digits.num_examples))
    ]
    np.testing.assert_allclose(PRESETS["digits"].mean, np.mean(images), atol=2e-3)
    np.testing.assert_allclose(PRESETS["digits"].std, np.std(images), atol=2e-3)


def test_a_dataset_without_a_preset_is_taken_for_photographs():
    assert preset("oxford_flowers102").train_crop == "random_resized_crop"
    assert preset("cifar10:3.0.2") is PRESETS["cifar10"]
