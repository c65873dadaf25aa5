"""What a paper preset's plan says of hours and memory, against what is worked out by hand and what was measured."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import reproduce
from tests.experiments.tables import request_of
from tests.helpers import ROOT, call
from unlearning.experiments import image_estimate
from unlearning.experiments.image_estimate import Count, System
from unlearning.images.named import NAMED_SETS


def test_a_network_is_counted_as_by_hand():
    """A linear layer of 12 by 5: 2 * 60 FLOPs forwards, and as many for its weights' gradient, for which it keeps the image,
    48 bytes, or, frozen, for the image's."""
    layer = nn.Sequential(nn.Flatten(), nn.Linear(12, 5))
    assert image_estimate.count(layer, (3, 2, 2)) == Count(240, 48, 4 * 65)
    assert image_estimate.count(layer.requires_grad_(False), (3, 2, 2)) == Count(240, 0, 4 * 65)


def test_hours_and_memory_are_by_the_rule():
    """36 images whose FLOPs take a second each are a hundredth of an hour. Four numbers for each that is trained, one for
    each that is frozen; activations of 128 images in 16 bits take half of what they take in 32."""
    counted = Count(image_estimate.SPEED, 1000, 4000)
    hours, gib = image_estimate.cost(counted, 36, False, "bf16")
    assert hours == pytest.approx(0.01) and gib * 2**30 == pytest.approx(16_000 + 64_000)
    assert image_estimate.cost(counted, 36, True, "fp32")[1] * 2**30 == pytest.approx(4000 + 128_000)


def test_deletions_train_the_parts_that_they_hit():
    """Of four parts one image hits one, two hit 1 - (3/4)^2 = 7/16 of them, a class all; a single part is hit by all."""
    found = image_estimate.works(System(4, False, 5, 160), {1: 3, 2: 1}, 100)
    assert found == {"": [800], ", a deletion": [200, 200, 200, 350, 800], ", accuracy": [100] * 3}
    assert image_estimate.works(System(4, True, 5, 160), {1: 3}, 100)[", accuracy"] == [200] * 2
    assert image_estimate.works(System(1, False, 5, 160), {1: 3, 2: 1}, 100)[", a deletion"] == [800] * 3


def test_a_run_passes_the_images_that_it_learns_from():
    request = request_of("rfau", "--preset", "paper", "--share", "0.2")
    for script, words, passed in (
        ("pretrain", ["--epochs", "200"], 200 * 1000),
        ("finetune", ["--epochs", "5", "--forget-class", "3"], 5 * 1000),
        ("rfau", ["--epochs", "20", "--forget-class", "3"], 20 * 200),
        ("baselines.delete", ["--epochs", "20", "--forget-random", "0.2"], 20 * 400),
        ("baselines.control", ["--epochs", "5", "--kind", "head-only"], 1000),
        ("baselines.ssd", [], 1000),
    ):
        assert image_estimate.images_of(request, script, words, 1000) == pytest.approx(passed), script


def test_the_rule_comes_near_what_was_measured():
    """ResNet-50 on CIFAR-10: the Original and Retrain, 15 epochs of all images and of nine tenths, side by side on a GPU."""
    result = json.loads((ROOT / "results/prunelora-gpu-cifar10/result.json").read_text(encoding="utf-8"))
    original, retrain = ({row["method"]: row["metrics"] for row in result["rows"]}[name] for name in ("original", "retrain"))
    counted = image_estimate.made(request_of("prunelora", "--preset", "paper", "--dataset", "cifar10"), "resnet50")
    hours, gib = image_estimate.cost(counted, 1.9 * 15 * NAMED_SETS["cifar10"].sizes[0], False, "bf16")
    assert hours * 3600 == pytest.approx(max(one["seconds"]["mean"] for one in (original, retrain)), rel=0.05)
    assert gib * 1024 == pytest.approx(original["memory_mib"]["mean"], rel=0.1)


def test_nothing_is_said_of_a_folder_that_is_called_like_a_presets_network(tmp_path):
    """By mistake, which the first run says: Retrain would be made by the folder."""
    (tmp_path / "config.json").write_text('{"architecture": "resnet18"}', encoding="utf-8")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    flags = ("--model", "vit_small", "--original", str(tmp_path), "--methods", "retrain", "lora")
    request = request_of("prunelora", "--preset", "paper", "--dataset", "cifar10", *flags)
    assert image_estimate.estimated(request, reproduce.table_of("prunelora").plan(request)) == []


@pytest.mark.parametrize("table", ["prunelora", "random", "rfau", "lmeraser"])
def test_a_dry_run_of_a_paper_preset_ends_with_hours_and_memory(table, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(image_estimate, "made", lambda *_: Count(image_estimate.SPEED, 2**30, 2**30))  # which takes seconds
    call(reproduce, table, "--preset", "paper", "--dataset", "cifar10", "--seeds", 1, "--dry-run", "--quiet")
    lines = capsys.readouterr().out.splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("# about"))
    assert "an estimate, not measured: FLOPs as PyTorch counts them, at 7.5e+13 FLOP/s" in lines[first]
    assert all(line.startswith("# ") for line in lines[first:])
    counts = {line[2:].rsplit(maxsplit=3)[0]: line.split()[-3:] for line in lines[first + 2 :]}
    commands = [line for line in lines[:first] if not line.startswith("#")]
    if table == "lmeraser":
        names = ("one-prompt", "lmeraser --parts 194", "sisa --parts 5", "sisa --parts 20")
        assert counts.keys() == {name + kind for name in names for kind in ("", ", a deletion", ", accuracy")}
        assert counts["lmeraser --parts 194"] == ["1", f"{49_000 * 50 / 3600:.2f}", str(1 + 64)]  # in bf16
        assert [counts[f"{name}, a deletion"][0] for name in names] == ["4", "9", "9", "9"]
    else:
        assert sum(int(some[0]) for some in counts.values()) == len(commands)
        small = {"rfau": "resnet18"}.get(table, "resnet50")
        assert counts[f"{small} pretrain"] == ["1", f"{200 * 50_000 / 3600:.2f}", str(4 + 64)]
    for others in (("--preset", "quick"), ("--preset", "paper", "--model", "resnet8")):
        call(reproduce, table, *others, "--dataset", "cifar10", "--seeds", 1, "--dry-run", "--quiet")
        assert "# about" not in capsys.readouterr().out
