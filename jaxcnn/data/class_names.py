"""The names of ImageNet's classes.

``imagenet_classes.txt`` has one line per class, in the order of the labels: its WordNet id, as in
the labels of ``imagenet2012`` in tfds, and its name in words, as in ``weights.meta["categories"]``
of torchvision.
"""

import functools
import importlib.resources
from collections.abc import Sequence


@functools.cache
def imagenet_classes() -> dict[str, str]:
    """The 1,000 names by WordNet id, in the order of the labels.

    Example:
        >>> list(imagenet_classes().items())[0]
        ('n01440764', 'tench')
    """
    file = importlib.resources.files("jaxcnn.data") / "imagenet_classes.txt"
    text = file.read_text(encoding="utf-8")
    return dict(line.split(" ", 1) for line in text.splitlines())


def in_words(classes: Sequence[str]) -> tuple[str, ...]:
    """The classes' names, with WordNet ids of ImageNet's classes as words.

    Example:
        >>> in_words(["n01440764", "n02102040", "cat"])
        ('tench', 'English springer', 'cat')
    """
    words = imagenet_classes()
    return tuple(words.get(name, name) for name in classes)
