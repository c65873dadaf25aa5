"""PruneLoRA's table: its order of runs, and the paper's numbers beside ours only where they belong."""

import itertools

import data
from tests.experiments.tables import SMALL, make, planned
from tests.test_data import folder_of_images
from unlearning.experiments import prunelora, running


def test_head_only_runs_after_lora_and_stands_before_it(tmp_path, monkeypatch):
    """Its input is made from what LoRA has kept, network by network; the table's order is another matter."""
    runs = planned("prunelora", "--seeds", "2")
    order = running.execution_order(runs)
    assert sorted(order) == list(range(len(runs)))
    groups = [(runs[place][1][1], runs[place][1][5]) for place in order]
    assert len(dict.fromkeys(groups)) == sum(a != b for a, b in itertools.pairwise([None, *groups])) == 4
    for group in dict.fromkeys(groups):
        names = [runs[place][0].split(".")[-1] for place, other in zip(order, groups, strict=True) if other == group]
        assert names[0] == "pretrain" and set(names[-3:]) == {"control"} and "control" not in names[:-3]
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
