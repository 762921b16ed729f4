"""Small datasets of made-up photographs, in the format in which tfds stores ImageNet."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from jaxcnn.data.tfds import tfds


def photo(seed: int, height: int, width: int, *, gray: bool = False) -> np.ndarray:
    """A smooth picture, ``[H, W, 3]`` uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(image.convert("L") if gray else image)


def image_file(image: np.ndarray | Image.Image, image_format: str, **kwargs: Any) -> bytes:
    buffer = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(buffer, image_format, **kwargs)
    return buffer.getvalue()


def jpeg(image: np.ndarray, quality: int = 90) -> bytes:
    return image_file(image, "JPEG", quality=quality)


class Photos(tfds.core.GeneratorBasedBuilder):
    """JPEGs of many sizes, with 20 training and 11 validation examples, of 4 classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> Any:
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(encoding_format="jpeg"),
                    "label": tfds.features.ClassLabel(num_classes=4),
                    "file_name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(20), "validation": self._generate_examples(11)}

    def _generate_examples(self, count: int) -> Iterator[tuple[str, dict[str, Any]]]:
        for number in range(count):
            name = f"{count}-{number}.jpg"
            image = photo(number, 60 + 7 * number, 200 - 9 * number)
            yield (
                name,
                {"image": io.BytesIO(jpeg(image)), "label": number % 4, "file_name": name},
            )
