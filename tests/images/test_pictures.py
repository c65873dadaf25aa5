"""Files of pictures against what their pixels mean, written here bit by bit or by PIL."""

import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from unlearning.core.errors import UserError
from unlearning.images import pictures

GREY = np.array([[0, 255, 256], [257, 32768, 65280], [65534, 65535, 4096]], dtype=np.uint16)


def read(file, side=3):
    """The picture in a file as (side, side, 3)."""
    return pictures.read_images([file], side)[0][0].permute(1, 2, 0).numpy()


def tiff(values, bits, photometric=1, sample=1):
    """A TIFF without compression: a row of grey numbers after the other, packed as they are given."""
    tags = [(256, 3, 3), (257, 3, 3), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8), (277, 3, 1),
            (278, 3, 3), (279, 4, len(values)), (339, 3, sample)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"II*\0" + struct.pack("<I", 8 + len(values)) + values + directory


def test_of_16_bits_the_upper_eight_are_kept(tmp_path):
    image = Image.fromarray(GREY)
    for name in ("a.png", "a.tiff", "a.pgm", "a.jp2"):
        image.save(tmp_path / name)
        assert (read(tmp_path / name) == (GREY >> 8)[:, :, None]).all(), name
    (tmp_path / "white-is-zero.tif").write_bytes(tiff(GREY.tobytes(), 16, photometric=0))
    assert (read(tmp_path / "white-is-zero.tif") == 255 - (GREY >> 8)[:, :, None]).all()
    big = image.copy()
    big.save(tmp_path / "clear.png", transparency=32768)
    assert (read(tmp_path / "clear.png")[1, 1] == 255).all() and (read(tmp_path / "clear.png")[1, 0] == 1).all()


def test_12_bits_are_not_taken_for_16(tmp_path):
    packed = bytes([0xFF, 0xF8, 0x00, 0x01, 0x00]) * 3  # 4095, 2048, 16 and half a byte to fill the row
    (tmp_path / "a.tif").write_bytes(tiff(packed, 12))
    assert read(tmp_path / "a.tif")[:, :, 0].tolist() == [[255, 128, 1]] * 3


@pytest.mark.parametrize(
    ("name", "content", "mode"),
    [
        ("float.tif", tiff(np.linspace(0, 1, 9, dtype=np.float32).tobytes(), 32, sample=3), "F"),
        ("signed.tif", tiff(np.arange(9, dtype=np.int16).tobytes(), 16, sample=2), "I"),
        ("wide.tif", tiff(np.arange(9, dtype=np.uint32).tobytes(), 32), "I"),
    ],
)
def test_numbers_without_a_clear_range_are_refused_by_name(tmp_path, name, content, mode):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} is not a readable image \(pixels of mode {mode}, whose range isn't known"):
        read(tmp_path / name)


def test_pictures_are_turned_as_exif_says(tmp_path):
    """All eight orientations, as a reader of the standard would turn the stored rows and columns."""
    stored = np.arange(9, dtype=np.uint8).reshape(3, 3) * 20
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.T,
        6: stored.T[:, ::-1],  # a quarter turn clockwise
        7: stored[::-1, ::-1].T,
        8: stored.T[::-1],
    }
    for pixels, shift in ((stored, 0), (stored.astype(np.uint16) << 8, 8)):
        for orientation, wanted in upright.items():
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
            assert (read(tmp_path / "a.png")[:, :, 0] == wanted).all(), (orientation, shift)
    wide = Image.new("RGB", (6, 3))
    exif[0x0112] = 6
    wide.save(tmp_path / "wide.png", exif=exif)
    assert pictures.read_images([tmp_path / "wide.png"], 3)[1] == [(3, 6)]


def test_transparent_pictures_are_laid_on_white(tmp_path):
    """colour * alpha + white * (1 - alpha), within a rounding; what is opaque keeps its colour."""
    alpha = np.array([[0, 64, 128], [192, 255, 1], [254, 0, 255]], dtype=np.uint8)
    colour = np.full((3, 3, 3), (200, 100, 0), dtype=np.uint8)
    share = alpha[:, :, None] / 255
    Image.fromarray(np.dstack([colour, alpha])).save(tmp_path / "rgba.png")
    wanted = colour * share + 255 * (1 - share)
    assert np.abs(read(tmp_path / "rgba.png") - wanted).max() <= 1
    assert (read(tmp_path / "rgba.png")[alpha == 255] == (200, 100, 0)).all()
    Image.fromarray(np.dstack([colour[:, :, 0], alpha])).save(tmp_path / "la.png")
    assert np.abs(read(tmp_path / "la.png") - (200 * share + 255 * (1 - share))).max() <= 1
    palette = Image.fromarray(np.arange(9, dtype=np.uint8).reshape(3, 3), "P")
    palette.putpalette([0, 0, 100] * 9)
    palette.save(tmp_path / "p.png", transparency=alpha.tobytes())
    assert np.abs(read(tmp_path / "p.png") - ((0, 0, 100) * share + 255 * (1 - share))).max() <= 1
    palette.save(tmp_path / "p.gif", transparency=4)
    for mode, key in (("L", 7), ("RGB", (7, 7, 7)), ("1", 0)):
        plain = Image.new(mode, (3, 3), key)
        plain.putpixel((0, 0), {"L": 50, "RGB": (50, 60, 70), "1": 255}[mode])
        plain.save(tmp_path / f"{mode}.png", transparency=key)
    for name, first in (("p.gif", (0, 0, 100)), ("L.png", (50,) * 3), ("RGB.png", (50, 60, 70)), ("1.png", (255,) * 3)):
        assert (read(tmp_path / name)[1, 1] == 255).all() and tuple(read(tmp_path / name)[0, 0]) == first, name


def test_other_kinds_are_read_as_colours(tmp_path):
    red, blue = Image.new("RGB", (3, 3), (255, 0, 0)), Image.new("RGB", (3, 3), (0, 0, 255))
    for name in ("a.gif", "a.png", "a.webp"):
        red.save(tmp_path / name, save_all=True, append_images=[blue], duration=10, lossless=True)
        assert (read(tmp_path / name) == (255, 0, 0)).all(), name
    Image.new("CMYK", (3, 3), (0, 255, 255, 0)).save(tmp_path / "a.tif")
    Image.new("CMYK", (3, 3), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    assert (read(tmp_path / "a.tif") == (255, 0, 0)).all()
    assert np.abs(read(tmp_path / "a.jpg").astype(int) - (255, 0, 0)).max() < 9
    bits = Image.fromarray(np.eye(3, dtype=bool))
    bits.save(tmp_path / "bits.png")
    assert (read(tmp_path / "bits.png")[:, :, 1] == 255 * np.eye(3)).all()
    red.quantize(2).save(tmp_path / "palette.png")
    assert (read(tmp_path / "palette.png") == (255, 0, 0)).all()


@pytest.mark.parametrize("side", [11, 15, 40])
def test_a_picture_too_large_for_memory_is_one_line(tmp_path, monkeypatch, side):
    """PIL warns above its limit and stops above twice as many pixels; nothing of that is seen beside the line."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (side, side)).save(tmp_path / "bomb.png")
    Image.new("RGB", (10, 10)).save(tmp_path / "fine.png")
    with warnings.catch_warnings(record=True) as said, pytest.raises(UserError) as error:
        read(tmp_path / "bomb.png")
    assert "bomb.png is not a readable image (more than 100 pixels" in str(error.value) and not said
    assert read(tmp_path / "fine.png", 10).shape == (10, 10, 3)


def test_all_unreadable_files_are_named_at_once(tmp_path):
    files = [tmp_path / f"{number:02}.png" for number in range(15)]
    for number, file in enumerate(files):
        if number in (2, 5, 7):
            Image.new("RGB", (3, 3)).save(file)
        else:
            file.write_bytes(b"not an image")
    Image.new("RGB", (30, 30)).save(tmp_path / "whole.png")
    (tmp_path / "00.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])  # truncated
    with pytest.raises(UserError) as error:
        pictures.read_images(files, 3)
    line = str(error.value)
    assert line.startswith(f"12 files are not readable images: {files[0]} (") and line.endswith(" and 2 more")
    named = [f"{number:02}" for number in range(15) if f"{number:02}.png (" in line]
    assert named == ["00", "01", "03", "04", "06", "08", "09", "10", "11", "12"]


def test_suffixes_are_those_that_pil_reads_by_itself():
    assert {".jpg", ".jpeg", ".png", ".gif", ".webp", ".jp2", ".tga", ".ico", ".bmp", ".tif"} <= pictures.suffixes()
    assert not {".pdf", ".h5", ".hdf", ".wmf", ".eps", ".mpg", ".txt", ""} & pictures.suffixes()
