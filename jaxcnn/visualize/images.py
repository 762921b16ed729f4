"""Images and figures as PNG files."""

import io
import warnings
from typing import TYPE_CHECKING

import numpy as np

from jaxcnn.data.images import to_pillow

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def png(image: np.ndarray) -> bytes:
    """Encode an image ``[H, W, 1 or 3]`` uint8 as a PNG file."""
    file = io.BytesIO()
    to_pillow(image).save(file, "PNG")
    return file.getvalue()


def figure_png(figure: "Figure", dpi: int = 110) -> bytes:
    """Render a matplotlib figure as a PNG file, trimmed to what is drawn."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Names of classes may have characters that the font lacks: boxes are drawn.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, format="png", dpi=dpi, bbox_inches="tight", facecolor="white")
    return file.getvalue()
