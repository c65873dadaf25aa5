"""A seal says that a file is as this project wrote it, and readers of its format pass over it."""

import csv
import io
import json

import matplotlib
import pytest
from matplotlib.figure import Figure

from unlearning.core.errors import UserError
from unlearning.core.seals import check_own, is_own, is_whole, sealed, split
from unlearning.reports import style

TEXTS = {
    "json": b'{\n "rows": [1, 2],\n "about": "ein Stra\xc3\x9fe"\n}\n',
    "markdown": b"# Title\n\n| a |\n",
    "html": b"<!doctype html>\n<p>\n</html>\n",
    "latex": b"% \\usepackage{booktabs}\n\\end{table}\n",
    "csv": b'method,UA\n"a, b",1\nc,2\n',
}


@pytest.mark.parametrize("form", TEXTS)
def test_a_seal_fits_what_it_was_made_for_and_nothing_else(form):
    """Not one byte may differ, wherever it stands, and none may be added or taken away."""
    text = TEXTS[form]
    content = sealed(text, form)
    assert is_whole(content) and split(content)[0] == text and not is_whole(text)
    for place in range(len(content) + 1):
        changed = [content[:place] + b"x" + content[place:], content[:place] + content[place + 1 :]]
        assert not any(is_whole(one) for one in changed if one != content), place
    assert not is_whole(content + content) and not is_whole(sealed(content, form) + b"My note.\n")


def test_readers_pass_over_a_seal(tmp_path):
    assert json.loads(sealed(TEXTS["json"], "json")) | {"seal": ""} == json.loads(TEXTS["json"]) | {"seal": ""}
    rows = list(csv.DictReader(io.StringIO(sealed(TEXTS["csv"], "csv").decode())))
    assert [(row["method"], row["UA"]) for row in rows] == [("a, b", "1"), ("c", "2")]
    figure = Figure(figsize=(1, 1))
    style.save(figure, tmp_path / "sealed.png")
    figure.savefig(tmp_path / "other.png", dpi=style.DPI)
    one, other = (matplotlib.image.imread(tmp_path / name) for name in ("sealed.png", "other.png"))
    assert (one == other).all()
    from PIL import Image

    with Image.open(tmp_path / "sealed.png") as image:
        image.load()
        assert image.text["Seal"].startswith("unlearning-sha256:")
        image.save(tmp_path / "edited.png")  # as by somebody's editor
    assert is_own(tmp_path / "sealed.png") and not is_own(tmp_path / "edited.png") and not is_own(tmp_path / "other.png")
    content = (tmp_path / "sealed.png").read_bytes()
    assert not any(
        is_whole(content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]) for i in range(0, len(content) - 150, 5)
    )


def test_what_is_not_as_it_was_written_is_refused(tmp_path):
    """Links and folders too; where nothing is, nothing is lost."""
    (tmp_path / "ours").write_bytes(sealed(b"x\n", "markdown"))
    check_own([tmp_path / "ours", tmp_path / "none"])
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "ours")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    (tmp_path / "mine").write_bytes(b"mine")
    for name in ("folder", "link", "nowhere", "mine"):
        with pytest.raises(UserError, match=f"{name} isn't as this project wrote it"):
            check_own([tmp_path / "ours", tmp_path / name])
