"""PruneLoRA's table: its order of runs, and the paper's numbers beside ours only where they belong."""

import itertools

import pytest
import timm
import torch

import data
import reproduce
from tests.experiments.tables import SMALL, make, planned
from tests.helpers import call, one_line
from tests.test_data import folder_of_images
from tests.test_models import TheirViT, resnet_keys, their_resnet
from unlearning.experiments import prunelora, running


@pytest.mark.usefixtures("no_look_beneath")
def test_head_only_runs_after_lora_and_stands_before_it(tmp_path, monkeypatch):
    """Its input is made from what LoRA has kept, network by network; the table's order is another matter."""
    runs = planned("prunelora", "--seeds", "2")
    order = running.execution_order(runs)
    assert sorted(order) == list(range(len(runs)))
    groups = [(runs[place][1][1], runs[place][1][5]) for place in order]
    assert len(dict.fromkeys(groups)) == sum(a != b for a, b in itertools.pairwise([None, *groups])) == 4
    for group in dict.fromkeys(groups):
        names = [runs[place][0].split(".")[-1] for place, other in zip(order, groups, strict=True) if other == group]
        assert names[0] == "pretrain" and set(names[-4:]) == {"control"} and "control" not in names[:-4]
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    result = make(tmp_path, monkeypatch, "--methods", "head-only", "lora", "--seeds", "1")
    assert [row["method"] for row in result["rows"]] == ["original", "retrain", "head-only", "lora"]


def test_the_papers_numbers_stand_only_beside_its_data_and_networks(tmp_path):
    folder_of_images(tmp_path, classes=data.CIFAR10_CLASSES)
    cifar, other = data.load(f"folder:{tmp_path}"), data.load("digits")
    for dataset, forget, model, expected in (
        (cifar, "class3", "resnet50", True),
        (cifar, "class5", "resnet50", False),
        (cifar, "class3", "resnet20", False),
        (other, "class3", "resnet50", False),
    ):
        row = {"model": model, "method": "loraprune", "epochs": 5, "forget": forget}
        prunelora.add_published([row], dataset)
        assert ("published" in row) == expected
    row = {"model": "vit_small", "method": "lora", "epochs": 10, "forget": "class3"}
    prunelora.add_published([row], cifar)
    other = {"model": "vit_small", "method": "lora", "epochs": 10, "forget": "class3", "flags": ["--rank 2"]}
    prunelora.add_published([other], cifar)
    assert "published" not in other  # the paper's are of its own settings
    assert row["published"] == {"UA": 95.58, "RA": 97.81, "TA": 85.16, "MIA": 99.58}


# Figure 1 as the paper has it: after 5 and 10 epochs, Retrain once.
FIGURE_1 = """
ResNet-50 Retrain   | 100           | 100           | 98.02         | 96.70
ResNet-50 FT        | 100 / 100     | 100 / 100     | 92.52 / 96.27 | 88.29 / 91.44
ResNet-50 Prune+FT  | 100 / 100     | 100 / 100     | 94.92 / 95.68 | 90.79 / 90.72
ResNet-50 LoRA      | 97.22 / 100   | 100 / 100     | 96.90 / 97.19 | 95.03 / 93.49
ResNet-50 PruneLoRA | 99.78 / 99.98 | 97.68 / 97.89 | 97.96 / 98.00 | 95.18 / 95.41
ViT Retrain         | 100           | 100           | 96.90         | 84.92
ViT FT              | 100 / 100     | 100 / 100     | 87.64 / 86.80 | 79.79 / 79.94
ViT Prune+FT        | 100 / 100     | 100 / 100     | 84.76 / 86.14 | 78.81 / 79.53
ViT LoRA            | 87.66 / 95.58 | 98.14 / 99.58 | 97.72 / 97.81 | 85.33 / 85.16
ViT PruneLoRA       | 100 / 100     | 100 / 100     | 97.39 / 97.63 | 85.53 / 85.34
"""


def test_published_numbers_are_the_papers():
    networks = {"ResNet-50": "resnet50", "ViT": "vit_small"}
    methods = {"Retrain": "retrain", "FT": "finetune", "Prune+FT": "pruneft", "LoRA": "lora", "PruneLoRA": "loraprune"}
    expected = {}
    for line in FIGURE_1.strip().splitlines():
        name, *columns = line.split(" | ")
        network, method = name.split()
        ua, mia, ra, ta = ([float(number) for number in column.split(" / ")] for column in columns)
        for epochs, *values in zip((5, 10) if len(ua) > 1 else (None,), ua, ra, ta, mia, strict=True):
            expected[networks[network], methods[method], epochs] = tuple(values)
    assert expected == prunelora.PUBLISHED
    assert all(ra >= ta for _, ra, ta, _ in prunelora.PUBLISHED.values())  # training images are known better


def test_a_table_from_originals_that_others_have_trained(tmp_path, monkeypatch, capsys):
    """Nothing is pre-trained; without a Retrain the gap is missing, for that reason."""
    net = timm.create_model("test_resnet", in_chans=1, num_classes=10)
    torch.save({"arch": "test_resnet", "state_dict": net.state_dict()}, tmp_path / "theirs.pth")
    monkeypatch.setitem(prunelora.PRESETS, "quick", SMALL)
    flags = ("--model", "timm:test_resnet", "--original", "theirs.pth", "--methods", "finetune", "lora", "--seeds", "2")
    rows = make(tmp_path, monkeypatch, *flags)["rows"]
    assert [(row["method"], row["n"]) for row in rows] == [("original", 1), ("finetune", 2), ("lora", 2)]
    assert "no Retrain" in rows[1]["metrics"]["gap"]["missing"] and "mean" in rows[1]["metrics"]["probe"]
    assert (tmp_path / "results" / "prunelora-quick-original-theirs-digits" / "README.md").exists()
    for wrong, message in (
        (("audit", "--original", "theirs.pth"), "audit has no --original"),
        (("prunelora", "--original", "theirs.pth", "--model", "a", "b"), "names 2 networks and --original 1 files"),
        (("prunelora", "--original", "theirs.pth", "theirs.pth"), "both hold a timm:test_resnet"),
    ):
        code, line = one_line(reproduce, capsys, *wrong)
        assert code == 2 and message in line


@pytest.mark.slow
def test_figure_1_from_the_base_files_of_lora_unlearn(tmp_path, monkeypatch):
    folder_of_images(tmp_path / "images", classes=data.CIFAR10_CLASSES)
    base = {f"module.{name}": value for name, value in resnet_keys(their_resnet().state_dict()).items()}
    torch.save({"net": base, "acc": 95.6, "epoch": 199}, tmp_path / "resnet10.pth")
    torch.save({"state_dict": TheirViT().state_dict()}, tmp_path / "basevit10.tar")
    monkeypatch.chdir(tmp_path)
    args = ("prunelora", "--preset", "paper", "--dataset", "folder:images", "--original", "resnet10.pth", "basevit10.tar")
    path = call(
        reproduce, *args, "--epochs", 1, "--methods", "finetune", "pruneft", "lora", "loraprune", "--seeds", 1, "--quiet"
    )
    rows = reproduce.results.read(path)["rows"]
    assert {row["model"] for row in rows} == {"resnet50", "vit_small"} and len(rows) == 10
    assert all("missing" in row["metrics"]["gap"] for row in rows)
