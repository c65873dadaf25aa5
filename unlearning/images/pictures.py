"""Files of pictures, read as RGB."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unlearning.core.errors import UserError


def read_image(file: str | Path, side: int) -> torch.Tensor:
    """The image in `file`, resized unless it has this side: uint8 (3, side, side)."""
    try:
        with Image.open(file) as image:
            colours = image.convert("RGB")
            pixels = np.array(colours if colours.size == (side, side) else colours.resize((side, side)))
    except OSError as error:
        raise UserError(f"{file} is not a readable image ({error})") from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
