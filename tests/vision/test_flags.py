"""The data set that the flags of a script name."""

import pytest

import finetune
import pretrain
from tests.helpers import one_line
from unlearning.core.errors import UserError
from unlearning.vision.flags import source_of


@pytest.mark.parametrize("name", ["digits", "gtsrb", "npz:some.npz"])
def test_a_side_of_images_that_have_their_own_is_refused(name, tmp_path, capsys):
    """It was ignored: the network was trained on images of another side than was asked for, and no line said so."""
    flags = ("--dataset", name, "--img-size", 64, "--weights", tmp_path / "w")
    for script, further in ((pretrain, ()), (finetune, ("--forget-class", 1)), (pretrain, ("--list-classes",))):
        code, line = one_line(script, capsys, *flags, *further)
        said = f"--img-size is of folder: and csv: images: it says nothing to {name}"
        assert (code, line) == (2, f"{script.__name__}.py: {said}")
    assert not (tmp_path / "w").exists()


def test_a_side_of_pictures_in_files_is_taken():
    for name in ("folder:some", "csv:some.csv"):
        args = pretrain.parser().parse_args(["--dataset", name, "--img-size", "64"])
        assert source_of(args).img_size == 64
    args = pretrain.parser().parse_args(["--dataset", "some", "--img-size", "64"])  # a folder without its kind
    with pytest.raises(UserError, match="unknown data set 'some'; there are"):
        source_of(args).load()
