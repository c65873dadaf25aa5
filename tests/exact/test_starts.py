"""Systems whose parts start from public anchors, heads in closed form, and clusters that answer together."""

import shutil

import pytest
import torch

import data
import lmeraser
import models
from baselines import sisa
from tests.exact.test_system import DIGITS, full, learned, private, random_backbone, same, sized, train
from tests.helpers import FP32, Altered, call, files, one_line, rows_of
from unlearning.core.errors import UserError
from unlearning.core.files import read_torch, write_torch
from unlearning.exact import learners, learning, ridge
from unlearning.exact.backbone import features_of, load_backbone
from unlearning.exact.reading import assemble, read_system
from unlearning.exact.storage import SYSTEM
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared

PUBLIC = ("--start", "public")
RIDGE = (*PUBLIC, "--head", "ridge")
KINDS = [(lmeraser, PUBLIC), (lmeraser, (*RIDGE, "--nearest", 3)), (sisa, RIDGE)]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return random_backbone(tmp_path_factory.mktemp("backbone") / "backbone.pth")


@pytest.fixture(scope="module")
def closed(backbone, tmp_path_factory):
    return train(lmeraser, backbone, tmp_path_factory.mktemp("closed") / "system", *RIDGE, "--nearest", 3)


def started(folder):
    """What the parts of a system start from, as `same` compares it."""
    start = read_system(folder)["start"]
    return {"start": [start[name] for name in sorted(start)]}


def delete(script, folder, *ids):
    call(script, "delete", folder, "--quiet", "--ids", *full(list(ids)))
    return read_system(folder)["ledger"][-1]


def test_a_system_that_is_to_have_deleted_images_again_says_so(backbone, closed, tmp_path, capsys):
    """Once, before it is trained; those that it leaves out from the start aren't among them."""
    folder = shutil.copytree(closed, tmp_path / "system")
    gone = private(folder, 2)
    delete(lmeraser, folder, *gone)
    for without, count in ((gone[:1], 1), ([], 0)):
        capsys.readouterr()
        ids = ("--ids", *full(without)) if without else ()
        train(lmeraser, backbone, folder, *RIDGE, "--nearest", 3, "--overwrite", *ids)
        said = f"warning: the new system has {count:,} images again that have been deleted from {folder}"
        assert capsys.readouterr().err.count(said) == bool(count)


@pytest.mark.parametrize("place", ["folder:elsewhere", "fashion-mnist"])
def test_a_place_that_says_nothing_to_a_systems_images_is_refused(closed, tmp_path, capsys, place):
    folder = shutil.copytree(closed, tmp_path / "system")
    before = files(folder)
    ids = full(private(folder, 1))
    code, line = one_line(lmeraser, capsys, "delete", folder, "--ids", *ids, "--dataset", place)
    assert code == 2 and f"--dataset {place}: {folder} is of digits" in line and files(folder) == before
    call(lmeraser, "delete", folder, "--ids", *ids, "--dataset", "digits", "--quiet")  # as it says itself


@pytest.mark.parametrize(("script", "flags"), KINDS, ids=str)
def test_deleting_equals_never_having_had(backbone, tmp_path, script, flags):
    folder = train(script, backbone, tmp_path / "system", *flags)
    other, before = shutil.copytree(folder, tmp_path / "other"), learned(folder)
    ids = private(folder)[5:200:37]
    entry = delete(script, folder, *ids)
    assert 1 < len(entry["parts"]) < 6 or script is sisa
    without = train(script, backbone, tmp_path / "without", *flags, "--ids", *full(list(ids)))
    assert same(learned(folder), learned(without)) and same(started(folder), started(without))
    for k, learner in before.items():
        hit = k in entry["parts"]
        assert all(torch.equal(x, y) for x, y in zip(learner, learned(folder)[k], strict=True)) != hit
    delete(script, other, *ids[3:])
    delete(script, other, *ids[:3])
    assert same(learned(folder), learned(other))


@pytest.mark.parametrize(("script", "flags"), KINDS, ids=str)
def test_nothing_depends_on_images_that_were_left_out_and_the_start_on_no_private_one(backbone, tmp_path, script, flags):
    gone = private(train(script, backbone, tmp_path / "all", *flags))[3::3]
    where = ("train", *DIGITS, "--backbone", backbone, *sized(flags))
    folders = [tmp_path / "as_it_is", tmp_path / "altered", tmp_path / "private", tmp_path / "anchor"]
    without = ("--ids", *full(gone))
    state = read_system(tmp_path / "all")
    for folder, altered, further in zip(
        folders,
        (gone, gone, state["private"].tolist(), state["anchors"][:1].tolist()),
        (without, without, (), ()),
        strict=True,
    ):
        shared = Shared() if folder.name == "as_it_is" else Altered(torch.tensor(altered))
        call(script, *where, *further, "--output", folder, shared=shared)
    assert same(learned(folders[0]), learned(folders[1]))
    starts = [started(folder) for folder in (tmp_path / "all", *folders)]
    assert all(same(starts[0], start) for start in starts[1:4]) and not same(starts[0], starts[4])


@pytest.mark.parametrize("count", [1, 5, 60])
def test_a_head_is_the_ridge_regression_on_public_images_and_its_own(count):
    """Against the normal equations, for fewer images than features and for more than two blocks of them."""
    torch.manual_seed(0)
    known, own = torch.randn(40, 25) * 3 + 1, torch.randn(count, 25)
    known[:, 7] = 2.0  # a feature that public images don't have
    labels, of_own = torch.randint(4, (40,)), torch.randint(4, (count,))
    weight, bias = ridge.head(ridge.public(known, labels, 4, penalty=0.5), own, of_own)
    mean, deviation = known.double().mean(0), known.double().std(0, correction=0)
    kept = deviation > 1e-3
    p, x = (((some.double() - mean) / deviation)[:, kept] for some in (known, own))
    q, y = (torch.nn.functional.one_hot(some, 4).double() - 0.25 for some in (labels, of_own))
    expected = torch.linalg.solve(p.T @ p + x.T @ x + 20 * torch.eye(24).double(), p.T @ q + x.T @ y)
    fresh = torch.randn(9, 25)
    answers = ((fresh.double() - mean) / deviation)[:, kept] @ expected
    assert (weight.dtype, bias.dtype, tuple(weight.shape)) == (torch.float32, torch.float32, (4, 25))
    torch.testing.assert_close(fresh @ weight.T + bias, answers.float(), atol=1e-5, rtol=1e-5)


def test_a_part_starts_from_the_learner_of_the_anchors(backbone, tmp_path):
    """With steps too small to be seen every part has what SGD on the anchors alone gives."""
    folder = train(lmeraser, backbone, tmp_path / "system", *PUBLIC)
    still = train(lmeraser, backbone, tmp_path / "still", *PUBLIC, "--lr", 1e-12, "--head-lr", 1e-12)
    for prompt, weight, bias, _ in learned(still).values():
        first = read_system(still)["start"]
        assert torch.equal(prompt, first["prompt"]) and torch.equal(weight, first["weight"])
        assert torch.equal(bias, first["bias"])
    network = load_backbone(models.load_checkpoint(backbone), backbone, "cpu")
    state = read_system(folder)
    anchors = data.load("digits", subset=300).train.take(state["anchors"])
    shown = (False, state["shape"], 10, learning.Work(Settings(state["config"]), FP32))
    alone = learning.learn(learning.Part(network, 6, anchors, *shown))
    assert all(torch.equal(alone[name], value) for name, value in state["start"].items()) and len(state["start"]) == 3


def test_a_head_in_closed_form_costs_its_images_once(backbone, closed, tmp_path):
    state, folder = read_system(closed), shutil.copytree(closed, tmp_path / "system")
    assert state["config"]["epochs"] == 1 and state["cost"]["sample_epochs"] == 240
    assert all(len(prompt) == 0 for prompt, *_ in learned(closed).values())
    one = private(folder)[7]
    members = int((state["part"] == state["part"][one]).sum())
    entry = delete(lmeraser, folder, one)
    assert (entry["sample_epochs"], entry["full_sample_epochs"]) == (members - 1, 239)
    trained = read_system(train(lmeraser, backbone, tmp_path / "trained"))["flops"]
    assert 2 * 64**2 < state["flops"] < 0.6 * trained


def test_the_nearest_clusters_answer_together(backbone, closed, tmp_path):
    """The public head's logits, and what each of the nearest differs from these; of clusters that are left, however few."""
    folder = shutil.copytree(closed, tmp_path / "system")
    network = load_backbone(models.load_checkpoint(backbone), backbone, "cpu")
    images, state, parts = data.load("digits", subset=300).test.images[:40], read_system(folder), learned(folder)
    plain, x = features_of(network, images, "cpu"), images.float() / 255
    start, answers = state["start"], [plain @ weight.T + bias for _, weight, bias, _ in parts.values()]
    public = (((plain.double() - start["mean"]) * start["scale"]) @ start["solution"]).float()
    near = torch.cdist(plain, state["centres"][list(parts)]).argsort(1)[:, :3]
    expected = torch.stack([public[i] + sum(answers[k][i] - public[i] for k in row) for i, row in enumerate(near)])
    with torch.no_grad():
        torch.testing.assert_close(learners.build(assemble(folder))(x), expected, atol=1e-4, rtol=1e-4)
        rest = [i for k, (*_, members) in parts.items() if k != next(iter(parts)) for i in members.tolist()]
        delete(lmeraser, folder, *rest)
        torch.testing.assert_close(learners.build(assemble(folder))(x), answers[0], atol=1e-4, rtol=1e-4)


def test_evaluate_scores_heads_without_prompts(closed, tmp_path):
    folder = shutil.copytree(closed, tmp_path / "system")
    call(lmeraser, "delete", folder, "--quiet", "--class", 3)
    (row,) = rows_of(folder, "--weights", tmp_path, "--precision", "fp32")
    assert 0 <= row["metrics"]["probe"]["mean"] <= 100
    model, dataset = learners.build(assemble(folder)), data.load("digits", subset=300)
    with torch.no_grad():
        answers = model(dataset.test.images.float() / 255).argmax(1)
    right = (answers == dataset.test.labels)[dataset.test.labels != 3]
    assert row["metrics"]["TA"]["mean"] == pytest.approx(100 * right.double().mean().item())


@pytest.mark.parametrize("flags", [PUBLIC, RIDGE], ids=str)
def test_a_training_that_is_stopped_continues_from_the_same_start(backbone, tmp_path, monkeypatch, flags):
    whole = train(lmeraser, backbone, tmp_path / "whole", *flags)

    def stopping(path, content):
        if path.name.startswith("part_0003"):
            raise KeyboardInterrupt
        write_torch(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(learning, "write_torch", stopping)
        train(lmeraser, backbone, tmp_path / "killed", *flags)
    assert len(list((tmp_path / ".killed.partial").glob("part_*.pth"))) == 3
    killed = train(lmeraser, backbone, tmp_path / "killed", *flags)
    assert same(learned(whole), learned(killed)) and same(started(whole), started(killed))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((*PUBLIC, "--anchors-from", "private"), "anchors that can be deleted can't have a say in it"),
        (("--head", "ridge"), "give --start public"),
        ((*PUBLIC, "--nearest", 2), "give --head ridge"),
        ((*RIDGE, "--nearest", 7), "--nearest 7: there are 6 parts"),
        ((*RIDGE, "--head-lr", 0.1), "--head-lr has no effect on it"),
        ((*RIDGE, "--no-flip"), "--no-flip has no effect on it"),
    ],
    ids=str,
)
def test_flags_that_exclude_each_other_are_refused(backbone, tmp_path, capsys, flags, message):
    where = ("train", *DIGITS, "--backbone", backbone, "--output", tmp_path / "system")
    code, line = one_line(lmeraser, capsys, *where, *sized(flags))
    assert code == 2 and message in line and not list(tmp_path.iterdir())


def test_a_start_that_is_damaged_is_refused(closed, tmp_path, capsys):
    folder = shutil.copytree(closed, tmp_path / "system")
    state, one = read_torch(folder / SYSTEM), full(private(folder)[:1])
    start = state["start"]
    wrong = [
        {"start": start | {"inverse": start["inverse"].float()}},
        {"start": start | {"scale": start["scale"] * float("nan")}},
        {"start": start | {"more": start["mean"]}},
        {"start": start | {"mean": start["mean"][:3]}},
        {"config": state["config"] | {"head": "sgd"}},
        {"config": {name: value for name, value in state["config"].items() if name != "start"}},
    ]
    for other in wrong:
        write_torch(folder / SYSTEM, state | other)
        code, line = one_line(lmeraser, capsys, "delete", folder, "--ids", *one)
        assert code == 2 and "start" in line and "it is damaged" in line, line
    write_torch(folder / SYSTEM, {name: value for name, value in state.items() if name != "start"})
    with pytest.raises(UserError, match="start"):
        read_system(folder)
