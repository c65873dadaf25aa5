"""Audits: from end to end on digits, and the floor."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import data
import models
import reproduce
from tests.experiments.tables import SMALL, make, planned, request_of
from tests.helpers import one_line
from tests.test_data import folder_of_images
from unlearning.core.errors import UserError
from unlearning.core.files import write_torch
from unlearning.evaluation.entries import describe
from unlearning.evaluation.unfinished import Unfinished
from unlearning.experiments import audit
from unlearning.experiments.request import Plan
from unlearning.metrics import populations
from unlearning.vision.shared import Shared


@pytest.mark.pictures("metrics")
def test_an_audit_compares_as_many_retrained_networks(tmp_path, monkeypatch):
    monkeypatch.setitem(audit.PRESETS, "quick", SMALL | {"subset": 150})
    result = make(tmp_path, monkeypatch, "--methods", "mask", "lora", "--seeds", "3", table="audit")
    rows = {(row["forget"], row["method"]): row for row in result["rows"]}
    assert set(rows) == {
        *(("class3", method) for method in ("original", "retrain", "mask", "lora")),
        *(("random0.1", method) for method in ("original", "retrain", "lora")),
    }
    assert {row["n"] for row in result["rows"]} == {3}
    said = {(row["forget"], row["forgotten"]) for row in result["rows"]}
    assert said == {("class3", "class 3"), ("random0.1", "random share 0.1")}  # the Original's too, which has both
    assert len(list((tmp_path / "model_weights/audit-quick-digits").glob("*retrain*.pth"))) == 12
    mask = rows["class3", "mask"]["metrics"]
    assert mask["UA"]["mean"] == mask["ulira"]["mean"] == 100  # a constant answer is told from a Retrain at once
    assert mask["forgetting"]["mean"] == 0
    for row in rows.values():
        assert len(row["metrics"]["ulira"]["values"]) == 3
        assert 0 <= row["metrics"]["forgetting"]["mean"] <= 1
        assert row["metrics"]["klom_f"]["mean"] > 0


def test_a_list_that_is_a_class_is_called_so_and_its_rows_are_not_lost(tmp_path, monkeypatch):
    monkeypatch.setitem(audit.PRESETS, "quick", SMALL | {"pretrain": {"resnet8": 1}})
    loaded = data.load("digits", subset=300, test_subset=100)
    threes = loaded.whole.positions[loaded.train.labels == 3].tolist()
    (tmp_path / "threes.txt").write_text(" ".join(map(str, threes)), encoding="utf-8")
    flags = ("--forget-file", "threes.txt", "--only", "images", "--methods")
    result = make(tmp_path, monkeypatch, *flags, "finetune", "--seeds", "4", table="audit")
    assert {(row["forget"], row["forgotten"]) for row in result["rows"]} == {("class3", "class 3")}
    for fewer, lost in ((("finetune", "--seeds", "3"), "1 of its 4 seeds"), (("lora", "--seeds", "4"), "it")):
        with pytest.raises(UserError, match=rf"\(resnet8, class3\); this would lose {lost}"):
            make(tmp_path, monkeypatch, *flags, *fewer, table="audit")
    for table in ("audit", "rfau"):  # before anything is trained: two Retrains of one forget set
        flags = (table, "--dataset", "digits", "--model", "resnet8", "--forget-file", str(tmp_path / "threes.txt"))
        args = reproduce.parser().parse_args([*flags, "--subset", "300", "--dry-run"])
        with pytest.raises(UserError, match=r"threes.txt are class 3, which is forgotten besides: --only class, or"):
            reproduce.run(args, "")


def test_an_audit_where_no_test_image_stays_is_one_line(tmp_path):
    dataset = data.load("digits")
    dataset = replace(dataset, test=dataset.test.take(dataset.test.labels == 3))
    entry = SimpleNamespace(path="x.pth", forgets=(((dataset.train.labels == 3).nonzero().squeeze(1), "class3"),))
    with pytest.raises(UserError, match=r"x.pth, class3: no test image of a class that stays, of which an audit asks"):
        audit._check_tested(entry, dataset)


def test_an_audit_sets_sixteen_networks_against_sixteen_retrained_ones_of_other_seeds():
    runs = planned("audit", "--methods", "lora", "--only", "class")
    seeds = {}
    for script, arguments in runs:
        seeds.setdefault(script, []).append(int(arguments[arguments.index("--seed") + 1]))
    assert seeds == {"pretrain": list(range(16)), "lora": list(range(16)), "retrain": list(range(32))}


def test_an_audit_of_fewer_than_three_is_one_line(capsys):
    for count in (1, 2):
        code, line = one_line(reproduce, capsys, "audit", "--dataset", "digits", "--seeds", count)
        assert code == 2 and "audit compares 3 networks of each kind or more" in line


def test_an_audit_looks_at_retained_images_of_all_classes(tmp_path, monkeypatch):
    """Also where images lie class by class, as in a folder of folders."""
    monkeypatch.setattr(audit, "LIMIT", 90)
    shared, request = Shared(), request_of("audit", "--dataset", "digits", "--only", "class")
    dataset = shared.load(request.source)
    order = dataset.train.labels.argsort(stable=True)
    sorted_ = replace(dataset, train=dataset.train.take(order))
    monkeypatch.setattr(audit.predictions, "margin", lambda logits, labels: labels.double())  # an image's margin: its label
    monkeypatch.setattr(audit, "network_of", lambda *_: models.create_for("resnet8", dataset)[0])
    entry = SimpleNamespace(path="x", forgets=(((sorted_.train.labels == 3).nonzero().squeeze(1), "class3"),))
    (found,) = audit._asked(entry, sorted_, request, shared).values()
    labels, counts = np.unique(found["r"], return_counts=True)
    assert labels.tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 9] and counts.tolist() == [10] * 9


def test_the_audits_floor_is_a_coin():
    """Two samples of one kind of network: U-LiRA scores 50 within its interval, and the mean ratio in `neurips` is 1."""
    generator = np.random.default_rng(0)
    first, second = (
        [{"UA": 10.0, "RA": 90.0, "TA": 80.0, **{side: generator.normal(size=300) for side in "frt"}} for _ in range(16)]
        for _ in range(2)
    )
    found = audit.compare(first, second)
    assert abs(found["ulira"]["mean"] - 50) < 1.5 * found["ulira"]["ci95"]
    assert found["neurips"]["mean"] == found["forgetting"]["mean"] > 0.05
    apart = audit.compare([one | {"f": one["f"] + 9} for one in first], second)
    assert apart["ulira"]["mean"] > 99
    assert apart["forgetting"]["mean"] < 0.01 < apart["klom_f"]["mean"] - found["klom_f"]["mean"]


def test_a_row_is_measured_from_the_retrained_networks():
    """KLOM is KL(unlearned || Retrain) on each set of images; RA and TA are divided by Retrain's."""
    generator = np.random.default_rng(1)
    wide, narrow = (
        [{"UA": 10.0, "RA": ra, "TA": ta, **{s: w * generator.normal(size=40) + 1 for s in "frt"}} for _ in range(16)]
        for w, ra, ta in ((3, 45.0, 40.0), (1, 90.0, 50.0))
    )
    found = audit.compare(wide, narrow)
    for side in "frt":
        unlearned, retrained = (np.stack([one[side] for one in kind]) for kind in (wide, narrow))
        there, back = (populations.klom(*pair).mean() for pair in ((unlearned, retrained), (retrained, unlearned)))
        assert found[f"klom_{side}"]["mean"] == pytest.approx(there) and there > back + 0.5
    assert (
        found["neurips"]["mean"] == pytest.approx(found["forgetting"]["mean"] * 0.5 * 0.8) and found["neurips"]["mean"] > 0
    )


def test_a_row_says_its_flags_so_that_no_papers_numbers_stand_beside_other_settings(tmp_path):
    folder_of_images(tmp_path, classes=data.CIFAR10_CLASSES)
    answers = [{"UA": 1.0, "RA": 2.0, "TA": 3.0} | dict.fromkeys("frt", np.arange(3.0) + i) for i in range(3)]
    for flags, shown in (({}, True), ({"--retain-subset": "2000"}, False)):
        entry = SimpleNamespace(model="resnet50", epochs=5, command="c", device="d", flags=flags)
        row = audit._row({"method": "lora", "forget": "class3"}, [(entry, one) for one in answers], answers, 3)
        audit.TABLE.published([row], data.load(f"folder:{tmp_path}"))
        assert ("published" in row) == shown


def test_what_a_network_has_answered_is_kept_and_read_back_as_it_was(weights, tmp_path, monkeypatch):
    """Of another forget set it is asked again."""
    flags = ("audit", "--dataset", "digits", "--device", "cpu", "--precision", "fp32", "--quiet")
    request = replace(request_of(*flags), kept=Unfinished(tmp_path / ".scores.a.b.partial"))
    entry = describe(weights / "digits_resnet8_class3_lora2_s0.pth", request.scoring, Shared())
    entry = replace(entry, forgets=((entry.forget, "class3"),))
    first = audit._answers(entry, request, Shared())
    monkeypatch.setattr(audit, "predict", lambda *_: pytest.fail("asked again"))
    (again,) = audit._answers(entry, request, Shared()).values()
    assert all(np.array_equal(again[side], first["class3"][side]) for side in "frt")
    assert {key: again[key] for key in ("UA", "RA", "TA")} == {key: first["class3"][key] for key in ("UA", "RA", "TA")}
    with pytest.raises(pytest.fail.Exception):
        audit._answers(replace(entry, forgets=((entry.forget[1:], "class3"),)), request, Shared())


def test_a_network_that_answers_nan_is_not_audited(weights, tmp_path):
    content = models.load_checkpoint(weights / "digits_resnet8_class3_lora2_s0.pth")
    for tensor in content["state_dict"].values():
        if tensor.is_floating_point():
            tensor.fill_(float("nan"))
    write_torch(tmp_path / "broken.pth", content)
    request = request_of("audit", "--dataset", "digits", "--device", "cpu", "--quiet")
    with pytest.raises(UserError, match=r"broken\.pth answers \d+ images with NaN"):
        audit.score([tmp_path / "broken.pth"], request, Plan([]), Shared())
