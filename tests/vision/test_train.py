"""The loop: repeatable bits, its policies, its meters."""

import math
import os
import sys
from dataclasses import replace

import pytest
import torch
from timm.optim import Muon

import data
import lora
import models
import pretrain
from tests.helpers import FP32, call, files, forgetting_three
from tests.storm import malformed
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import read_torch, write_torch
from unlearning.vision import recipes
from unlearning.vision.predict import predict
from unlearning.vision.snapshots import Snapshot
from unlearning.vision.train import cross_entropy, fit


def train(name="resnet8", subset=300, epochs=2, lr=0.05, seed=0, snapshot=None, loud=False, fast=False, muon=False):
    """A network trained by the paper's recipe or the fast one, and what it cost."""
    dataset = data.load("digits", subset=subset)
    torch.manual_seed(seed)
    model, _ = models.create_for(name, dataset)
    steps = epochs * math.ceil(len(dataset.train) / 64)
    if fast:
        recipe = recipes.fast_recipe(model, steps, lr, 10, dataset.train, seed, flip=False, crop=False, muon=muon)
    else:
        recipe = recipes.paper_recipe(model, steps, lr, 10, flip=False, crop=None, muon=muon)
    how = {"compute": replace(FP32, quiet=not loud), "snapshot": snapshot}
    cost = fit(model, dataset.train, epochs=epochs, batch_size=64, seed=seed, **how, **recipe)
    return model, cost


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_last_batch_of_one_image_joins_the_one_before_it():
    """A batch norm on a map of one pixel has no variance in one image."""
    pieces = [len(batch) for batch in data.in_batches(torch.arange(33), 16)]
    assert pieces == [16, 17] and [len(batch) for batch in data.in_batches(torch.arange(1), 16)] == [1]
    for count, size in ((33, 16), (32, 16), (34, 16), (1, 16), (2, 16), (17, 16), (5, 1)):
        batches = data.in_batches(torch.arange(count), size)
        assert torch.equal(torch.cat(batches), torch.arange(count)) and len(batches) == data.steps_of(count, size)
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        *(torch.nn.Conv2d(1, 4, 8), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4, 10))
    )
    split = data.load("digits").train.take(slice(33))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    cost = fit(model, split, optimizer, epochs=2, batch_size=16, seed=0, compute=FP32)
    assert cost["steps"] == 4


@pytest.mark.parametrize("name", ["resnet8", "vit_micro"])
def test_same_seed_same_bits(name):
    first, again, other = (train(name, subset=150, lr=1e-3, seed=seed)[0] for seed in (0, 0, 1))
    assert same(first, again) and not same(first, other)


FOUR = {"subset": 100, "epochs": 4}
MUON = {"fast": True, "muon": True, "lr": 3e-3}


@pytest.mark.parametrize("how", [{}, MUON, MUON | {"name": "vit_micro"}], ids=["SGD", "Muon", "Muon of a ViT"])
def test_a_snapshot_continues_with_the_same_bits(tmp_path, how):
    """Stop after the second of four epochs, by an error within the third, and go on."""
    how = FOUR | how
    whole, _ = train(**how)

    class Stopping(Snapshot):
        def write(self, *arguments):
            super().write(*arguments)
            if read_torch(self.path)["epoch"] == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(snapshot=Stopping(tmp_path / "x.partial", "key"), **how)
    assert read_torch(tmp_path / "x.partial")["epoch"] == 2
    assert same(train(snapshot=Snapshot(tmp_path / "x.partial", "key"), **how)[0], whole)


def unfinished(path, **other):
    """A file of a run of which the first of four epochs is done."""

    class Stopping(Snapshot):
        def write(self, *arguments):
            super().write(*arguments)
            raise KeyboardInterrupt

    path.unlink(missing_ok=True)
    with pytest.raises(KeyboardInterrupt):
        train(**FOUR, snapshot=Stopping(path, "key", other.pop("overwrite", False)))
    write_torch(path, read_torch(path) | other)


def test_only_a_run_that_was_to_compute_again_is_continued_with_overwrite(tmp_path, capsys):
    """Else --overwrite would hand out what an earlier run has computed."""
    path = tmp_path / "x.partial"
    for before, now, continues in ((False, True, False), (True, True, True), (True, False, True), (False, False, True)):
        unfinished(path, overwrite=before)
        capsys.readouterr()
        train(**FOUR, snapshot=Snapshot(path, "key", overwrite=now), loud=True)
        assert ("continuing after epoch 1" in capsys.readouterr().err) is continues


def test_a_damaged_or_impossible_snapshot_is_one_line_and_overwrite_gets_past_it(tmp_path):
    path = tmp_path / "x.partial"
    for wrong in ({"epoch": 1000}, {"epoch": -3}, {"epoch": 4}, {"epoch": "1"}, {"seconds": math.nan}, {"model": 3}):
        unfinished(path, **wrong)
        with pytest.raises(UserError, match=r"x.partial .*delete it"):
            train(**FOUR, snapshot=Snapshot(path, "key"))
        train(**FOUR, snapshot=Snapshot(path, "key", overwrite=True))
    unfinished(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"x.partial is not a readable checkpoint: damaged"):
        train(**FOUR, snapshot=Snapshot(path, "key"))
    train(**FOUR, snapshot=Snapshot(path, "key", overwrite=True))


def test_what_no_run_has_written_is_not_taken_for_an_unfinished_one(tmp_path):
    """Not even with --overwrite, which drops a run's own file, be it damaged: other checkpoints, texts, links, folders."""
    if sys.platform == "win32":
        pytest.skip("Windows has no pipes with a name")
    path = tmp_path / "x.partial"
    snapshot = Snapshot(path, "key", overwrite=True)
    snapshot.check_place()
    unfinished(path)
    state, content = read_torch(path), path.read_bytes()
    earlier = {name: value for name, value in state.items() if name not in ("what", "history")}
    for ours in (content, content[:-100], content[:5000], content[:4000] + b"x" + content[4001:]):
        path.write_bytes(ours)
        snapshot.check_place()
    write_torch(path, earlier | {"key": "0" * 64})
    snapshot.check_place()
    somebodys = {"epoch": 3, "model": {}, "optimizer": state["optimizer"], "scheduler": {}, "key": "mine"}
    for theirs in (somebodys, earlier):
        write_torch(path, theirs)
        _refused(snapshot, "is no unfinished run of this project: move it")
    for theirs in (b"half of a download", b"", b"PK\x03\x04"):
        path.write_bytes(theirs)
        for each in (snapshot, Snapshot(path, "key")):
            _refused(each, "is no unfinished run of this project: move it")
    for make in (path.mkdir, lambda: path.symlink_to(tmp_path / "y"), lambda: os.mkfifo(path)):
        path.unlink() if path.is_symlink() or path.is_file() else path.is_dir() and path.rmdir()
        make()
        for each in (snapshot, Snapshot(path, "key")):
            _refused(each, "is a link, or no file, where an unfinished run is kept")


def _refused(snapshot, what):
    before = files(snapshot.path.parent) if not snapshot.path.is_fifo() else None
    with pytest.raises(UserError, match=what):
        snapshot.check_place()
    assert before is None or files(snapshot.path.parent) == before


def test_a_run_that_continues_elsewhere_says_that_its_bits_differ(tmp_path, capsys):
    """Not one of an earlier version, which doesn't say where it was begun."""
    path = tmp_path / "x.partial"
    for other, said in (({"torch": "1.9"}, True), ({"device": "a Z80, 1 threads"}, True), ({}, False), (None, False)):
        unfinished(path)
        state = read_torch(path)
        write_torch(path, state | {"made_by": {} if other is None else state["made_by"] | other})
        capsys.readouterr()
        train(**FOUR, snapshot=Snapshot(path, "key"))
        lines = [line for line in capsys.readouterr().err.splitlines() if "not bit-equal" in line]
        assert len(lines) == said and all(f"for {value}" in lines[0] for value in (other or {}).values())


def begun(kind):
    """A network, its optimiser and its scheduler, after a step."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.BatchNorm1d(6))  # timm's Muon takes no smaller matrix
    optimizer = kind(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    return model, optimizer, scheduler


@pytest.mark.parametrize("kind", [torch.optim.SGD, Muon])
def test_a_snapshot_that_is_damaged_is_one_line(tmp_path, kind):
    """In every field one way in turn; what may stand there is taken, and anything else is named. Each is given to a run of
    its own: what a taken one sets would have all that come after it refused."""
    (tmp_path / "sound").mkdir()
    Snapshot(tmp_path / "sound" / "x.partial", "key").write(*begun(kind), 1, 2.0)
    assert Snapshot(tmp_path / "sound" / "x.partial", "key").restore(*begun(kind), 4, True) == (1, 2.0)
    refused = 0
    every = list(malformed.cases("snapshot", tmp_path / "sound", "x.partial"))
    whole = [case for case in every if case.field == "made_by" or case.field.startswith("optimizer.state.")]
    some = every[::13] + whole[::3]  # a field has 20 faults: another one in each
    for case in some:
        case.write(tmp_path)
        try:
            model, optimizer, scheduler = begun(kind)
            Snapshot(tmp_path / "x.partial", "key").restore(model, optimizer, scheduler, 4, True)
            optimizer.step()  # a file that is taken is one to go on from
        except UserError as error:
            assert "x.partial" in str(error) and (case.field.split(".")[0] in str(error) or "other settings" in str(error))
            refused += 1
    assert refused > len(some) // 2
    group = [case for case in every if case.field == "optimizer.param_groups.0.lr" and case.fault == "nan"]
    group[0].write(tmp_path)
    with pytest.raises(UserError, match=r"optimizer.param_groups.lr is nan: it is damaged"):
        Snapshot(tmp_path / "x.partial", "key").restore(*begun(kind), 4, True)


def test_batch_norm_policy(weights, tmp_path):
    common = forgetting_three(weights, 1)
    before = models.load_checkpoint(weights / "digits_resnet8_original_s0.pth")["state_dict"]
    for policy, moves in (("update", True), ("freeze", False)):
        after = models.load_checkpoint(call(lora, *common, "--epochs", 1, "--bn", policy, "--output", tmp_path / policy))[
            "state_dict"
        ]
        for key in before:
            if "running" in key or key.endswith(("bn1.weight", "bn2.bias")):
                assert torch.equal(before[key], after[key]) == (not moves or "running" not in key), key


def test_a_loss_that_is_not_a_number_fails_the_run():
    with pytest.raises(RunFailed, match="the loss is nan in epoch 1/2: try a smaller --lr"):
        train(lr=1e30)


def test_a_loss_that_never_was_a_number_is_not_blamed_on_the_rate():
    """Of a masked class, whose logit is minus infinity; on images of other classes such a network is trained as any."""
    split = data.load("digits", subset=100).train
    for label, fails in ((3, True), (4, False)):
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        with torch.no_grad():
            model[1].bias[3] = float("-inf")
        how = {"epochs": 1, "batch_size": 8, "seed": 0, "compute": FP32}
        some = split.take(split.labels == label)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
        if fails:
            with pytest.raises(
                RunFailed, match=r"the loss is inf .*: 1\.bias is not finite from the start, .* another --original"
            ):
                fit(model, some, optimizer, **how)
        else:
            assert fit(model, some, optimizer, **how)["steps"] == 2


def test_cross_entropy_is_plain():
    """No label is smoothed; where probabilities are learned each counts by its share."""
    logits = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])  # probabilities 1/4 3/4, 4/5 1/5
    hard = cross_entropy(lambda x: x, logits, torch.tensor([1, 1]), None)
    assert hard.item() == pytest.approx((math.log(4 / 3) + math.log(5)) / 2)
    soft = cross_entropy(lambda x: x, logits, torch.tensor([[0.9, 0.1], [0.0, 1.0]]), None)
    assert soft.item() == pytest.approx((0.9 * math.log(4) + 0.1 * math.log(4 / 3) + math.log(5)) / 2)


class Line(torch.nn.Module):
    """w x and v x of an image of one pixel: the gradient of w + 2 v summed over a batch is its sum of x times (1, 2)."""

    def __init__(self):
        super().__init__()
        self.w, self.v = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return (self.w + 2 * self.v) * x


@pytest.mark.parametrize(("clip", "moved"), [(None, (2.0, 4.0)), (1.0, (0.2**0.5, 0.8**0.5)), (9.0, (2.0, 4.0))])
def test_clip_is_the_largest_norm_of_the_gradient_of_all_parameters(clip, moved):
    """Batches of two white pixels: (2, 4) has the norm 20^0.5. The rate is 1 and there are two steps."""
    model, split = Line(), data.Split(torch.full((4, 1, 1, 1), 255, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    policy = {"objective": lambda model, x, y, rows: model(x).sum(), "clip": clip}
    fit(model, split, optimizer, epochs=1, batch_size=2, seed=0, compute=FP32, **policy)
    assert (model.w.item(), model.v.item()) == pytest.approx((-2 * moved[0], -2 * moved[1]), rel=1e-5)


def test_a_batch_is_augmented_as_bytes_then_mixed_as_floats_and_its_rows_are_named():
    seen = []
    split = data.Split(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1), torch.arange(6) * 3)

    def augment(images):
        assert images.dtype == torch.uint8
        return images + 100

    def mixup(x, y):
        return x * 2, y + 1

    def objective(model, x, y, rows):
        seen.append((x.flatten(), y, rows))
        return model(x).mean()

    model = Line()
    policy = {"objective": objective, "augment": augment, "mixup": mixup}
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    fit(model, split, optimizer, epochs=2, batch_size=3, seed=0, compute=FP32, **policy)
    assert [len(rows) for _, _, rows in seen] == [3] * 4
    first, second = (torch.cat([rows for _, _, rows in seen[2 * epoch : 2 * epoch + 2]]) for epoch in (0, 1))
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(6))  # each image once an epoch
    assert first.tolist() != second.tolist() and first.tolist() != list(range(6))  # in an order of that epoch's
    for x, y, rows in seen:
        torch.testing.assert_close(x, 2 * (rows + 100) / 255)
        assert torch.equal(y, 3 * rows + 1)


def test_images_are_mirrored_by_position_and_epoch_before_they_are_augmented():
    seen = []
    pixels = torch.arange(6, dtype=torch.uint8)
    split = data.Split(torch.stack([pixels, pixels + 100], 1).view(6, 1, 1, 2), torch.arange(6))

    def objective(model, x, y, rows):
        seen.extend(zip(rows.tolist(), (255 * x).round().view(-1, 2).tolist(), strict=True))
        return model(x).mean()

    def augment(images):
        return images + images.new_tensor([1, 0])  # where a pixel lies, not which it is

    policy = {"objective": objective, "augment": augment, "mirrored": lambda rows, epoch: (rows + epoch) % 3 == 0}
    optimizer = torch.optim.SGD(Line().parameters(), lr=1.0)
    fit(Line(), split, optimizer, epochs=2, batch_size=3, seed=0, compute=FP32, **policy)
    for place, (row, pair) in enumerate(seen):
        turned = (row + place // 6) % 3 == 0
        assert pair == ([row + 101, row] if turned else [row + 1, row + 100])


def test_costs_are_measured():
    model, cost = train()
    assert cost["seconds"] > 0
    assert 100 < cost["memory_mib"] < 4096
    assert cost["trainable"] == sum(p.numel() for p in model.parameters())
    assert cost["steps"] == 2 * 5


def test_predict_gives_the_networks_logits_in_order():
    model, _ = train()
    some = data.load("digits").test.take(slice(130))
    with torch.no_grad():
        expected = model(some.images.float() / 255)
    torch.testing.assert_close(predict(model, some, FP32, batch_size=50), expected, atol=1e-4, rtol=1e-4)


def test_pretrain_learns(tmp_path):
    path = call(pretrain, "--dataset", "digits", "--model", "resnet8", "--output", tmp_path / "x", "--epochs", 12, "--quiet")
    model = models.build(models.load_checkpoint(path))
    test = data.load("digits").test
    logits = predict(model, test, FP32)
    assert (logits.argmax(1) == test.labels).float().mean() > 0.8


def test_a_policy_may_say_which_images_a_step_takes(capsys):
    """Some twice, some never; each epoch anew. Steps, and the speed that is said, are those of these batches."""
    split, seen = data.load("digits", subset=12).train, []
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

    def objective(network, x, y, rows):
        seen.append(rows.tolist())
        assert torch.equal(x, split.images[rows] / 255) and torch.equal(y, split.labels[rows])
        return network(x).square().mean() * 0 + len(rows)

    def batches(count, size):
        assert (count, size) == (12, 5)
        return [torch.tensor([3, 1, 3]), torch.tensor([len(seen)])]

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    how = {"compute": replace(FP32, quiet=False), "objective": objective, "batches": batches}
    cost = fit(model, split, optimizer, epochs=2, batch_size=5, seed=0, **how)
    assert seen == [[3, 1, 3], [0], [3, 1, 3], [2]] and cost["steps"] == 4
    assert "loss 2.5000" in capsys.readouterr().err  # (3 * 3 + 1) / 4
