"""Files of pictures, read as RGB of 8 bits.

Pictures are turned as their EXIF orientation says, transparent ones are laid on white, of animations the first frame is
read. Of 16 bits the upper eight are kept, which is what PIL itself does with 16-bit colours. What has no clear range of
brightness, as 32-bit numbers have none, is refused by name.
"""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps

from unlearning.core.errors import UserError
from unlearning.core.paths import check_regular
from unlearning.core.words import first_line, listed

NOWHERE = ""  # the path of an image that isn't there any more, which is read as black
NOT_READ = ("EPS", "MPEG")  # EPS takes a program beside PIL, and of MPEG it knows the header alone
BITS, PHOTOMETRIC = 258, 262  # tags of TIFF: bits of a pixel; 0 where the smallest value is white
WIDE = ("PNG", "TIFF", "JPEG2000")  # formats whose 16 bits span black to white
MAX_16 = ("PNG", "PPM")  # formats that PIL reads as 32-bit numbers from 0 to 65535
BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)


def suffixes() -> set[str]:
    """The ends of names, ".jpg" and so on, of the formats that PIL can read by itself."""
    known = Image.registered_extensions()  # loads all of PIL's formats
    makers = {name: maker for name, (maker, _) in Image.OPEN.items() if name not in NOT_READ}
    stubs = {
        name for name, maker in makers.items() if isinstance(maker, type) and issubclass(maker, ImageFile.StubImageFile)
    }
    return {suffix for suffix, name in known.items() if name in makers.keys() - stubs}


def read_images(files: Sequence[str | Path] | np.ndarray, side: int) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """The pictures in `files`, uint8 (N, 3, side, side), several read at a time, and the width and height of each file.

    One that is NOWHERE is black and has no size. Raises UserError that names all files that hold no picture.
    """
    images, sizes, wrong = torch.empty(len(files), 3, side, side, dtype=torch.uint8), [(0, 0)] * len(files), {}
    warnings.simplefilter("error", Image.DecompressionBombWarning)  # from half of what PIL itself refuses

    def read(row):
        if files[row] == NOWHERE:
            images[row] = 0
            return
        try:
            check_regular(files[row])
            colours = _colours(str(files[row]))
        except Exception as error:  # PIL's formats fail in a dozen ways
            wrong[row] = _reason(error)
            return
        sizes[row] = colours.size
        images[row] = torch.from_numpy(_resized(colours, side)).permute(2, 0, 1)

    with ThreadPoolExecutor(os.cpu_count()) as readers:  # decoding leaves Python's lock to the others
        list(readers.map(read, range(len(files))))
    if wrong:
        raise UserError(_complaint([(files[row], wrong[row]) for row in sorted(wrong)]))
    return images, sizes


def _complaint(wrong):
    if len(wrong) == 1:
        return f"{wrong[0][0]} is not a readable image ({wrong[0][1]})"
    return f"{len(wrong):,} files are not readable images: {listed([f'{file} ({why})' for file, why in wrong])}"


def _resized(colours, side):
    return np.array(colours if colours.size == (side, side) else colours.resize((side, side)))


def _reason(error):
    if isinstance(error, BOMBS):
        return f"more than {Image.MAX_IMAGE_PIXELS:,} pixels, which may be an attack on memory: make it smaller"
    return first_line(error)


def _colours(file):
    """The picture in `file` as an RGB image of PIL. Raises what PIL raises, and ValueError for what has no clear range."""
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            return _of_16_bits(upright, image.format, getattr(image, "tag_v2", {})).convert("RGB")
        if not upright.has_transparency_data:
            return upright.convert("RGB")
        colours = upright.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours).convert("RGB")


def _of_16_bits(image, kind, tags):
    """A grey image of 16 bits as one of 8. kind: its file's format; tags: those of a TIFF. Raises ValueError for one whose
    numbers have no clear range."""
    if not (image.mode.startswith("I;16") and kind in WIDE) and not (image.mode == "I" and kind in MAX_16):
        raise ValueError(f"pixels of mode {image.mode}, whose range isn't known: save it with 8 bits, or 16 without a sign")
    values = np.array(image).astype(np.uint16)
    eight = (values >> (tags.get(BITS, (16,))[0] - 8)).astype(np.uint8)
    if tags.get(PHOTOMETRIC) == 0:
        eight = 255 - eight
    if "transparency" in image.info:
        eight[values == image.info["transparency"]] = 255
    return Image.fromarray(eight)
