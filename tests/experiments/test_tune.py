"""Tunings."""

import itertools

import pytest
import torch

import data
import reproduce
from tests.experiments.tables import planned
from unlearning.experiments.request import Request
from unlearning.images import forgetting
from unlearning.vision.shared import Shared


@pytest.mark.parametrize(
    ("table", "method", "rates", "epochs"),
    [
        ("tune", "finetune", ("0.0003", "0.001", "0.003", "0.01"), "5"),
        ("rfau-tune", "rfau", ("0.0001", "0.0003", "0.001", "0.003", "0.01"), "5"),
        ("rfau-tune", "gradascent", ("0.0001", "0.0003", "0.001", "0.003", "0.01"), "1"),
    ],
)
def test_tuning_tries_each_rate_once_on_a_tenth_of_the_training_images(table, method, rates, epochs):
    runs = planned(table, "--methods", method)
    assert all(arguments[arguments.index("--validation") + 1] == "0.1" for _, arguments in runs)
    mine = [dict(itertools.pairwise(a)) for s, a in runs if s.endswith(method) and "vit_micro" in a and "3" in a]
    assert [given["--lr"] for given in mine if "--forget-class" in given] == list(rates)
    assert {given["--epochs"] for given in mine} == {epochs}
    assert not any("--lr" in arguments for script, arguments in runs if script == "retrain" and "vit_micro" in arguments)


def test_a_tuning_may_forget_images_of_ones_own_choice(tmp_path, monkeypatch):
    """They are called as among the images that are not held out: so a further run knows which rows it would lose."""
    held = set(range(1433)) - set(data.load("digits", validation=0.1).whole.positions.tolist())
    (tmp_path / "list.txt").write_text("\n".join(map(str, [*sorted(held)[:2], 3, 4, 5])), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    flags = ("--dataset", "digits", "--model", "resnet8", "--seeds", "1", "--forget-file", "list.txt")
    for table in ("tune", "rfau-tune"):
        shared, args = Shared(), reproduce.parser().parse_args([table, *flags])
        request = Request.from_flags(args, reproduce.table_of(table)).fitted(shared).resolved(shared)
        runs = reproduce.table_of(table).plan(request).runs
        named = [dict(itertools.pairwise(arguments)) for script, arguments in runs if script == "finetune"]
        named = [given for given in named if "--forget-file" in given]
        assert len(named) >= 4 and {given["--forget-file"] for given in named} == {"list.txt"}
        assert {given["--validation"] for given in named} == {"0.1"}
        assert ("--forget-class" in " ".join(word for _, words in runs for word in words)) == (table == "rfau-tune")
        loaded = data.load("digits", validation=0.1, subset=request.source.subset)
        assert request.forget_tags["images"] == forgetting.tag_of_ids(loaded.whole.loaded(torch.tensor([3, 4, 5])))
