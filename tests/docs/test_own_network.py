"""What docs/usage.md says of one's own network runs as it stands there, with a network of the same class and names."""

import torch

import data
import evaluate
import retrain
from tests.docs.test_commands import commands, split
from tests.helpers import ROOT, call, rows_of
from tests.test_data import folder_of_images

SECTION = (
    (ROOT / "docs" / "usage.md").read_text(encoding="utf-8").partition("## Your own network\n")[2].partition("\n## ")[0]
)


def here(arguments):
    """The words of a command, with a folder of few images of CIFAR-10's classes in the place of CIFAR-10."""
    words = ["folder:cifar" if word == "cifar10" else word for word in arguments]
    return [word.replace("cifar10_", "cifar*_") for word in words]


def test_from_a_file_of_thirty_lines_to_a_table(tmp_path, monkeypatch, capsys):
    import loraprune

    monkeypatch.chdir(tmp_path)
    code = SECTION.partition("```python\n")[2].partition("```")[0]
    (tmp_path / "option_a.py").write_text(code, encoding="utf-8")
    assert sum(bool(line) for line in code.splitlines()) <= 32
    folder_of_images(tmp_path / "cifar", classes=data.CIFAR10_CLASSES)
    scope = {}
    exec(code, scope)
    torch.manual_seed(0)
    state = {f"module.{name}": value for name, value in scope["resnet20"](10).state_dict().items()}
    state = {name: value for name, value in state.items() if "num_batches" not in name}  # as the published file
    assert len(state) == 97
    torch.save({"state_dict": state, "best_prec1": 91.73}, tmp_path / "resnet20-12fca82f.th")
    scripts = dict(reversed([found for command in commands(SECTION) if (found := split(command))]))  # the first of each
    call(loraprune, *here(scripts["loraprune"]))
    assert "a state dict under 'state_dict'; as option_a.py:resnet20 97 of 97 tensors match" in capsys.readouterr().err
    call(evaluate, *here(scripts["evaluate"]))
    assert "original" in capsys.readouterr().out
    call(retrain, *here(scripts["retrain"]), "--epochs", 1)
    flags = here(scripts["evaluate"])[1:]
    rows = rows_of(*(tmp_path / "model_weights").glob("*.pth"), *flags, beneath=False)
    assert [row["method"] for row in rows] == ["original", "retrain", "loraprune"] and "mean" in rows[2]["metrics"]["gap"]
