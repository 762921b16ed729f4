"""The handwritten digits that scikit-learn ships, as a tfds dataset that needs no download."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxcnn.data.tfds import tfds


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 digits of 8x8 pixels: ``sklearn.datasets.load_digits``.

    scikit-learn does not split them: here every fifth example is for testing (359), the others
    are for training (1,438).
    """

    VERSION = tfds.core.Version("1.0.0")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits of 8x8 pixels, from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
            citation="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, 1998",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        del dl_manager  # nothing to download
        return {"train": self._generate_examples("train"), "test": self._generate_examples("test")}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.round(digits.images * (255 / 16)).astype(np.uint8)  # from values of 0 to 16
        for index, (image, label) in enumerate(zip(images, digits.target, strict=True)):
            if (index % 5 == 4) == (split == "test"):
                yield index, {"image": image[..., None], "label": int(label)}
