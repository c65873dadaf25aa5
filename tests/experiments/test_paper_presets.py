"""The papers' presets: the papers' settings, and each of them from end to end on 64 images."""

import itertools
from functools import partial

import pytest
import timm

import data
import models
import reproduce
from tests.experiments.tables import make, planned
from tests.helpers import latest, one_line, while_waiting
from tests.test_data import write_svhn
from unlearning.core.files import read_torch
from unlearning.exact import backbone
from unlearning.exact.reading import read_system
from unlearning.experiments import lmeraser, prunelora, random_share, rfau

GRID = lmeraser.PRESETS["paper"]["grid"]


@pytest.mark.parametrize(
    ("table", "dataset", "networks", "epochs"),
    [
        ("prunelora", "cifar10", {"resnet50": "200", "vit_small": "90"}, {"5", "10"}),
        ("random", "cifar10", {"resnet50": "200", "vit_small": "90"}, {"5", "10"}),
        ("rfau", "cifar10", {"resnet18": "200", "vit_small": "90"}, {"5"}),
        ("rfau", "fashion-mnist", {"resnet18": "200", "vit_small": "90"}, {"5"}),
    ],
)
def test_the_papers_preset_is_the_papers_experiment(table, dataset, networks, epochs):
    runs = planned(table, "--preset", "paper", "--dataset", dataset, "--seeds", "1")
    lengths, kinds = {}, set()
    for script, arguments in runs:
        given = dict(itertools.pairwise(arguments))
        lengths.setdefault((script, given["--model"]), set()).add(given.get("--epochs"))
        kinds |= {flag for flag in ("--forget-class", "--forget-random") if flag in given}
        assert "--subset" not in given and "--lr" not in given and given.get("--forget-class", "3") == "3"
        assert given["--dataset"] == dataset
    for network, length in networks.items():
        assert lengths["finetune", network] == epochs
        assert lengths["loraprune", network] == epochs | {"1"}  # its row of one epoch
        assert lengths["pretrain", network] == lengths["retrain", network] == {length}
    assert {network for _, network in lengths} == {*networks}
    both = {"prunelora": {"--forget-class"}, "random": {"--forget-random"}, "rfau": {"--forget-class", "--forget-random"}}
    assert kinds == both[table]


def test_rfaus_paper_preset_is_of_cifar10_unless_told_otherwise():
    assert {dict(itertools.pairwise(words))["--dataset"] for _, words in planned("rfau", "--preset", "paper")} == {"cifar10"}


@pytest.mark.parametrize(("dataset", "parts"), [("cifar10", 194), ("cifar100", 347), ("svhn", 30), ("gtsrb", 90)])
def test_lmerasers_paper_preset_has_the_papers_backbone_and_clusters(dataset, parts):
    for table, rates in (("lmeraser", {("0.5", "0.1")}), ("lmeraser-tune", {*itertools.product(*GRID)})):
        runs = planned(table, "--preset", "paper", "--dataset", dataset, "--seeds", "1")
        found = {}
        for script, words in runs:
            given = dict(itertools.pairwise(words))
            assert given["--backbone"] == "timm:vit_base_patch16_224.augreg_in21k" and words[0] == "train"
            assert (given["--input-size"], given["--epochs"], given["--anchors"]) == ("224", "50", "1000")
            found.setdefault((script, given["--parts"]), set()).add((given["--lr"], given["--head-lr"]))
        shards = {("baselines.sisa", "5"), ("baselines.sisa", "20")} if table == "lmeraser" else set()
        assert found.keys() == {("lmeraser", "1"), ("lmeraser", str(parts)), *shards}
        assert all(pairs == rates for pairs in found.values())


def test_heads_in_closed_form_are_told_nothing_of_how_to_train():
    """The script refuses such flags; the other rows have them."""
    for preset in ("quick", "gpu"):
        flags = {"--epochs", "--batch-size", "--lr", "--head-lr"}
        runs = [words for script, words in planned("lmeraser", "--preset", preset, "--seeds", "1") if script == "lmeraser"]
        assert {bool(flags & {*words}) for words in runs if "ridge" in words} == {False}
        assert all(flags & {*words} for words in runs if "ridge" not in words) or preset == "quick"


def test_data_without_the_papers_number_of_clusters_are_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, line = one_line(reproduce, capsys, "lmeraser", "--preset", "paper", "--dataset", "digits")
    assert code == 2 and "has a number of clusters for cifar10, cifar100, svhn, gtsrb, not digits" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "presets", "method", "forget"),
    [
        ("prunelora", prunelora.PRESETS, "loraprune", {"class3"}),
        ("random", random_share.PRESETS, "lora", {"random0.1"}),
        ("rfau", rfau.PRESETS, "rfau --shift mean", {"class3", "random0.1"}),
    ],
)
def test_a_paper_preset_runs_from_end_to_end(table, presets, method, forget, tmp_path, monkeypatch):
    """Its own networks, each trained for one epoch on 64 images; a row of each table, for they are large."""
    paper = presets["paper"]
    monkeypatch.setitem(presets, "paper", paper | {"pretrain": dict.fromkeys(paper["pretrain"], 1), "test": 40})
    flags = ("--preset", "paper", "--subset", 64, "--epochs", 1, "--seeds", 1, "--methods", method)
    rows = make(tmp_path, monkeypatch, *flags, "--model", *paper["pretrain"], table=table)["rows"]
    assert {row["model"] for row in rows} == {*paper["pretrain"]} and {row["forget"] for row in rows} == forget
    done = {(row["model"], row["forget"], row["method"]) for row in rows}
    kinds = ("original", "retrain", method.partition(" ")[0])  # a row says its flags apart
    assert done == {*itertools.product(paper["model"], forget, kinds)}
    assert {row["dataset"] for row in rows} == {"digits-64-test40"}
    assert all("mean" in row["metrics"]["gap"] for row in rows)


@pytest.mark.slow
def test_lmerasers_paper_preset_runs_from_end_to_end(tmp_path, monkeypatch):
    """On a tiny ViT that stands for the paper's, whose weights would be downloaded."""
    write_svhn(tmp_path / "data", monkeypatch, 80)
    monkeypatch.setattr(models, "create_pretrained", lambda name, data_dir, quiet, **own: timm.create_model(name, **own))
    paper = lmeraser.PRESETS["paper"]
    monkeypatch.setattr(lmeraser, "REQUESTS", {1: 1, 10: 1})
    short = latest([*paper["flags"], "--epochs", 1, "--anchors", 34])
    monkeypatch.setitem(lmeraser.PRESETS, "paper", paper | {"flags": short, "test": 20})
    flags = ("--preset", "paper", "--dataset", "svhn", "--subset", 64, "--seeds", 1, "--model", "timm:test_vit")
    rows = make(tmp_path, monkeypatch, *flags, table="lmeraser")["rows"]
    methods = (lmeraser.ONE, "lmeraser --parts 30", "sisa --parts 5", "sisa --parts 20")
    requests = ("delete1", "delete10", "class3")
    assert {*itertools.product(requests, methods)} == {(row["forget"], row["method"]) for row in rows}
    (system,) = (tmp_path / "model_weights/lmeraser-paper-subset-64-svhn").glob("*_lmeraser30-*_s0")
    state = read_system(system)
    assert state["backbone"]["network"]["arguments"]["input_size"] == 224 and len(state["private"]) == 30
    numbers = 3 * (224**2 - 164**2)  # a frame 30 wide
    parts = [read_torch(system / file) for file in state["files"] if file]
    assert {len(part["prompt"]) for part in parts} == {numbers} == {69_840}


def test_systems_that_begin_at_once_share_a_backbone(tmp_path, monkeypatch, capsys):
    """Commands of one stage do. A second file would have another head, so that the systems on the first had lost theirs."""
    monkeypatch.setattr(models, "create_pretrained", lambda name, data_dir, quiet, **own: timm.create_model(name, **own))
    digits = data.load("digits", subset=100)

    def begin():
        return backbone.backbone_file("timm:test_resnet", digits, tmp_path, tmp_path, 32, True)

    file = begin()
    first = file.read_bytes()
    file.unlink()
    assert while_waiting(file, begin, partial(file.write_bytes, first), capsys) == file and file.read_bytes() == first
