"""What cards say. Their lines are run in test_timm_folder.py and test_adapter_files.py."""

import json

import pytest
import torch

from tests.helpers import record_of
from unlearning.core.errors import UserError
from unlearning.reports import results
from unlearning.vision import cards
from unlearning.vision.identity import digest

CLASSES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat"]


def test_a_networks_card_says_what_was_forgotten_and_how():
    card = cards.network(record_of("vit_micro") | {"classes": CLASSES}, "folder", "ab12", "| a | b |")
    known = (
        "vit_micro without class3, by lora",
        "2 training images (class3, Dress)",
        digest(torch.tensor([4, 7])),
        "`ab12`",
    )
    for text in (
        *known,
        "`python lora.py --forget-class 3`",
        "digits, SHA-256 `of digits`",
        "local-dir:folder",
        "| a | b |",
    ):
        assert text in card, text
    assert card.startswith("---\nlibrary_name: timm\n") and "license" not in card
    assert "(class3)." in cards.network(record_of("vit_micro"), "folder", "ab12")  # of a checkpoint without names
    listed = record_of("vit_micro") | {"forget_tag": "file1a2b3c4d", "config": {"forget_file": "to/cats.txt"}}
    card = cards.network(listed, "folder", "ab12")
    assert "# vit_micro without the images of cats.txt, by lora" in card and "(cats.txt)." in card
    assert "without class3, by lora" in cards.network(listed | {"forget_tag": "class3"}, "folder", "ab12")  # the better name
    before = {"identity": {"parent": {"forget": {"positions": "ab"}}}}  # of a union the file names a part alone
    assert "without file1a2b3c4d, by lora" in cards.network(listed | before, "folder", "ab12")
    plain = record_of("vit_micro", forget=()) | {"method": "original", "forget_tag": None}
    plain["data"] = {"fingerprint": None}
    card = cards.network(plain, "folder", "ab12")
    assert "# vit_micro (original)" in card and "Forgotten: nothing" in card and "## Scores" not in card
    assert "resized bilinearly to 64 pixels" in cards.network(record_of("vit_micro", input_size=64), "folder", "ab12")


def row(method, ua, **cost):
    """A row of a result file, a value of each cost for each seed."""
    metrics = {name: {"mean": values[0], "ci95": None, "values": values} for name, values in (cost | {"UA": ua}).items()}
    named = {"dataset": "digits", "model": "vit_micro", "forget": "class3", "method": method, "epochs": 2}
    return named | {"n": len(ua), "command": f"python {method}.py", "metrics": metrics}


def test_the_row_of_a_checkpoint_is_the_one_with_a_seed_of_its_cost(tmp_path, capsys):
    """Its seconds are measured; what is alike in all runs, as steps are, tells nothing."""
    missing = row("lora --rank 1", [33.25], steps=[8])
    missing["metrics"]["seconds"] = {"missing": "not measured"}
    rows = [
        row("lora", [11.25, 12.5], steps=[8, 8], seconds=[1.5, 2.0]),
        row("lora --rank 2", [22.25, 24.5], steps=[8, 8], seconds=[3.0, 3.5]),
        row("finetune", [44.25], steps=[8], seconds=[3.5]),
        missing,
    ]
    about = {"table": "evaluate", "command": "python evaluate.py", "date": "2026-01-01", "hardware": "a CPU"}
    (tmp_path / "rows.json").write_text(json.dumps(about | {"versions": {"torch": "2"}, "rows": rows}), encoding="utf-8")
    of = record_of("vit_micro")
    found = cards.scores(tmp_path / "rows.json", of | {"cost": {"steps": 8, "seconds": 3.5}}, "x.pth")
    assert "22.25" in found and "python evaluate.py" in found
    assert not any(other in found for other in ("11.25", "33.25", "44.25"))
    results.write(tmp_path / "own.json", json.loads((tmp_path / "rows.json").read_text(encoding="utf-8")))
    cards.scores(tmp_path / "own.json", of | {"cost": {"steps": 8, "seconds": 3.5}}, "x.pth")
    assert capsys.readouterr().err == ""
    (tmp_path / "own.json").write_bytes((tmp_path / "own.json").read_bytes().replace(b"22.25", b"99.25"))
    assert "99.25" in cards.scores(tmp_path / "own.json", of | {"cost": {"steps": 8, "seconds": 3.5}}, "x.pth")
    assert "own.json: its seal doesn't fit: it was changed after it was written\n" in capsys.readouterr().err
    for cost in ({"steps": 8, "seconds": 4.0}, {"steps": 9, "seconds": 3.5}):
        with pytest.raises(UserError, match=r"rows\.json has no row of x\.pth: evaluate\.py x\.pth --json"):
            cards.scores(tmp_path / "rows.json", of | {"cost": cost}, "x.pth")
    with pytest.raises(UserError, match="is not a result file"):
        cards.scores(tmp_path / "nowhere.json", of, "x.pth")


def test_the_card_of_an_adapter_of_a_smaller_network_of_ones_own_names_its_function():
    card = cards.adapter(record_of("net.py:small"), torch.nn.Identity(), "x_adapter", masked=True, compact=True)
    assert "from unlearning.networks.own import OwnNetwork\n" in card
    assert 'models.load_checkpoint("ORIGINAL.pth"), own=OwnNetwork.parse("net.py:small"))' in card
