"""The input pipeline, compared with libjpeg-turbo's decoding alone and torchvision's DataLoader.

    python benchmarks/input.py [originals] [prepared] [stages] [resume] [--dataset=NAME]

All use the same synthetic JPEGs and the same number of cores; the figures are medians of
alternating turns in one run. By default everything is measured:

* originals: JPEGs of 500x375 pixels;
* prepared: JPEGs of 800x600 pixels, or the training split of ``--dataset``, and a copy by
  ``jaxcnn prepare`` with shorter sides of 400 pixels, whose images torchvision reads as files;
* stages: the time of each stage on one core;
* resume: the time to resume in the middle of an epoch of ImageNet.
"""

import argparse
import dataclasses
import io
import os
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import simplejpeg
import torch
import torchvision
from PIL import Image

from jaxcnn.data import pipeline, transforms
from jaxcnn.data.images import decode
from jaxcnn.data.records import FORMATS, Records
from jaxcnn.data.resized import copy_resized
from jaxcnn.data.source import Source, open_source

CORES = len(os.sched_getaffinity(0))
IMAGES, BATCH, SIZE = 768, 64, 224
REPEATS = 5
IMAGENET = 1_281_167
RESUMED_AT = 1_000_000


def photograph(seed: int, shorter: int = 375) -> Image.Image:
    """Noise with the spectrum of a photograph, and about its size as a JPEG."""
    rng = np.random.default_rng(seed)
    longer = shorter * 4 // 3
    height, width = (shorter, longer) if seed % 4 else (longer, shorter)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    amplitude = 1 / np.maximum(frequency, 1 / width) ** 1.1
    planes = []
    for _ in range(3):
        spectrum = amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape))
        planes.append(np.fft.irfft2(spectrum, (height, width)))
    luma, *chroma = (plane / plane.std() for plane in planes)
    image = 120 + 55 * luma[..., None] + 15 * np.stack([chroma[0], -chroma[0], chroma[1]], -1)
    return Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))


def encoded_photographs(count: int, shorter: int = 375) -> Iterator[bytes]:
    for number in range(count):
        buffer = io.BytesIO()
        photograph(number, shorter).save(buffer, "JPEG", quality=92)
        yield buffer.getvalue()


def write_images(folder: Path, files: list[bytes]) -> None:
    """Write a training split, and the same files as a validation split."""
    for split in ("train", "val"):
        (folder / split / "class").mkdir(parents=True)
    for number, content in enumerate(files):
        path = folder / "train" / "class" / f"{number:05}.jpg"
        path.write_bytes(content)
        (folder / "val" / "class" / path.name).symlink_to(path)


def bare_decoding(files: list[bytes]) -> None:
    with ThreadPoolExecutor(CORES) as pool:
        for _ in pool.map(lambda file: simplejpeg.decode_jpeg(file, "RGB"), files):
            pass


def ours(source: Source, preprocess: pipeline.Preprocess, count: int = IMAGES) -> Iterator[object]:
    if isinstance(preprocess, pipeline.EvalPreprocess):
        return pipeline.eval_batches(source, preprocess, batch_size=BATCH)
    steps = count // BATCH
    return pipeline.train_batches(
        source, preprocess, batch_size=BATCH, seed=0, start_step=0, num_steps=steps
    )


def torchvisions(folder: Path, *crops: object) -> torch.utils.data.DataLoader:
    transform = torchvision.transforms.Compose([*crops, torchvision.transforms.PILToTensor()])
    return torch.utils.data.DataLoader(
        torchvision.datasets.ImageFolder(str(folder), transform),
        BATCH,
        shuffle=True,
        num_workers=CORES,
        persistent_workers=True,
    )


def consumed(batches: Callable[[], Iterator[object]]) -> Callable[[], None]:
    def consume() -> None:
        for _ in batches():
            pass

    return consume


def rates(contenders: dict[str, Callable[[], object]], count: int = IMAGES) -> dict[str, float]:
    """Images per second: medians of alternating turns, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(REPEATS + 1):
        for name, contender in contenders.items():
            start = time.perf_counter()
            contender()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: count / statistics.median(values) for name, values in times.items()}


def print_rates(measured: dict[str, float], limit: str) -> None:
    print(f"\n{'':38}images/s  of the limit  times torchvision")
    for name, rate in measured.items():
        reference = measured.get(name.replace("jaxcnn", "torchvision"), 0)
        times = f"{rate / reference:17.2f}" if name.endswith("jaxcnn") else ""
        print(f"{name:38}{rate:8.0f}{rate / measured[limit]:14.0%}{times}")


TRAINING = pipeline.TrainPreprocess(SIZE, 3, "random_resized_crop", "resize", flip=True)
CROP = (
    torchvision.transforms.RandomResizedCrop(SIZE),
    torchvision.transforms.RandomHorizontalFlip(),
)


def originals(folder: Path, files: list[bytes]) -> None:
    train, val = (open_source(f"folder:{folder}", split) for split in ("train", "val"))
    augmented = dataclasses.replace(TRAINING, policy="trivial_augment_wide")
    crop_and_fit = "resize_and_center_crop", "resize"
    evaluation = pipeline.EvalPreprocess(SIZE, 3, *crop_and_fit, resize_size=256)
    transforms_ = torchvision.transforms
    train_loader = torchvisions(folder / "train", *CROP)
    policy = transforms_.TrivialAugmentWide(interpolation=transforms_.InterpolationMode.BILINEAR)
    policy_loader = torchvisions(folder / "train", *CROP, policy)
    eval_loader = torchvisions(
        folder / "val", transforms_.Resize(256), transforms_.CenterCrop(SIZE)
    )
    measured = rates(
        {
            "bare decoding (the limit)": lambda: bare_decoding(files),
            "training: torchvision": consumed(lambda: iter(train_loader)),
            "training: jaxcnn": consumed(lambda: ours(train, TRAINING)),
            "with TrivialAugmentWide: torchvision": consumed(lambda: iter(policy_loader)),
            "with TrivialAugmentWide: jaxcnn": consumed(lambda: ours(train, augmented)),
            "evaluation: torchvision": consumed(lambda: iter(eval_loader)),
            "evaluation: jaxcnn": consumed(lambda: ours(val, evaluation)),
        }
    )
    print_rates(measured, "bare decoding (the limit)")


def prepared(folder: Path, dataset: str | None, data_dir: str | None) -> None:
    """Compare large originals with a copy of 400 pixels."""
    name = None if dataset else "photographs"
    if dataset is None:
        write_images(folder / "files", list(encoded_photographs(IMAGES // 8, shorter=600)) * 8)
        dataset = f"folder:{folder / 'files'}"
    copy_resized(dataset, folder / "copy", data_dir=data_dir, splits=["train"], name=name)
    large = open_source(dataset, "train", data_dir)
    small = open_source(name or dataset, "train", str(folder / "copy"))
    count = min(IMAGES, small.num_examples) // BATCH * BATCH
    files = {
        kind: [source.read(number)[0] for number in range(count)]
        for kind, source in (("originals", large), ("prepared", small))
    }
    for kind, contents in files.items():
        write_images(folder / kind, contents)
        height, width = np.mean([simplejpeg.decode_jpeg_header(f)[:2] for f in contents], axis=0)
        kilobytes = statistics.mean(map(len, contents)) / 1e3
        print(f"{count} {kind}: {width:.0f}x{height:.0f} pixels, {kilobytes:.0f} kB on average")
    loaders = {kind: torchvisions(folder / kind / "train", *CROP) for kind in files}
    measured = rates(
        {
            "bare decoding, prepared (the limit)": lambda: bare_decoding(files["prepared"]),
            "originals: torchvision": consumed(lambda: iter(loaders["originals"])),
            "originals: jaxcnn": consumed(lambda: ours(large, TRAINING, count)),
            "prepared: torchvision": consumed(lambda: iter(loaders["prepared"])),
            "prepared: jaxcnn": consumed(lambda: ours(small, TRAINING, count)),
        },
        count,
    )
    print_rates(measured, "bare decoding, prepared (the limit)")


def stages(folder: Path, files: list[bytes]) -> None:
    source = open_source(f"folder:{folder}", "train")
    images = [decode(file, 3) for file in files]
    rngs = [np.random.default_rng(number) for number in range(IMAGES)]
    boxes = [
        transforms.random_resized_crop_box(*image.shape[:2], rng)
        for image, rng in zip(images, rngs, strict=True)
    ]
    crops = [
        image[top : top + height, left : left + width]
        for image, (top, left, height, width) in zip(images, boxes, strict=True)
    ]
    resized = transforms.fast_resize(crops[0], SIZE, SIZE, "bilinear")
    row = np.empty_like(resized)

    def flip_into_row(number: int) -> None:
        row[...] = transforms.random_flip(resized, rngs[number])

    measured: dict[str, Callable[[int], object]] = {
        "read": source.read,
        "generator": lambda number: np.random.default_rng([0, 0, number]),
        "decode": lambda number: decode(files[number], 3),
        "draw the box": lambda number: transforms.random_resized_crop_box(
            *images[number].shape[:2], rngs[number]
        ),
        "crop and resize": lambda n: transforms.fast_resize(crops[n], SIZE, SIZE, "bilinear"),
        "(the same by Pillow)": lambda n: transforms.resize(crops[n], SIZE, SIZE, "bilinear"),
        "flip, into the batch": flip_into_row,
    }
    print("\nmicroseconds of one core per image")
    for name, stage in measured.items():
        turns = []
        for _ in range(REPEATS):
            start = time.thread_time()
            for number in range(IMAGES):
                stage(number)
            turns.append(time.thread_time() - start)
        print(f"{name:38}{1e6 * statistics.median(turns) / IMAGES:8.0f}")


@dataclasses.dataclass
class Shard:
    """tfds's description of a file of a split."""

    filename: str
    examples_in_shard: int
    skip: int = 0
    take: int = -1


def resume(folder: Path) -> None:
    """Open a split and seek, compared with reading the records before the position."""
    shards, records, length = 16, 250, 110_000
    rng = np.random.default_rng(0)
    made = []
    for number in range(shards):
        path = folder / f"{number}.tfrecord"
        with path.open("wb") as file:
            for _ in range(records):  # the checksums are never read, and left zero
                file.write(struct.pack("<QI", length, 0) + rng.bytes(length) + bytes(4))
        made.append(Shard(str(path), records))
    count = shards * records

    def opened() -> Records:
        return Records(made, FORMATS["tfrecord"])

    def read_all() -> None:
        for shard in made:
            with open(shard.filename, "rb") as file:
                while header := file.read(12):
                    file.read(struct.unpack("<QI", header)[0] + 4)

    def shuffled() -> None:
        pipeline.epoch_order.cache_clear()
        pipeline.epoch_order(0, 0, IMAGENET)

    def median(action: Callable[[], object]) -> float:
        turns = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            action()
            turns.append(time.perf_counter() - start)
        return statistics.median(turns)

    index, shuffle, reading = median(opened), median(shuffled), median(read_all)
    ours_ = index * IMAGENET / count + shuffle
    theirs = reading * RESUMED_AT / count
    print(f"\nto resume at example {RESUMED_AT:,} of {IMAGENET:,}, scaled from {count:,} records")
    print(f"index the records {index * IMAGENET / count:.1f} s, shuffle {shuffle:.2f} s")
    print(f"reading the raw records before it, from memory: {theirs:.1f} s ({ours_ / theirs:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the input pipeline.")
    parts = ("originals", "prepared", "stages", "resume")
    parser.add_argument("parts", nargs="*", choices=[*parts, []], help="by default all")
    parser.add_argument("--dataset", help="of prepared: a tfds dataset")
    parser.add_argument("--data_dir", help="where it is")
    arguments = parser.parse_args()
    chosen = arguments.parts or parts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if {"originals", "stages"} & set(chosen):
            files = list(encoded_photographs(IMAGES))
            write_images(folder / "images", files)
            kilobytes = statistics.mean(map(len, files)) / 1e3
            print(f"{IMAGES} JPEGs of 500x375 pixels, {kilobytes:.0f} kB each; {CORES} cores")
        if "originals" in chosen:
            originals(folder / "images", files)
        if "prepared" in chosen:
            prepared(folder / "prepared", arguments.dataset, arguments.data_dir)
        if "stages" in chosen:
            stages(folder / "images", files)
        if "resume" in chosen:
            (folder / "resume").mkdir()
            resume(folder / "resume")


if __name__ == "__main__":
    main()
