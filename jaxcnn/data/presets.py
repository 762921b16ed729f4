"""Presets of well-known datasets: their images, and the usual preprocessing.

Data only, without TensorFlow, so that a config can be read without it.
"""

import dataclasses

Channels = tuple[float, ...]

# How an image is brought to the network's size, in training and in evaluation.
TRAIN_CROPS = ("random_resized_crop", "resize_and_crop", "pad_and_crop", "none")
EVAL_CROPS = ("resize_and_center_crop", "none")
FITS = ("resize", "pad")


@dataclasses.dataclass(frozen=True)
class Preset:
    """A dataset's images and their preprocessing.

    Attributes:
        image_size: height and width of the images for the network, in pixels.
        mean: of each channel, for values in 0 to 1.
        std: of each channel, for values in 0 to 1.
        train_split: in tfds's notation.
        eval_split: in tfds's notation; None: the validation split, or else the test split.
        train_crop: one of ``TRAIN_CROPS``.
        eval_crop: one of ``EVAL_CROPS``.
        fit: how images of another size are brought to ``image_size`` without a crop: one of
            ``FITS``.
        padding: pixels on each side before a random crop (``pad_and_crop``).
        flip: whether half of the training images are mirrored left to right.
        resize_size: length of the shorter side before the center crop
            (``resize_and_center_crop``) or the random crop (``resize_and_crop``).
    """

    image_size: int
    mean: Channels
    std: Channels
    train_split: str = "train"
    eval_split: str | None = "test"
    train_crop: str = "pad_and_crop"
    eval_crop: str = "none"
    fit: str = "pad"
    padding: int = 4
    flip: bool = False
    resize_size: int = 256


# ImageNet's preprocessing in torchvision's reference scripts, for any dataset of photographs.
PHOTOGRAPHS = Preset(
    image_size=224,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    eval_split=None,
    train_crop="random_resized_crop",
    eval_crop="resize_and_center_crop",
    flip=True,
)

PRESETS: dict[str, Preset] = {
    "imagenet2012": dataclasses.replace(PHOTOGRAPHS, eval_split="validation"),
    "cifar10": Preset(32, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616), flip=True),
    "cifar100": Preset(32, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762), flip=True),
    "mnist": Preset(32, (0.1307,), (0.3081,), padding=2),
    "fashion_mnist": Preset(32, (0.2860,), (0.3530,), padding=2, flip=True),
    "digits": Preset(32, (0.3053,), (0.3760,), fit="resize"),
}


def preset(dataset: str) -> Preset:
    """The preset of a tfds dataset (``"cifar10"``, ``"cifar10:3.0.2"``), or that of photographs.

    Images in files (``"folder:/path"``) are treated as photographs.
    """
    return PRESETS.get(base_name(dataset), PHOTOGRAPHS)


def base_name(dataset: str) -> str:
    """The name of a tfds dataset without variant and version: ``"cifar10:3.0.2"``'s is cifar10."""
    return dataset.partition(":")[0].partition("/")[0]
