"""What is said, in lines that a user can read."""

import pickle
import time

import numpy as np
import pytest
import torch

from unlearning.core.words import first_line


def test_a_librarys_error_is_one_plain_line(tmp_path):
    for text, line in (
        ("\x1b[31mred\x1b[0m text\nand more", "red text"),
        ("  \n", "ValueError"),
        (f"bad value {np.float32(2)!r} of {np.str_('x')!r}", "bad value 2.0 of 'x'"),
        ("in /root/.venv/lib/python3.11/site-packages/timm/models/vit.py: no such", "in timm/models/vit.py: no such"),
        ("It failed. Re-running with `weights_only=False` will work", "It failed"),
        ("set weights_only=False to load", "ValueError"),
        ("x" * 500, "x" * 160),
        ("bell \a and \u200bspace", "bell  and space"),
    ):
        assert first_line(ValueError(text)) == line


def test_torchs_own_advice_to_run_code_is_not_passed_on(tmp_path):
    torch.save({"a": Opaque()}, tmp_path / "x.pth")
    with pytest.raises(pickle.UnpicklingError) as error:
        torch.load(tmp_path / "x.pth", weights_only=True)
    assert "weights_only" in str(error.value) and "weights_only" not in first_line(error.value)


class Opaque:
    """An object that only code can make again."""


def test_a_librarys_error_that_quotes_a_whole_file_is_one_line_at_once():
    """As PEFT's of a layer's name of a hundred thousand letters; a pattern that looks for folders took minutes."""
    began = time.process_time()
    assert first_line(ValueError(f"no layer {'x' * 100_000} is there")) == f"no layer {'x' * 151}"
    assert time.process_time() - began < 1
