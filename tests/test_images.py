"""Decoding and the transforms on the host: torchvision's pixels."""

import io
import struct
import zlib

import numpy as np
import pytest
import scipy.stats
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import image_file, jpeg, photo
from PIL import Image

from jaxcnn.data import images, transforms
from jaxcnn.data.images import BadImageError
from jaxcnn.data.pipeline import EvalPreprocess, TrainPreprocess
from jaxcnn.models.published import PUBLISHED


def as_pillow(encoded: bytes, channels: int = 3) -> Image.Image:
    return Image.open(io.BytesIO(encoded)).convert({1: "L", 3: "RGB"}[channels])


def generators(count: int):
    return (np.random.default_rng([number, 7]) for number in range(count))


# --- decoding


@settings(deadline=None, max_examples=60)
@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    quality=st.integers(5, 100),
    subsampling=st.sampled_from([0, 1, 2]),
    progressive=st.booleans(),
    gray=st.booleans(),
    channels=st.sampled_from([1, 3]),
)
def test_jpegs_equal_pillows_bit_for_bit(size, quality, subsampling, progressive, gray, channels):
    buffer = io.BytesIO()
    kwargs = {} if gray else {"subsampling": subsampling}
    Image.fromarray(photo(3, *size, gray=gray)).save(
        buffer, "JPEG", quality=quality, progressive=progressive, **kwargs
    )
    encoded = buffer.getvalue()
    ours = images.decode(encoded, channels)
    reference = np.asarray(as_pillow(encoded, channels)).reshape(*size, channels)
    np.testing.assert_array_equal(ours, reference)


def gif_of_two_frames() -> bytes:
    frames = [Image.fromarray(photo(seed, 20, 30)).convert("P") for seed in (1, 2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


PICTURES = {
    "png": image_file(photo(3, 61, 83), "PNG"),
    "gray png": image_file(photo(3, 61, 83, gray=True), "PNG"),
    "bmp": image_file(photo(3, 61, 83), "BMP"),
    "webp": image_file(photo(3, 61, 83), "WEBP"),
    "palette": image_file(Image.fromarray(photo(3, 61, 83)).quantize(), "PNG"),
    "gif": gif_of_two_frames(),
    "cmyk jpeg": image_file(Image.fromarray(photo(3, 61, 83)).convert("CMYK"), "JPEG"),
    "alpha": image_file(Image.fromarray(photo(3, 61, 83)).convert("RGBA"), "PNG"),
    "black and white": image_file(Image.fromarray(photo(3, 61, 83)).convert("1"), "PNG"),
    "one pixel": image_file(photo(3, 1, 1), "JPEG"),
    "very wide": image_file(photo(3, 20, 20_000), "JPEG"),
}


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("channels", [1, 3])
def test_decoded_formats_equal_torchvision_loader(name, channels):
    ours = images.decode(PICTURES[name], channels)
    reference = np.asarray(as_pillow(PICTURES[name], channels))
    np.testing.assert_array_equal(ours, reference.reshape(ours.shape))


def test_cmyk_colors_are_close_to_the_original():
    ours = images.decode(PICTURES["cmyk jpeg"], 3).astype(int)
    assert np.abs(ours - photo(3, 61, 83)).mean() < 5


def test_gif_decodes_to_its_first_frame():
    ours = images.decode(PICTURES["gif"], 3).astype(int)
    assert np.abs(ours - photo(1, 20, 30)).mean() < 20 < np.abs(ours - photo(2, 20, 30)).mean()


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


@pytest.mark.parametrize("colors", [0, 2])
def test_sixteen_bit_images_keep_the_upper_eight(colors):
    values = np.linspace(0, 65535, 6 * 8 * (3 if colors else 1)).astype(">u2").reshape(6, 8, -1)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", 8, 6, 16, colors, 0, 0, 0)
    encoded = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    encoded += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    expected = np.broadcast_to((values >> 8).astype(np.uint8), (6, 8, 3))
    np.testing.assert_array_equal(images.decode(encoded, 3), expected)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"no image at all",
        jpeg(photo(1, 60, 80))[:900],
        jpeg(photo(1, 60, 80))[:30],
        PICTURES["png"][:200],
        PICTURES["webp"][:60],
        b"GIF89a",
        b"\xff\xd8\xff" + bytes(100),
    ],
)
def test_invalid_or_truncated_image_raises(encoded):
    with pytest.raises(BadImageError, match=r"\w"):
        images.decode(encoded, 3)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(
        [jpeg(photo(1, 40, 30)), *(PICTURES[n] for n in ("png", "webp", "gif", "bmp"))]
    ),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
def test_damaged_files_decode_or_raise_bad_image(encoded, changes, length):
    damaged = bytearray(encoded)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    try:
        pixels = images.decode(bytes(damaged[: 1 + int(length * len(damaged))]), 3)
    except BadImageError:
        return
    assert pixels.dtype == np.uint8 and pixels.shape[2] == 3


def header_of_a_jpeg_of(height: int, width: int) -> bytes:
    encoded = bytearray(jpeg(photo(1, 16, 16)))
    place = encoded.index(b"\xff\xc0") + 5
    encoded[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(encoded)


def test_huge_image_raises_before_it_is_decoded():
    with pytest.raises(BadImageError, match="decompression bomb"):
        images.decode(header_of_a_jpeg_of(65500, 65500), 3)
    thin = np.zeros((1, 20_000, 3), np.uint8)
    with pytest.raises(BadImageError, match="resized to 256x5120000 pixels"):
        transforms.resize_shorter(thin, 256)
    with pytest.raises(BadImageError, match="resized to 256x5120000 pixels"):
        transforms.resize_and_crop(thin, 256, 224, np.random.default_rng(0))


def test_floating_images_must_be_in_0_to_1():
    values = np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)
    encoded = image_file(Image.fromarray(values), "TIFF")
    np.testing.assert_array_equal(images.decode(encoded, 1)[..., 0], np.round(values * 255))
    with pytest.raises(BadImageError, match="outside 0 to 1"):
        images.decode(image_file(Image.fromarray(255 * values), "TIFF"), 1)


def test_integers_above_sixteen_bits_raise():
    values = np.arange(12, dtype=np.int32).reshape(3, 4) * 40_000
    with pytest.raises(BadImageError, match="65535"):
        images.decode(image_file(Image.fromarray(values), "TIFF"), 1)


def test_formats_that_run_other_programs_raise():
    with pytest.raises(BadImageError, match="it is not an image"):
        images.decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 3)


def test_arrays_convert_to_images():
    color = photo(3, 5, 7)
    np.testing.assert_array_equal(images.from_array(color, 3), color)
    np.testing.assert_array_equal(images.from_array(color / np.float32(255), 3), color)
    gray = np.asarray(Image.fromarray(color).convert("L"))
    np.testing.assert_array_equal(images.from_array(color, 1)[..., 0], gray)
    np.testing.assert_array_equal(images.from_array(gray, 3), np.stack([gray] * 3, -1))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 3, 4), np.uint8),
        np.zeros(3, np.uint8),
        np.zeros((0, 3), np.uint8),
        np.full((2, 3), 1.5),
        np.full((2, 3), np.nan),
        np.zeros((2, 3), np.int64),
    ],
)
def test_invalid_arrays_raise(array):
    with pytest.raises(BadImageError):
        images.from_array(array, 3)


# --- evaluation


def reference_crop(image: Image.Image, resize_size: int, size: int, interpolation: str):
    mode = torchvision.transforms.InterpolationMode(interpolation)
    resize = torchvision.transforms.Resize(resize_size, mode, antialias=True)
    return torchvision.transforms.CenterCrop(size)(resize(image))


WANTED = {
    (p.resize_size, p.crop_size, p.interpolation)
    for weights in PUBLISHED
    for p in [weights.preprocessing]
}
SIZES = [(375, 500), (501, 333), (97, 131), (600, 221), (1201, 899)]


@pytest.mark.parametrize(("resize_size", "size", "interpolation"), sorted(WANTED))
def test_evaluation_image_of_every_published_preset_equals_torchvision(
    resize_size, size, interpolation
):
    """Equal in every value, more than is asked for: both are Pillow's."""
    gray = size % 2 == 0
    encoded = jpeg(photo(size, *SIZES[size % len(SIZES)], gray=gray))
    preprocess = EvalPreprocess(
        image_size=size,
        channels=3,
        crop="resize_and_center_crop",
        fit="resize",
        resize_size=resize_size,
        interpolation=interpolation,
    )
    ours = preprocess(images.decode(encoded, 3), np.random.default_rng(0))
    reference = reference_crop(as_pillow(encoded), resize_size, size, interpolation)
    np.testing.assert_array_equal(ours, np.asarray(reference))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.integers(20, 90),
    st.integers(20, 90),
    st.sampled_from(["bilinear", "bicubic"]),
    st.sampled_from([1, 3]),
)
def test_evaluation_crop_equals_torchvision_at_any_size(
    height, width, resize_size, size, interpolation, channels
):
    """Also for upscaled images, and crops that are larger than the image."""
    image = photo(5, height, width, gray=channels == 1)
    ours = transforms.resize_shorter(
        image.reshape(height, width, channels), resize_size, interpolation
    )
    ours = transforms.center_crop(ours, size)
    reference = reference_crop(Image.fromarray(image), resize_size, size, interpolation)
    np.testing.assert_array_equal(ours, np.asarray(reference).reshape(ours.shape))


@pytest.mark.parametrize("shape", [(40, 50), (51, 41), (24, 24)])
def test_ten_crops_equal_torchvision(shape):
    image = photo(5, *shape)
    reference = torchvision.transforms.TenCrop(24)(Image.fromarray(image))
    np.testing.assert_array_equal(
        transforms.ten_crop(image, 24), np.stack([np.asarray(crop) for crop in reference])
    )


# --- training


def boxes(height: int, width: int, count: int) -> np.ndarray:
    draw = transforms.random_resized_crop_box
    return np.array([draw(height, width, rng) for rng in generators(count)])


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (100, 900), (40, 41)])
def test_crop_boxes_have_torchvision_distribution(size):
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
            "center": (top + height / 2) - (left + width / 2),
        }

    for name, sample in statistics(ours).items():
        result = scipy.stats.ks_2samp(sample, statistics(theirs)[name])
        assert result.pvalue > 1e-4, name


def test_image_without_fitting_box_gets_the_central_one():
    theirs = torchvision.transforms.RandomResizedCrop.get_params(
        torch.empty(3, 10, 1000), (0.9, 1), (3 / 4, 4 / 3)
    )
    # At least 0.08 of the area of 10x10000 pixels never has an aspect ratio below 4/3.
    (ours,) = boxes(10, 10000, 1)
    assert ours.tolist() == [0, 4993, 10, 13]
    assert theirs[2:] == (10, 13)


def noise(seed: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# If bicubic weights overshoot 0 or 255, as in noise, the order of the axes matters.
@pytest.mark.parametrize(
    ("picture", "interpolation", "levels"),
    [(photo, "bilinear", 1), (noise, "bilinear", 1), (photo, "bicubic", 2), (noise, "bicubic", 20)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_fast_resize_is_close_to_pillows(picture, interpolation, levels, channels):
    sizes = np.random.default_rng(0).integers(5, 500, (40, 2))
    equal = []
    for height, width in sizes:
        image = picture(int(height), height, width)[..., :channels]
        ours = transforms.fast_resize(image, 64, 80, interpolation).astype(int)
        reference = transforms.resize(image, 64, 80, interpolation)
        assert np.abs(ours - reference).max() <= levels
        equal.append(np.mean(ours == reference))
    assert np.mean(equal) > 0.8


def test_random_resized_crop_uses_its_box():
    image = photo(1, 120, 160)
    for rng, same in zip(generators(5), generators(5), strict=True):
        top, left, height, width = transforms.random_resized_crop_box(120, 160, same)
        expected = transforms.resize(
            image[top : top + height, left : left + width], 64, 64, "bilinear"
        )
        ours = transforms.random_resized_crop(image, 64, rng).astype(int)
        assert np.abs(ours - expected).max() <= 1


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(120, 160), (161, 90), (40, 40)])
def test_resize_and_crop_equals_torchvision(shape, interpolation, monkeypatch):
    image = photo(1, *shape)
    mode = torchvision.transforms.InterpolationMode(interpolation)
    transform = torchvision.transforms.Compose(
        [torchvision.transforms.Resize(56, mode), torchvision.transforms.RandomCrop(48)]
    )
    levels = 1 if interpolation == "bilinear" else 2  # fast_resize's bounds
    for rng, same in zip(generators(5), generators(5), strict=True):

        def randint(low, high, size, rng=same):
            return torch.tensor(rng.integers(low, high, size))

        monkeypatch.setattr(torch, "randint", randint)
        expected = np.asarray(transform(Image.fromarray(image)))
        ours = transforms.resize_and_crop(image, 56, 48, rng, interpolation).astype(int)
        assert ours.shape == (48, 48, 3)
        assert np.abs(ours - expected).max() <= levels
        assert np.mean(ours == expected) > 0.8


def test_resize_and_crop_reaches_every_window():
    image = np.arange(1, 36, dtype=np.uint8).reshape(5, 7, 1)
    windows = {image[i : i + 4, j : j + 4].tobytes() for i in range(2) for j in range(4)}
    drawn = {transforms.resize_and_crop(image, 5, 4, rng).tobytes() for rng in generators(200)}
    assert drawn == windows


def test_pad_and_crop_reaches_every_window():
    image = np.arange(1, 10, dtype=np.uint8).reshape(3, 3, 1)
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[i : i + 3, j : j + 3].tobytes() for i in range(5) for j in range(5)}
    drawn = {transforms.pad_and_crop(image, 2, rng).tobytes() for rng in generators(400)}
    assert drawn == windows


@pytest.mark.parametrize("channels", [1, 3])
def test_half_of_the_images_are_mirrored(channels):
    image = np.arange(6 * channels, dtype=np.uint8).reshape(2, 3, channels)
    drawn = [transforms.random_flip(image, rng) for rng in generators(400)]
    mirrored = [(array == image[:, ::-1]).all() for array in drawn]
    assert all(m or (array == image).all() for m, array in zip(mirrored, drawn, strict=True))
    assert 150 < sum(mirrored) < 250


def test_training_image_is_resized_and_cropped():
    image = photo(1, 90, 120)
    preprocess = TrainPreprocess(
        image_size=48, channels=3, crop="resize_and_crop", fit="resize", resize_size=56
    )
    for rng, same in zip(generators(3), generators(3), strict=True):
        expected = transforms.resize_and_crop(image, 56, 48, same)
        np.testing.assert_array_equal(preprocess(image, rng), expected)


def test_preprocessing_at_another_size_is_in_proportion():
    preprocess = TrainPreprocess(
        image_size=224,
        channels=3,
        crop="resize_and_crop",
        fit="resize",
        resize_size=256,
        padding=5,
        flip=True,
    )
    smaller = preprocess.at_size(128)
    assert (smaller.image_size, smaller.resize_size, smaller.padding) == (128, 146, 3)
    assert smaller(photo(1, 90, 120), np.random.default_rng(0)).shape == (128, 128, 3)
    assert preprocess.at_size(224) == preprocess


def test_fit_pads_or_resizes():
    image = np.ones((28, 28, 1), np.uint8)
    padded = transforms.fit(image, 32, "pad")
    assert padded.shape == (32, 32, 1) and padded.sum() == 28 * 28
    assert padded[2:30, 2:30].all()
    assert transforms.fit(image, 32, "resize").all()
    assert transforms.fit(image, 20, "pad").shape == (20, 20, 1)
