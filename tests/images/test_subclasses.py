"""CIFAR-100 by its superclasses, from files as the official archive holds them, and requests for a class inside one."""

import pickle
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

import data
import finetune
import pretrain
import reproduce
import retrain
from baselines import control
from tests.experiments.tables import request_of
from tests.helpers import call, one_line, rows_of
from tests.test_data import trusted
from unlearning.core.errors import UserError
from unlearning.evaluation import network
from unlearning.images import classes
from unlearning.images.forgetting import ForgetRequest
from unlearning.vision.curves import Curve
from unlearning.vision.shared import Shared

COARSE = list(classes.CIFAR100)
FINE = sorted(name for names in classes.CIFAR100.values() for name in names)
SUPER = [next(place for place, name in enumerate(COARSE) if fine in classes.CIFAR100[name]) for fine in FINE]
ROCKET, VEHICLES = FINE.index("rocket"), COARSE.index("vehicles_2")
NAME = "cifar100-coarse"


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """A folder with few images in files of the official form, four of each class to train on and two to test."""
    root = tmp_path_factory.mktemp("cifar")
    folder = root / "cifar-100-python"
    folder.mkdir()
    rng = np.random.default_rng(0)
    contents = {"meta": {"fine_label_names": FINE, "coarse_label_names": COARSE}}
    for file, each in (("train", 4), ("test", 2)):
        fine = rng.permutation(np.repeat(np.arange(100), each)).tolist()
        pixels = rng.integers(0, 256, (len(fine), 3072)).astype(np.uint8)
        contents[file] = {"data": pixels, "fine_labels": fine, "coarse_labels": [SUPER[label] for label in fine]}
    for file, content in contents.items():
        (folder / file).write_bytes(pickle.dumps(content, protocol=2))
    with pytest.MonkeyPatch.context() as patch:
        trusted(patch, CIFAR100, folder)
        yield SimpleNamespace(root=root, **contents)


def rockets(split):
    return split.subclasses.eq(ROCKET).nonzero().squeeze(1)


def test_labels_are_the_files_superclasses_and_their_classes_stay_beside_them(cifar):
    whole, fine = data.load(NAME, cifar.root), data.load("cifar100", cifar.root)
    for split, same, content in ((whole.train, fine.train, cifar.train), (whole.test, fine.test, cifar.test)):
        assert split.labels.tolist() == content["coarse_labels"] and split.labels.dtype == torch.int64
        assert split.subclasses.tolist() == content["fine_labels"] == same.labels.tolist()
        assert torch.equal(split.images, same.images) and same.subclasses is None
    assert (
        list(whole.classes) == COARSE and list(whole.whole.subclasses) == FINE and whole.normalisation == fine.normalisation
    )
    assert whole.fingerprint != fine.fingerprint and whole.tag == NAME
    held = data.load(NAME, cifar.root, subset=100, validation=0.25)
    assert len(held.train) == 100 == len(held.test)
    for split in (held.train, held.test, held.train.take(slice(7)).joined(held.train.take(slice(9, 12)))):
        assert split.labels.tolist() == [SUPER[kind] for kind in split.subclasses.tolist()]
    assert torch.equal(held.train.subclasses, whole.train.subclasses[held.whole.positions])


def test_a_subclass_is_forgotten_by_name_or_number(cifar):
    whole = data.load(NAME, cifar.root)
    for words in (("rocket",), (str(ROCKET),), (f"id:{ROCKET}", "Rocket")):
        found = whole.forgotten(ForgetRequest(subclasses=words))
        assert torch.equal(found.positions, rockets(whole.train)) and len(found.positions) == 4
        assert found.tag == f"subclass{ROCKET}" and found.draw is None
        assert whole.in_words(found.positions, found.tag) == f"subclass {ROCKET} (rocket)"
    both = whole.forgotten(ForgetRequest(subclasses=("tank,maple tree",)))
    numbers = sorted([FINE.index("tank"), FINE.index("maple_tree")])
    assert both.tag == "subclass{}-{}".format(*numbers) and set(whole.train.subclasses[both.positions].tolist()) == {
        *numbers
    }
    assert whole.in_words(both.positions, both.tag) == "subclasses {} (maple_tree), {} (tank)".format(*numbers)
    every = whole.forgotten(ForgetRequest(subclasses=("fish",)))  # all of a class, which is what it is called
    assert every.tag == f"class{COARSE.index('fish')}" and len(every.positions) == 20


@pytest.mark.parametrize(
    ("name", "request_", "message"),
    [
        (NAME, {"subclasses": ("rokcet",)}, "--forget-subclass rokcet: did you mean rocket, rose? "),
        (NAME, {"subclasses": ("100",)}, "--forget-subclass 100: the classes are 0 to 99: 0 (apple)"),
        (
            NAME,
            {"classes": ("Rocket",)},
            "--forget-class Rocket: rocket is a subclass of vehicles_2; the classes are 0 to 19: ",
        ),
        ("cifar100", {"subclasses": ("rocket",)}, "these classes have no subclasses; those of cifar100-coarse have"),
    ],
)
def test_what_is_no_subclass_is_said(cifar, name, request_, message):
    with pytest.raises(UserError, match=re.escape(message)):
        data.load(name, cifar.root).forgotten(ForgetRequest(**request_))


def test_test_images_of_a_forgotten_subclass_are_scored_apart(cifar):
    """Of a network that takes every image for a vehicle, and no rocket."""
    whole = data.load(NAME, cifar.root)
    forget, test = rockets(whole.train), rockets(whole.test)
    sets = network.four_sets(whole, forget)
    assert torch.equal(sets.forget_test, test) and len(test) == 2 and len(sets.retain_test) == 198
    logits = [torch.nn.functional.one_hot(torch.full((len(s),), VEHICLES), 20).float() for s in (whole.train, whole.test)]
    logits[0][forget] *= -1
    logits[1][test] *= -1
    found, _ = network.score(logits, whole, forget, "svc")
    assert found["UA"] == found["UA_test"] == 100
    assert found["RA"] == pytest.approx(100 * 16 / 396) and found["TA"] == pytest.approx(100 * 8 / 198)
    tested = Curve.splits.func(SimpleNamespace(dataset=whole, forget=forget))["TA"]
    assert ROCKET not in tested.subclasses and VEHICLES in tested.labels
    part = network.four_sets(whole, forget[:3])
    assert len(part.forget_test) == 0 and len(part.retain_test) == 200


def test_a_subclass_from_the_command_line_to_a_table(cifar, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(network, "RECOVERY_SHOTS", (1,))
    where = (
        "--dataset",
        NAME,
        "--data-dir",
        cifar.root,
        "--model",
        "resnet8",
        "--epochs",
        1,
        "--weights",
        tmp_path,
        "--quiet",
    )
    call(finetune, *where, "--list-classes")
    line = next(line for line in capsys.readouterr().out.splitlines() if "vehicles_2" in line)
    assert line.split(maxsplit=4) == [str(VEHICLES), "vehicles_2", "20", "10", line.split(maxsplit=4)[4]]
    assert line.endswith("41 (lawn_mower), 69 (rocket), 81 (streetcar), 85 (tank), 89 (tractor)")
    original = call(pretrain, *where)
    forget = (*where, "--forget-subclass", "rocket")
    exact, tuned = call(retrain, *forget), call(finetune, *forget)
    assert f"_subclass{ROCKET}_" in exact.name and f"_subclass{ROCKET}_" in tuned.name
    code, said = one_line(control, capsys, *forget, "--kind", "mask")
    assert code == 2 and "no class is forgotten as a whole" in said
    numbers = data.load(NAME, cifar.root).train.subclasses.eq(ROCKET).nonzero().squeeze(1).tolist()
    (tmp_path / "rockets.txt").write_text(" ".join(map(str, numbers)), encoding="utf-8")
    listed = call(finetune, *where, "--forget-file", tmp_path / "rockets.txt", "--lr", 0.001)
    rows = rows_of(original, exact, tuned, "--weights", tmp_path, "--data-dir", cifar.root, "--recovery")
    assert [row["method"] for row in rows] == ["original", "retrain", "finetune"]
    (alone,) = rows_of(listed, "--weights", tmp_path / "none", "--data-dir", cifar.root, beneath=False)
    assert {row["forgotten"] for row in (*rows, alone)} == {f"subclass {ROCKET} (rocket)"}
    for row in rows:
        scored = {name for name, value in row["metrics"].items() if "mean" in value}
        assert scored >= {"UA_test", "probe", "ncc", "gap", "recovered1"}, row["metrics"]
        assert "no class is forgotten as a whole" in row["metrics"]["bsc"]["missing"]
    asked = rows_of(original, "--forget-subclass", "rocket", "--weights", tmp_path, "--data-dir", cifar.root, beneath=False)
    assert {row["forget"] for row in asked} == {f"subclass{ROCKET}"}
    kinds = data.load(NAME, cifar.root).train.subclasses
    most = torch.cat([kinds.eq(kind).nonzero().squeeze(1)[:3] for kind in range(20)]).tolist()  # 3 of 4 of each
    (tmp_path / "most.txt").write_text(" ".join(map(str, most)), encoding="utf-8")
    given = ("--forget-file", tmp_path / "most.txt", "--images", 300, "--weights", tmp_path, "--data-dir", cifar.root)
    for row in rows_of(original, *given, beneath=False):
        assert "no class is forgotten as a whole" in row["metrics"]["UA_test"]["missing"]


def test_a_table_forgets_a_subclass_in_the_place_of_images(cifar, capsys):
    where = ("--dataset", NAME, "--data-dir", str(cifar.root))
    request = request_of("prunelora", "--preset", "small", *where, "--forget-subclass", "rocket", data_of=Shared())
    assert request.kinds == ("images",) and request.forget_tags["images"] == f"subclass{ROCKET}"
    assert request.forget_flags["images"] == ["--forget-subclass", "rocket"]
    assert request.name == f"prunelora-small-forget-subclass-rocket-{NAME}"
    assert request.about("X: a class.") == "X: a class; here the images of subclass rocket instead."
    assert request_of("prunelora", "--dataset", NAME, "--forget-class", "19").forget_classes == (19,)
    for flags, message in (
        (("lmeraser", "--forget-subclass", "rocket"), "lmeraser has no --forget-subclass; prunelora, random"),
        (("prunelora", "--forget-subclass", "rocket", "--of-class", 3), "--forget-subclass names its images itself"),
        (("prunelora", "--dataset", NAME, "--forget-class", "20"), "--forget-class 20: the classes are 0 to 19"),
        (("prunelora", "--dataset", "digits", "--forget-subclass", "1"), "these classes have no subclasses"),
    ):
        code, line = one_line(reproduce, capsys, *flags)
        assert code == 2 and message in line, line
