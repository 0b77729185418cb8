"""Image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises on a file that it cannot read."""
HOW = f"Pillow {PIL.__version__}, bilinear, 1"
"""What pixels depend on beside a file and a size; raise the number with any change of them."""


def decode(path: Path, side: int) -> NDArray[np.uint8]:
    """An image file in three colours, (side, side, 3), scaled as torchvision's Resize, which
    published code uses, has it."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR))
