"""tfds datasets and the stream of batches."""

import collections
import itertools
import pathlib
import threading

import numpy as np
import pytest
from photos import Photos

from jaxcnn.data import pipeline, records
from jaxcnn.data.images import decode
from jaxcnn.data.pipeline import BadImageLog, EvalPreprocess, TrainPreprocess
from jaxcnn.data.policies import POLICIES
from jaxcnn.data.prepared import _supervised_keys
from jaxcnn.data.presets import PRESETS, preset
from jaxcnn.data.source import Source, open_source
from jaxcnn.data.tfds import tfds
from jaxcnn.errors import UserError


@pytest.fixture(scope="module")
def digits(data_dir) -> Source:
    return open_source("digits", "train", data_dir)


@pytest.fixture(scope="module")
def photos(data_dir) -> str:
    """A data_dir with photos, which are read without their builder's code."""
    Photos(data_dir=data_dir).download_and_prepare()
    return data_dir


# --- sources


def test_digits_equal_scikit_learns(data_dir):
    from sklearn.datasets import load_digits

    expected = load_digits()
    seen = collections.Counter()
    for split, count in (("train", 1438), ("test", 359)):
        source = open_source("digits", split, data_dir)
        assert (source.num_examples, source.num_classes, source.channels) == (count, 10, 1)
        for encoded, label in map(source.read, range(count)):
            image = np.round(decode(encoded, 1)[..., 0] * (16 / 255))
            seen[image.astype(np.uint8).tobytes(), label] += 1
    images = expected.images.astype(np.uint8)
    assert seen == collections.Counter(
        (image.tobytes(), int(label)) for image, label in zip(images, expected.target, strict=True)
    )


def test_records_equal_tfds_in_order(photos):
    source = open_source("photos", "validation", photos)
    reference = tfds.load(
        "photos",
        split="validation",
        data_dir=photos,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    for (encoded, label), example in zip(map(source.read, range(11)), reference, strict=True):
        assert encoded == example["image"].numpy()
        assert label == int(example["label"])


def test_part_of_a_split_has_its_examples(photos):
    whole, part = (open_source("photos", split, photos) for split in ("train", "train[25%:]"))
    assert part.num_examples == 15
    assert [part.read(n) for n in range(15)] == [whole.read(n) for n in range(5, 20)]
    assert "record 5 of" in part.describe(0)
    both = open_source("photos", "validation+train[:5]", photos)
    assert both.num_examples == 16
    assert both.read(15) == whole.read(4)


def test_the_evaluation_split_is_found(photos, data_dir):
    assert open_source("photos", None, photos).num_examples == 11
    assert open_source("digits", None, data_dir).num_examples == 359


def test_array_record_files_load(tmp_path):
    for name, file_format in (("a", "array_record"), ("t", "tfrecord")):
        Photos(data_dir=tmp_path / name, file_format=file_format).download_and_prepare()
    sources = [open_source("photos", "train", str(tmp_path / name)) for name in "at"]
    records = [sorted(map(source.read, range(20))) for source in sources]
    assert records[0] == records[1]


def shard(data_dir: pathlib.Path) -> pathlib.Path:
    Photos(data_dir=data_dir).download_and_prepare()
    (path,) = data_dir.rglob("*train*")
    return path


def test_truncated_record_file_raises(tmp_path):
    path = shard(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{path.name} is damaged"):
        open_source("photos", "train", str(tmp_path))


@pytest.fixture
def offsets_cache(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.setattr(records, "_WORTH_CACHING", 20)
    monkeypatch.setenv("JAXCNN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "records"


def test_record_offsets_are_cached(tmp_path, offsets_cache, monkeypatch):
    shard(tmp_path)
    first = open_source("photos", "train", str(tmp_path))
    assert len(list(offsets_cache.iterdir())) == 1
    monkeypatch.setattr(records, "_offsets", None)  # would fail
    second = open_source("photos", "train", str(tmp_path))
    assert [second.read(n) for n in range(20)] == [first.read(n) for n in range(20)]


def test_cached_offsets_of_a_changed_file_are_not_used(tmp_path, offsets_cache):
    path = shard(tmp_path)
    open_source("photos", "train", str(tmp_path))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=f"{path.name} is damaged"):
        open_source("photos", "train", str(tmp_path))


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY"])
def test_damaged_offset_cache_is_replaced(tmp_path, offsets_cache, damage):
    shard(tmp_path)
    first = open_source("photos", "train", str(tmp_path))
    (kept,) = offsets_cache.iterdir()
    kept.write_bytes(damage)
    assert open_source("photos", "train", str(tmp_path)).read(19) == first.read(19)
    assert kept.read_bytes() != damage


def test_unwritable_offset_cache_is_ignored(tmp_path, offsets_cache):
    offsets_cache.parent.write_text("a file")
    shard(tmp_path)
    assert open_source("photos", "train", str(tmp_path)).num_examples == 20


def test_missing_record_file_raises(tmp_path):
    path = shard(tmp_path)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name} is missing"):
        open_source("photos", "train", str(tmp_path))


def test_record_file_of_another_length_raises(tmp_path):
    path = shard(tmp_path)
    (other,) = tmp_path.rglob("*validation*")
    path.write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="11 examples where the dataset.s description says 20"):
        open_source("photos", "train", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("digitz", "train", "'digitz': tfds has no such dataset; did you mean 'digits'"),
        ("qqqqqq", "train", "nearest of .* known names .*Images in files are folder:/path or csv:"),
        ("digits", "train[:0%]", r"The split 'train\[:0%\]' of the dataset digits.* is empty"),
        ("digits", "trian", "no split 'trian'; it has train, test"),
        ("cifar10:9.9.9", "train", "cannot open"),
        ("imagenet2012", "train", "not prepared.*by hand.*':digits'"),
    ],
)
def test_invalid_dataset_or_split_raises(name, split, words, data_dir):
    with pytest.raises(UserError, match=words) as error:
        open_source(name, split, data_dir)
    assert len(str(error.value)) < 400


def test_classes_are_the_names_of_the_label(photos, data_dir):
    for source in (open_source("digits", "test", data_dir), open_source("photos", None, photos)):
        assert source.classes == tuple(map(str, range(source.num_classes)))


# --- the stream


def train_preprocess(source: Source, **kwargs) -> TrainPreprocess:
    arguments = {"image_size": 32, "padding": 4, "flip": True} | kwargs
    return TrainPreprocess(channels=source.channels, crop="pad_and_crop", fit="resize", **arguments)


def train_stream(source: Source, **kwargs) -> list[pipeline.Batch]:
    preprocess = train_preprocess(source, policy=kwargs.pop("policy", "none"))
    arguments = {"batch_size": 100, "seed": 3, "start_step": 0, "num_steps": 16} | kwargs
    return list(pipeline.train_batches(source, preprocess, **arguments))


def evaluation(source: Source, **kwargs) -> EvalPreprocess:
    arguments = {"image_size": 32, "channels": source.channels, "crop": "none", "fit": "resize"}
    return EvalPreprocess(**arguments | kwargs)


def equal(a: list[pipeline.Batch], b: list[pipeline.Batch]) -> bool:
    return len(a) == len(b) and all(
        (x[key] == y[key]).all() for x, y in zip(a, b, strict=True) for key in x
    )


def test_batches_are_uint8_images_and_int32_labels(digits):
    (batch,) = train_stream(digits, num_steps=1)
    assert batch["image"].shape == (100, 32, 32, 1) and batch["image"].dtype == np.uint8
    assert batch["label"].shape == (100,) and batch["label"].dtype == np.int32


STREAMS = [{}, {"repeats": 3, "replicas": 4, "image_sizes": ((0, 16), (1, 32))}]


@pytest.mark.parametrize(
    "options",
    [
        *STREAMS,
        *({"policy": policy, "num_steps": 2} for policy in POLICIES),
    ],
)
def test_batches_depend_on_the_seed_not_the_threads(digits, options):
    whole = train_stream(digits, threads=1, **options)
    assert equal(whole, train_stream(digits, threads=5, **options))
    assert not equal(whole, train_stream(digits, seed=4, **options))


@pytest.mark.parametrize("options", STREAMS)
def test_resumed_stream_is_bit_identical(digits, options):
    whole = train_stream(digits, **options)
    for step in (1, 12, 14):  # 14 steps are an epoch, 12 with repeats
        assert equal(train_stream(digits, start_step=step, **options), whole[step:])
    assert train_stream(digits, start_step=16, **options) == []


@pytest.mark.parametrize("hosts", [2, 4])
@pytest.mark.parametrize("start_step", [0, 5])
@pytest.mark.parametrize("options", STREAMS)
def test_hosts_together_have_the_stream_of_one_host(digits, options, hosts, start_step):
    """Also after one host trained so far: no example of the epoch is lost or repeated."""
    parts = [
        train_stream(digits, process_index=i, process_count=hosts, start_step=start_step, **options)
        for i in range(hosts)
    ]
    together = [
        {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}
        for batches in zip(*parts, strict=True)
    ]
    assert equal(together, train_stream(digits, **options)[start_step:])


class Recording:
    """A source that records the numbers of the examples that were read."""

    def __init__(self, source: Source):
        self._source, self.read_numbers = source, []

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self, number: int):
        self.read_numbers.append(number)
        return self._source.read(number)


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_host_reads_only_its_own_part(digits, hosts):
    sources = [Recording(digits) for _ in range(hosts)]
    for i, source in enumerate(sources):
        train_stream(source, process_index=i, process_count=hosts, num_steps=14)
    numbers = [source.read_numbers for source in sources]
    assert {len(part) for part in numbers} == {1400 // hosts}
    assert sorted(sum(numbers, [])) == sorted(pipeline.epoch_order(3, 0, 1438)[:1400])


@pytest.mark.parametrize(("repeats", "row", "key"), [(1, 5, []), (3, 6, []), (3, 8, [0, 2])])
def test_crops_are_drawn_from_seed_epoch_example_and_repeat(digits, repeats, row, key):
    """Also by which keys, so that an older run resumes with the same images."""
    step = pipeline.steps_per_epoch(1438, 100, repeats)  # the first of the second epoch
    (batch,) = train_stream(digits, repeats=repeats, start_step=step, num_steps=step + 1)
    number = pipeline.epoch_order(3, 1, 1438)[row // repeats]
    image = decode(digits.read(number)[0], 1)
    expected = train_preprocess(digits)(image, np.random.default_rng([3, 1, number, *key]))
    np.testing.assert_array_equal(batch["image"][row], expected)


def test_resumed_stream_does_not_read_skipped_steps(digits):
    source = Recording(digits)
    train_stream(source, start_step=10, num_steps=12)
    assert len(source.read_numbers) == 200


def test_epoch_order_is_a_permutation_that_changes():
    orders = [pipeline.epoch_order(0, epoch, 1000) for epoch in (0, 1)]
    for order in orders:
        assert sorted(order) == list(range(1000))
    assert (orders[0] != orders[1]).any()


def test_crops_of_an_example_change_every_epoch(digits):
    class One:
        """The first example alone."""

        num_examples = 1

        def __getattr__(self, name):
            return getattr(digits, name)

    batches = train_stream(One(), batch_size=1, num_steps=8)
    assert len({batch["image"].tobytes() for batch in batches}) > 4


# --- repeated augmentation


def examples_of_rank(order: np.ndarray, repeats: int, replicas: int, rank: int) -> np.ndarray:
    """What RASampler of torchvision's references/classification/sampler.py gives a rank.

    Its extra examples, which make the ranks' parts equal, come after those that it selects.
    """
    selected = len(order) // 256 * 256 // replicas
    return np.repeat(order, repeats)[rank::replicas][:selected]


@pytest.mark.parametrize("replicas", [1, 2, 8])
@pytest.mark.parametrize("repeats", [2, 3, 4])
def test_replicas_have_the_examples_of_torchvisions_ranks(digits, repeats, replicas):
    source, batch_size = Recording(digits), 160
    options = {"repeats": repeats, "replicas": replicas, "batch_size": batch_size}
    train_stream(source, threads=1, num_steps=16, **options)
    rows = np.reshape(source.read_numbers, (2, 8, replicas, batch_size // replicas))
    for epoch, rank in itertools.product(range(2), range(replicas)):
        order = pipeline.epoch_order(3, epoch, 1438)
        expected = examples_of_rank(order, repeats, replicas, rank)
        np.testing.assert_array_equal(rows[epoch, :, rank].ravel(), expected)


def test_repeats_of_an_example_have_their_own_crops(digits):
    (batch,) = train_stream(digits, repeats=4, batch_size=256, num_steps=1)
    images = batch["image"].reshape(64, 4, -1)
    assert np.mean([len(np.unique(repeats, axis=0)) for repeats in images]) > 3.8
    (once,) = train_stream(digits, batch_size=64, num_steps=1)
    np.testing.assert_array_equal(images[:, 0], once["image"].reshape(64, -1))
    np.testing.assert_array_equal(batch["label"], np.repeat(once["label"], 4))


def test_bad_image_is_replaced_in_every_repeat(digits):
    bad = int(pipeline.epoch_order(3, 0, digits.num_examples)[2])
    (batch,) = train_stream(Damaged(digits, {bad}), repeats=3, num_steps=1)
    assert np.flatnonzero(batch["skipped"]).tolist() == [6, 7, 8]
    assert len(np.unique(batch["image"][6:9], axis=0)) == 3


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "repeats", "steps"),
    [
        (1438, 100, 1, 14),
        (1438, 100, 2, 12),
        (1438, 160, 3, 8),
        (1_281_167, 1024, 1, 1251),
        (1_281_167, 1000, 1, 1281),
        (1_281_167, 1000, 4, 1281),
        (255, 10, 2, 0),
    ],
)
def test_steps_per_epoch(num_examples, batch_size, repeats, steps):
    assert pipeline.steps_per_epoch(num_examples, batch_size, repeats) == steps


# --- progressive resizing


def test_images_have_the_size_of_their_epoch(digits):
    image_sizes = ((0, 16), (1, 24), (3, 32))
    batches = train_stream(digits, image_sizes=image_sizes, num_steps=4 * 14)
    sizes = [batch["image"].shape[1:] for batch in batches]
    assert sizes == [(16, 16, 1)] * 14 + [(24, 24, 1)] * 28 + [(32, 32, 1)] * 14
    for start, image_size, padding in ((0, 16, 2), (14, 24, 3), (42, 32, 4)):
        preprocess = train_preprocess(digits, image_size=image_size, padding=padding)
        expected = pipeline.train_batches(
            digits, preprocess, batch_size=100, seed=3, start_step=start, num_steps=start + 14
        )
        assert equal(batches[start : start + 14], list(expected))


# --- evaluation


@pytest.mark.parametrize("batch_size", [64, 359, 360, 1000])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_evaluation_shows_every_example_once(data_dir, batch_size, hosts):
    source = open_source("digits", "test", data_dir)
    preprocess = evaluation(source)
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


def test_photographs_use_imagenet_crops(photos):
    train, validation = (open_source("photos", split, photos) for split in ("train", "validation"))
    preprocess = TrainPreprocess(
        image_size=48, channels=3, crop="random_resized_crop", fit="resize", flip=True
    )
    (batch,) = pipeline.train_batches(
        train, preprocess, batch_size=20, seed=0, start_step=0, num_steps=1
    )
    assert batch["image"].shape == (20, 48, 48, 3)
    assert all(image.std() > 1 for image in batch["image"])
    preprocess = evaluation(
        validation, image_size=48, crop="resize_and_center_crop", resize_size=56
    )
    batches = list(pipeline.eval_batches(validation, preprocess, batch_size=4))
    assert sum(batch["mask"].sum() for batch in batches) == 11
    assert all(batch["image"].std() > 1 for batch in batches)


def test_ten_crops_have_their_own_axis(photos):
    source = open_source("photos", "validation", photos)
    ten, one = (
        next(
            pipeline.eval_batches(
                source,
                evaluation(
                    source, image_size=48, crop="resize_and_center_crop", resize_size=56, crops=n
                ),
                batch_size=4,
            )
        )["image"]
        for n in (10, 1)
    )
    assert ten.shape == (4, 10, 48, 48, 3)
    np.testing.assert_array_equal(ten[:, 4], one)
    np.testing.assert_array_equal(ten[:, 9], one[:, :, ::-1])


def test_channels_convert_between_gray_and_color(photos, digits):
    source = open_source("photos", "validation", photos)
    (batch,) = pipeline.eval_batches(source, evaluation(source, channels=1), batch_size=11)
    assert batch["image"].shape == (11, 32, 32, 1)
    batch = next(pipeline.eval_batches(digits, evaluation(digits, channels=3), batch_size=11))
    assert batch["image"].shape == (11, 32, 32, 3)


# --- bad images


class Damaged:
    """The digits, with some damaged images."""

    def __init__(self, source: Source, bad: set[int]):
        self._source, self.bad = source, bad
        self.num_examples, self.num_classes = source.num_examples, source.num_classes
        self.channels = source.channels

    def read(self, number: int) -> tuple[bytes, int]:
        encoded, label = self._source.read(number)
        return encoded[:20] if number in self.bad else encoded, label

    def describe(self, number: int) -> str:
        return f"number {number}"


def test_bad_image_is_replaced_in_training(digits):
    whole = train_stream(digits)
    order = pipeline.epoch_order(3, 0, digits.num_examples)
    bad = {int(order[5]), int(order[150]), int(order[151])}
    damaged = Damaged(digits, bad)
    batches = train_stream(damaged)
    assert [int(batch["skipped"].sum()) for batch in batches[:3]] == [1, 2, 0]
    for batch, reference, rows in zip(batches, whole, ([5], [50, 51]), strict=False):
        same = (batch["image"] == reference["image"]).all(axis=(1, 2, 3))
        assert np.flatnonzero(~same).tolist() == rows
    assert all(batch["image"].any(axis=(1, 2, 3)).all() for batch in batches)
    assert equal(batches, train_stream(damaged, threads=1))
    assert equal(batches[7:], train_stream(damaged, start_step=7))


def test_evaluation_skips_bad_images(data_dir):
    source = open_source("digits", "test", data_dir)
    damaged = Damaged(source, {0, 17, 358})
    (batch,) = pipeline.eval_batches(damaged, evaluation(source), batch_size=400)
    assert np.flatnonzero(batch["mask"] == 0).tolist() == [0, 17, 358, *range(359, 400)]
    assert not batch["image"][batch["mask"] == 0].any()


def test_each_bad_image_is_reported_once(digits):
    reported = []
    damaged = Damaged(digits, {7})
    train_stream(damaged, bad_images=BadImageLog(damaged, reported.append), num_steps=28)
    (sentence,) = reported
    assert sentence.startswith("Skipped number 7: ") and sentence.endswith(".")


def test_only_bad_images_give_black_images(digits):
    damaged = Damaged(digits, set(range(digits.num_examples)))
    (batch,) = train_stream(damaged, num_steps=1, batch_size=4)
    assert not batch["image"].any()
    assert batch["skipped"].tolist() == [100] * 4


# --- in the background


def test_background_iterator_yields_the_same_items():
    assert list(pipeline.in_background(iter(range(100)), 2)) == list(range(100))


def test_background_iterator_is_a_few_items_ahead():
    taken = []
    enough = threading.Event()

    def items():
        for number in itertools.count():
            taken.append(number)
            if number == 3:
                enough.set()
            yield number

    stream = pipeline.in_background(items(), 2)
    assert next(stream) == 0
    assert enough.wait(10)  # one in use, two in the queue, one that waits for room
    assert taken == [0, 1, 2, 3]
    stream.close()


def test_background_error_is_raised_in_the_consumer():
    def items():
        yield 1
        raise UserError("Here.")

    stream = pipeline.in_background(items(), 2)
    assert next(stream) == 1
    with pytest.raises(UserError, match="Here"):
        next(stream)


def test_close_ends_the_threads(digits):
    preprocess = TrainPreprocess(image_size=32, channels=1, crop="none", fit="resize")
    before = threading.active_count()
    stream = pipeline.in_background(
        pipeline.train_batches(
            digits, preprocess, batch_size=10, seed=0, start_step=0, num_steps=10**6
        ),
        2,
    )
    next(stream)
    assert threading.active_count() > before
    stream.close()
    assert threading.active_count() == before


# --- presets


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - {"digits"}))
def test_every_preset_is_a_dataset_with_an_image_and_a_label(name, tmp_path):
    info = tfds.builder(name, data_dir=tmp_path).info
    assert _supervised_keys(name, info) == ("image", "label")
    channels = info.features["image"].shape[-1]
    assert len(PRESETS[name].mean) == len(PRESETS[name].std) == channels


def test_digits_preset_matches_the_images(digits):
    images = [decode(digits.read(n)[0], 1) / 255 for n in range(digits.num_examples)]
    np.testing.assert_allclose(PRESETS["digits"].mean, np.mean(images), atol=2e-3)
    np.testing.assert_allclose(PRESETS["digits"].std, np.std(images), atol=2e-3)


def test_dataset_without_preset_is_treated_as_photographs():
    assert preset("oxford_flowers102").train_crop == "random_resized_crop"
    assert preset("folder:/cifar10").train_crop == "random_resized_crop"
    assert preset("cifar10:3.0.2") is PRESETS["cifar10"]
