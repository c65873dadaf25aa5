"""LMEraser and SISA: deletion is exact, atomic, and costs what the ledger says. A tiny random network is the backbone."""

import contextlib
import errno
import itertools
import os
import re
import shutil
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch

import data
import evaluate
import lmeraser
import models
import retrain
from baselines import sisa
from tests.helpers import (
    FP32,
    Altered,
    call,
    changed,
    files,
    full_disk,
    killed_at,
    killed_once,
    latest,
    one_line,
    rows_of,
    shell,
)
from tests.test_data import folder_of_images
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import read_torch, write_torch
from unlearning.exact import learners, learning, storage
from unlearning.exact.backbone import learner_flops, load_backbone, write_backbone
from unlearning.exact.reading import assemble, read_system
from unlearning.exact.storage import SYSTEM
from unlearning.images import forgetting
from unlearning.metrics import membership, predictions
from unlearning.vision import snapshots
from unlearning.vision import train as training
from unlearning.vision.predict import penultimate
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared

DIGITS = ("--dataset", "digits", "--subset", 300)
TWO = ("--parts", 2, "--epochs", 1, "--jobs", 1)  # a smaller system still
FEW = ("--parts", 6, "--anchors", 60, "--quiet")
SMALL = (*FEW, "--epochs", 3, "--batch-size", 16)


def random_backbone(path, network="resnet8", seed=0):
    """A random network as a backbone: frozen, public, and quick."""
    torch.manual_seed(seed)
    model, arguments = models.create_for(network, data.load("digits", subset=300))
    write_backbone(path, model, {"name": network, "arguments": arguments})
    return path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return random_backbone(tmp_path_factory.mktemp("backbone") / "backbone.pth")


def train(script, backbone, folder, *flags):
    call(script, "train", *DIGITS, "--backbone", backbone, *sized(flags), "--output", folder)
    return folder


def sized(flags):
    """Flags of a small system, these included; a head in closed form isn't trained, so nothing says how."""
    return (*(FEW if "ridge" in flags else SMALL), *flags)


def delete(script, folder, *flags):
    call(script, "delete", folder, "--quiet", *flags)
    return read_system(folder)["ledger"][-1]


@pytest.fixture(scope="module")
def systems(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("systems")
    return {script: train(script, backbone, folder / script.__name__) for script in (lmeraser, sisa)}


@pytest.fixture
def copy(systems, tmp_path):
    """A function of a script: a copy of its system to delete from."""
    return lambda script, name="copy": shutil.copytree(systems[script], tmp_path / f"{script.__name__}-{name}")


def learned(folder):
    """What each part's learner holds: {part: (prompt, weight, bias, members)}."""
    state = read_system(folder)
    files = {k: read_torch(folder / name) for k, name in enumerate(state["files"]) if name}
    return {k: [file[key] for key in ("prompt", "weight", "bias", "members")] for k, file in files.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(x, y) for k in a for x, y in zip(a[k], b[k], strict=True))


def full(positions):
    """The numbers that images of the subset have in the full training set, by which a request names them."""
    return data.load("digits", subset=300).whole.positions[positions].tolist()


def private(folder, count=None):
    return read_system(folder)["private"][:count].tolist()


@pytest.mark.parametrize("script", [lmeraser, sisa])
def test_deleting_equals_never_having_had(backbone, copy, tmp_path, script):
    """Proofs 1 and 2: bit for bit, in parts that are hit and parts that aren't, in one request or in two of either order."""
    folder = copy(script)
    ids = private(folder)[5:200:37]
    before = learned(folder)
    entry = delete(script, folder, "--ids", *full(ids))
    assert len(entry["parts"]) > 1 and entry["ids"] == ids
    without = train(script, backbone, tmp_path / "without", "--ids", *full(ids))
    assert same(learned(folder), learned(without))
    for k, learner in before.items():
        hit = k in entry["parts"]
        assert all(torch.equal(x, y) for x, y in zip(learner, learned(folder)[k], strict=True)) != hit
    first, second = copy(script, "a"), copy(script, "b")
    for one, two in ((ids[:2], ids[2:]), (ids[2:], ids[:2])):
        target = first if one == ids[:2] else second
        delete(script, target, "--ids", *full(one))
        delete(script, target, "--ids", *full(two))
    assert same(learned(first), learned(folder)) and same(learned(second), learned(folder))


@pytest.mark.parametrize(
    ("script", "flags"), [(lmeraser, ()), (lmeraser, ("--anchors-from", "private")), (sisa, ())], ids=str
)
def test_nothing_depends_on_images_that_were_left_out(backbone, tmp_path, script, flags):
    """Their pixels and labels are others, and every tensor of the folder has the same bits."""
    ids = private(train(script, backbone, tmp_path / "all", *flags))[3::3]  # anchors and members of every part
    folders = []
    for name, shared in (("as_it_is", Shared()), ("altered", Altered(torch.tensor(ids)))):
        folders.append(tmp_path / name)
        where = ("--backbone", backbone, *SMALL, *flags, "--output", folders[-1])
        call(script, "train", *DIGITS, *where, "--ids", *full(ids), shared=shared)
    states = [read_system(folder) for folder in folders]
    tensors = [{key: x for key, x in state.items() if isinstance(x, torch.Tensor)} for state in states]
    assert {"private", "anchors", "deleted", "part"} <= tensors[0].keys()
    assert all(torch.equal(x, tensors[1][key]) for key, x in tensors[0].items())
    assert same(*map(learned, folders))
    apart = {"data", "cost", "command"}
    plain = [{key: x for key, x in state.items() if key not in tensors[0] and key not in apart} for state in states]
    assert plain[0] == plain[1]


def test_a_backbone_doesnt_depend_on_private_images(tmp_path):
    """Nor do its features of public images, the anchors and the centres."""
    common = ("--dataset", "digits", "--subset", 300)
    gone, _ = forgetting.ForgetRequest(share=0.5).positions(data.load("digits", subset=300).train)
    found = []
    for name, shared in (("as_it_is", Shared()), ("altered", Altered(gone))):
        public = ("--model", "resnet8", "--epochs", 1, "--forget-random", 0.5, "--weights", tmp_path / name, "--quiet")
        path = call(retrain, *common, *public, shared=shared)
        folder = tmp_path / name / "system"
        call(lmeraser, "train", *common, "--backbone", path, *SMALL, "--output", folder, shared=shared)
        found.append((models.load_checkpoint(path)["state_dict"], read_system(folder)))
    (weights, system_), (other_weights, other) = found
    assert all(torch.equal(x, other_weights[key]) for key, x in weights.items())
    assert all(torch.equal(system_[key], other[key]) for key in ("private", "anchors", "centres"))
    assert not torch.equal(system_["part"], other["part"])  # inverted images are elsewhere, so the features did change


def test_training_twice_gives_the_same_bits_and_clusters_differ_only_by_their_images(backbone, systems, tmp_path):
    again = train(lmeraser, backbone, tmp_path / "again")
    assert same(learned(systems[lmeraser]), learned(again))
    assert not same(learned(again), learned(train(lmeraser, backbone, tmp_path / "seed", "--seed", 1)))


def test_several_processes_give_the_same_bits(backbone, systems, tmp_path, monkeypatch):
    asked, parallel = [], joblib.Parallel
    monkeypatch.setattr(joblib, "Parallel", lambda jobs, **how: asked.append(jobs) or parallel(jobs, **how))
    one = train(lmeraser, backbone, tmp_path / "one", "--jobs", 2)
    assert asked == [1]  # so little isn't worth starting them
    with monkeypatch.context() as patch:  # a part that another process continues
        write = stop_after(patch, 1, "part_0001")
        with pytest.raises(KeyboardInterrupt):
            train(lmeraser, backbone, tmp_path / "two", "--jobs", 2)
    (tmp_path / ".two.partial/part_0000_0000.pth").unlink()
    snapshot = tmp_path / ".two.partial/part_0001_0000.pth.partial"
    write_torch(snapshot, read_torch(snapshot) | {"seconds": 5000.0})
    monkeypatch.setattr(learning, "STARTUP", 0)
    two = train(lmeraser, backbone, tmp_path / "two", "--jobs", 2)
    assert asked == [1, 1, 2] and len(write) == 1 and not list(two.glob("*.partial"))
    assert read_torch(two / "part_0001_0000.pth")["seconds"] > 5000 < read_system(two)["cost"]["seconds"]
    assert same(learned(systems[lmeraser]), learned(two)) and same(learned(one), learned(two))
    assert read_system(two)["cost"]["sample_epochs"] == read_system(one)["cost"]["sample_epochs"]


@pytest.mark.parametrize("script", [lmeraser, sisa])
def test_the_ledger_says_what_was_trained(copy, script):
    """Proof 3: the sum over hit parts of what is left in them, times epochs."""
    folder = copy(script)
    state = read_system(folder)
    ids = state["private"][[0, 50, 100]]
    hit = state["part"][ids].unique().tolist()
    left = sum(int((state["part"] == k).sum()) for k in hit) - 3
    entry = delete(script, folder, "--ids", *full(ids.tolist()))
    assert entry["parts"] == hit
    assert (entry["images"], entry["sample_epochs"]) == (left, 3 * left)
    assert entry["full_sample_epochs"] == 3 * (len(state["private"]) - 3)
    assert entry["flops"] == 3 * left * state["flops"] > 0 and entry["seconds"] > 0


def test_flops_of_an_image_are_those_of_its_layers(backbone):
    """Forward, and backward to the input alone, of every convolution and the head: twice the multiplications of each."""
    content = models.load_checkpoint(backbone)
    state = {"shape": [1, 8, 8], "classes": 10}
    network, seen = load_backbone(content, backbone, "cpu"), []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda m, i, o: seen.append(2 * o[0].numel() * m.weight[0].numel()))
    forward_and_back = learner_flops(network, state["shape"], state["classes"])
    assert 2 * sum(seen) <= forward_and_back <= 2 * sum(seen) + 6 * 64 * 10


def test_an_emptied_cluster_is_dropped_and_a_request_may_hit_all(copy):
    """Proof 4: routing goes on among those that are left."""
    folder = copy(lmeraser)
    state = read_system(folder)
    sizes = state["part"][state["part"] >= 0].bincount(minlength=6)
    smallest = int(torch.where(sizes > 0, sizes, 1000).argmin())
    delete(lmeraser, folder, "--ids", *full((state["part"] == smallest).nonzero().squeeze(1).tolist()))
    assert smallest not in learned(folder)
    model = learners.build(assemble(folder))
    assert len(model.centres) == len(learned(folder))
    assert model(torch.rand(5, 1, 8, 8)).isfinite().all()
    state = read_system(folder)
    every = [int((state["part"] == k).nonzero()[0]) for k in learned(folder)]
    assert delete(lmeraser, folder, "--ids", *full(every))["parts"] == list(learned(folder))


def test_a_class_is_deleted_whole_and_one_without_private_images_is_not(copy, capsys):
    folder = copy(lmeraser)
    labels = data.load("digits", subset=300).train.labels
    gone = private(folder)[0]
    delete(lmeraser, folder, "--ids", *full([gone]))
    entry = delete(lmeraser, folder, "--class", int(labels[gone]))
    assert set(labels[entry["ids"]].tolist()) == {int(labels[gone])} and gone not in entry["ids"]
    assert not (labels[torch.cat([learner[3] for learner in learned(folder).values()])] == labels[gone]).any()
    code, line = one_line(lmeraser, capsys, "delete", folder, "--class", 11)
    assert code == 2 and "--class 11: the classes are 0 to 9" in line
    public = full(read_system(folder)["anchors"][:1])
    code, line = one_line(lmeraser, capsys, "delete", folder, "--class", int(labels[gone]), "--ids", *public)
    assert code == 2 and "is public" in line
    code, line = one_line(lmeraser, capsys, "delete", folder, "--class", int(labels[gone]), (int(labels[gone]) + 1) % 10)
    assert code == 2 and f"--class {int(labels[gone])}: no private image is of this class" in line


def test_what_a_system_forgets_is_said_first_and_doubles_and_what_was_left_out_are_counted(backbone, tmp_path, capsys):
    """Numbers are those of the full training set: of three images that --subset left out none is deleted."""
    folder, dataset = train(lmeraser, backbone, tmp_path / "system", *TWO), data.load("digits", subset=300)
    one, two = private(folder, 2)
    outside = sorted(set(range(1433)) - set(full(range(300))))[:3]
    capsys.readouterr()
    ids = (*full([one, two]), f"{full([two])[0]},{outside[0]}", *outside[1:])
    call(lmeraser, "delete", folder, "--jobs", 1, "--ids", *ids)
    said = capsys.readouterr().err.splitlines()
    assert said[:2] == [
        "--ids: 1 image named more than once, counted once",
        "--ids: 3 of 5 images left out by --subset or --validation, 2 remain",
    ]
    first, second = dataset.train.labels[[one, two]].tolist()
    parts = [f"1 of class {c}" for c in sorted((first, second))] if first != second else [f"2 of class {first}"]
    assert said[2] == f"forgets 2 of 240 private images: {', '.join(parts)}"
    assert read_system(folder)["deleted"].tolist() == [one, two]
    three = int(((dataset.train.labels == 3) & torch.isin(torch.arange(300), read_system(folder)["private"])).sum())
    gone = sum(label == 3 for label in (first, second))
    call(lmeraser, "delete", folder, "--jobs", 1, "--class", 3)
    line = f"forgets {three - gone} of 238 private images: all {three - gone} of class 3"
    assert capsys.readouterr().err.splitlines()[0] == line
    again = tmp_path / "again"
    flags = (*DIGITS, *(word for word in SMALL if word != "--quiet"), *TWO, "--backbone", backbone, "--output", again)
    call(lmeraser, "train", *flags, "--ids-file", folder)
    line = f"leaves out {three - gone + 2} of 240 private images: all {three} of class 3"
    assert capsys.readouterr().err.splitlines()[0].startswith(line)
    assert torch.equal(read_system(again)["deleted"], read_system(folder)["deleted"])


def test_public_anchors_cannot_be_deleted_and_private_ones_cost_everything(backbone, copy, tmp_path, capsys):
    folder = copy(lmeraser)
    anchor = read_system(folder)["anchors"][0].item()
    assert not set(read_system(folder)["anchors"].tolist()) & set(private(folder))
    code, line = one_line(lmeraser, capsys, "delete", folder, "--ids", *full([anchor]))
    way = "nothing is changed; anchors can be deleted where the system is trained with --anchors-from private"
    assert code == 2 and "is public" in line and line.endswith(way)
    own = train(lmeraser, backbone, tmp_path / "own", "--anchors-from", "private")
    for system, kind in ((folder, "public: they can't be deleted;"), (own, "private: they can be deleted, and all parts")):
        capsys.readouterr()
        call(lmeraser, "show", system)
        assert f"; 60 anchors, {kind}" in capsys.readouterr().out
    anchor = read_system(own)["anchors"][7].item()
    entry = delete(lmeraser, own, "--ids", *full([anchor]))
    assert entry["sample_epochs"] == entry["full_sample_epochs"] == 3 * 299
    without = train(lmeraser, backbone, tmp_path / "without", "--anchors-from", "private", "--ids", *full([anchor]))
    assert same(learned(own), learned(without))
    assert torch.equal(read_system(own)["centres"], read_system(without)["centres"])


def test_anchors_have_no_say_in_random_shards(backbone, tmp_path):
    """So one that is deleted costs its own shard alone, and the result is as if it had never been there."""
    own = train(sisa, backbone, tmp_path / "own", "--anchors-from", "private")
    state = read_system(own)
    anchor = state["anchors"][7].item()
    entry = delete(sisa, own, "--ids", *full([anchor]))
    assert entry["parts"] == [state["part"][anchor].item()] and entry["sample_epochs"] < entry["full_sample_epochs"]
    without = train(sisa, backbone, tmp_path / "without", "--anchors-from", "private", "--ids", *full([anchor]))
    assert same(learned(own), learned(without))


def test_seconds_that_parts_had_in_common_are_counted_once(backbone, tmp_path, monkeypatch):
    """A run that is killed after two parts, each of which says 5,000 seconds, had been at work for 5,000."""
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1, "part_0002")
        train(lmeraser, backbone, tmp_path / "system")
    done = sorted((tmp_path / ".system.partial").glob("part_*.pth"))
    assert len(done) == 2
    for path in done:
        write_torch(path, read_torch(path) | {"seconds": 5000.0, "elapsed": 5000.0})
    train(lmeraser, backbone, tmp_path / "system")
    assert 5000 < read_system(tmp_path / "system")["cost"]["seconds"] < 6000


def test_fewer_anchors_than_parts_are_fewer_parts_and_the_last_one_goes_with_the_last_image(backbone, tmp_path, capsys):
    """As if the anchor had never been there; the ledger still knows the parts that there were."""
    few = ("--anchors-from", "private", "--anchors", 6)
    own = train(lmeraser, backbone, tmp_path / "own", *few)
    state = read_system(own)
    member = next(i for i in state["part"].eq(5).nonzero()[:, 0].tolist() if i not in state["anchors"].tolist())
    delete(lmeraser, own, "--ids", *full([member]))
    anchors = state["anchors"].tolist()
    delete(lmeraser, own, "--ids", *full(anchors[:1]))
    assert len(read_system(own)["centres"]) == len(read_system(own)["files"]) == 5
    without = train(lmeraser, backbone, tmp_path / "without", *few, "--ids", *full([anchors[0], member]))
    assert same(learned(own), learned(without))
    code, line = one_line(lmeraser, capsys, "delete", own, "--quiet", "--ids", *full(anchors[1:]))
    assert code == 2 and "no anchor would be left" in line and len(read_system(own)["files"]) == 5
    left = [i for i in range(300) if i not in (anchors[0], member)]
    entry = delete(lmeraser, own, "--ids", *full(left))
    assert entry["sample_epochs"] == 0 and not any(read_system(own)["files"])
    assert not read_system(own)["centres"].any()  # means of features of what is deleted
    call(lmeraser, "show", own)
    assert "298 images, all of their parts: nothing was left to train again, " in capsys.readouterr().out


def test_a_centre_to_which_no_image_is_nearest_is_a_part_of_none(backbone, tmp_path, monkeypatch):
    """As where anchors are the same image twice: the last ones count too."""
    known = lmeraser.split

    def with_one_more(*given):
        part, centres = known(*given)
        return part, torch.cat([centres, centres[:1] + 1e6])

    monkeypatch.setattr(lmeraser, "split", with_one_more)
    own = train(lmeraser, backbone, tmp_path / "own", "--anchors-from", "private")
    anchor = read_system(own)["anchors"][0].item()
    delete(lmeraser, own, "--ids", *full([anchor]))
    state = read_system(own)
    assert len(state["centres"]) == len(state["files"]) == 7 and state["files"][6] is None
    assert len(assemble(own)["network"]["arguments"]) and all((own / name).exists() for name in state["files"][:6])


def test_a_checkpoint_says_itself_which_side_its_images_have(backbone, tmp_path, capsys):
    flags = ("train", *DIGITS, "--backbone", backbone, "--input-size", 96, "--output", tmp_path / "x")
    code, line = one_line(lmeraser, capsys, *flags)
    assert code == 2 and f"--input-size: {backbone} says itself which side" in line and not (tmp_path / "x").exists()


def test_a_frozen_backbone_is_never_in_training_mode(tmp_path, monkeypatch):
    """Its dropout would be noise in what a head learns, that no answer has."""
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.5), torch.nn.Linear(64, 8))
    whole = torch.nn.Sequential(models.OrderedDict(normalize=models.Normalize([0.5], [0.5]), net=network))
    monkeypatch.setattr(learners.layers, "remove_head", lambda net: None)
    learner = learners.Learner(learners.Backbone(whole, 8), (1, 8, 8), 10).train()
    x = torch.rand(4, 1, 8, 8)
    assert learner.training and torch.equal(learner(x), learner(x))
    assert not any(module.training for module in learner.backbone.modules())


MISTAKES = [
    (("--ids", "1433"), "--ids: no image 1433; image numbers run from 0 to 1432"),
    (("--ids", "-1", "2000,3000"), "--ids: no image -1, 2000, 3000; image numbers run from 0 to 1432"),
    (("--ids", "a.png"), "--ids: no image 'a.png': images of digits have no file names; numbers run from 0 to 1432"),
    (("--ids", "{outside}"), "--ids: --subset or --validation has left out its only image"),
    (("--ids", "{gone}", "{id}"), "image {gone} is deleted already: nothing is changed"),
    (
        ("--ids", "{anchor}", "{gone}", "{id}", "{other}"),
        "images {anchor}, {other} are public, known to the backbone or the centres; image {gone} is deleted already",
    ),
    (("--ids-file", "/nowhere"), "--ids-file /nowhere cannot be read (No such file or directory)"),
    (("--class", "thre"), "--class thre: the classes are 0 to 9"),
    ((), "nothing to delete"),
]


@pytest.mark.parametrize(("flags", "message"), MISTAKES, ids=lambda x: x if isinstance(x, str) else "")
def test_a_mistaken_request_changes_nothing(copy, capsys, flags, message):
    folder = copy(lmeraser)
    loaded = full(range(300))
    gone, known = full(private(folder, 2))
    anchor, other = full(read_system(folder)["anchors"][:2])
    words = {
        "id": known,
        "gone": gone,
        "anchor": anchor,
        "other": other,
        "outside": next(i for i in range(1433) if i not in loaded),
    }
    delete(lmeraser, folder, "--ids", gone)
    before = files(folder)
    code, line = one_line(lmeraser, capsys, "delete", folder, *(flag.format(**words) for flag in flags))
    assert code == 2 and message.format(**words) in line
    assert files(folder) == before


@pytest.mark.parametrize("flags", [("--ids-file", "/nowhere"), ()])
def test_a_request_without_its_file_is_found_before_the_data_are_read(systems, backbone, tmp_path, monkeypatch, flags):
    monkeypatch.setattr(Shared, "load", None)
    with pytest.raises(UserError, match="nowhere cannot be read" if flags else "nothing to delete"):
        call(lmeraser, "delete", systems[lmeraser], *flags)
    if flags:
        with pytest.raises(UserError, match="nowhere cannot be read"):
            train(lmeraser, backbone, tmp_path / "new", *flags)


def test_numbers_that_a_small_data_set_has_no_images_for_are_refused_with_some_that_do(
    backbone, tmp_path, capsys, monkeypatch
):
    flags = ("train", *DIGITS, "--backbone", backbone, "--output", tmp_path / "x", "--epochs", 1, "--quiet")
    code, line = one_line(lmeraser, capsys, *flags)
    some = re.search(r"--anchors 1000: there are 300 images to choose from.*: give --anchors (\d+), for instance", line)
    assert code == 2 and int(some[1]) == 60 and line.endswith("no more --parts than anchors")
    with monkeypatch.context() as patch:
        patch.setattr(Shared, "load", None)
        code, line = one_line(lmeraser, capsys, *flags, "--anchors", some[1])
        assert code == 2 and line.endswith(
            "--parts 100: there are 60 anchors, and each part needs one: give more --anchors or fewer --parts"
        )
    assert call(lmeraser, *flags, "--anchors", some[1], "--parts", 2).exists()


@pytest.mark.parametrize("named", ["--ids", "--class"])
def test_a_deletion_given_again_is_there_already(copy, capsys, named):
    folder = copy(lmeraser)
    state = read_system(folder)
    labels = data.load("digits").train.labels
    wanted = [labels[full(private(folder, 1))].item()] if named == "--class" else full(private(folder, 2))
    first = delete(lmeraser, folder, named, *wanted)
    before, _ = files(folder), capsys.readouterr()
    assert delete(lmeraser, folder, named, *wanted) == first
    assert capsys.readouterr().err == f"there already: {folder} without these images\n"
    assert files(folder) == before and len(read_system(folder)["deleted"]) > len(state["deleted"])


def test_a_system_that_cannot_be_written_is_refused_before_it_says_what_it_forgets(copy, capsys, monkeypatch):
    folder = copy(lmeraser)
    before, make = files(folder), tempfile.TemporaryFile

    def read_only(*_, dir, **more):  # root may write whatever the rights say
        if Path(dir) == folder:
            raise OSError(errno.EROFS, "Read-only file system")
        return make(dir=dir, **more)

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    with pytest.raises(UserError, match=r"cannot write into .*: Read-only file system"):
        call(lmeraser, "delete", folder, "--ids", *full(private(folder, 2)))
    assert "forgets" not in capsys.readouterr().err and files(folder) == before


def test_another_backbone_is_refused(systems, copy, tmp_path, capsys):
    folder = copy(lmeraser)
    state = read_system(folder)
    other = tmp_path / "other.pth"
    shutil.copy(state["backbone"]["file"], other)
    with open(other, "ab") as file:
        file.write(b"x")
    state["backbone"]["file"] = str(other)
    write_torch(folder / SYSTEM, state)
    before = files(folder)
    code, line = one_line(lmeraser, capsys, "delete", folder, "--ids", *full([private(folder)[0]]))
    assert code == 2 and "not the file" in line and files(folder) == before


def stop_at(monkeypatch, nth):
    """Have the `nth` learner's training interrupted, once; the list grows by one with every training."""
    calls, fit = [], learning.fit

    def stopping(*arguments, **keywords):
        calls.append(1)
        if len(calls) == nth:
            raise KeyboardInterrupt
        return fit(*arguments, **keywords)

    monkeypatch.setattr(learning, "fit", stopping)
    return calls


def stop_after(monkeypatch, nth, name="part_"):
    """Snapshots after every epoch, of parts of this name, and an interrupt after the `nth`; the list grows by one each."""
    calls, write = [], snapshots.Snapshot.write

    def stopping(snapshot, *arguments):
        if snapshot.path.name.startswith(name):
            write(snapshot, *arguments)
            calls.append(snapshot.path.name)
            if len(calls) == nth:
                raise KeyboardInterrupt

    monkeypatch.setattr(snapshots.Snapshot, "write", stopping)
    monkeypatch.setattr(learning, "PAUSE", 1e-9)
    return calls


def epochs_counted(monkeypatch):
    """A list that grows by one with every epoch of training."""
    calls, epoch = [], training._epoch
    monkeypatch.setattr(training, "_epoch", lambda *arguments: calls.append(1) or epoch(*arguments))
    return calls


def one_of_each(folder):
    """The first private image of each of a system's parts, by its position."""
    state = read_system(folder)
    return [int((state["part"] == k).nonzero()[0]) for k, name in enumerate(state["files"]) if name]


def test_a_failure_half_way_leaves_the_old_state_and_the_next_request_succeeds(copy, monkeypatch):
    """Proof 6, within the process: the second of several parts fails."""
    folder = copy(lmeraser)
    ids, before = private(folder)[::40], learned(folder)
    stop_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        delete(lmeraser, folder, "--ids", *full(ids))
    assert same(learned(folder), before) and read_system(folder)["ledger"] == []
    assert learners.build(assemble(folder))(torch.rand(3, 1, 8, 8)).shape == (3, 10)
    entry = delete(lmeraser, folder, "--ids", *full(ids))
    assert len(entry["parts"]) > 1
    state = read_system(folder)
    assert {file.name for file in folder.glob("part_*")} == {name for name in state["files"] if name}


def test_a_killed_deletion_leaves_the_old_state_or_the_new(backbone, tmp_path):
    """Proof 6, killed once the first new part has been written."""
    folder = train(lmeraser, backbone, tmp_path / "system", "--epochs", 10, "--jobs", 1)
    ids, before = private(folder)[::20], learned(folder)
    request = (lmeraser, "delete", folder, "--quiet", "--jobs", 1, "--ids", *full(ids))
    assert killed_once(lambda: any(folder.glob("part_*_0001.pth")), lambda: call(*request))
    assert same(learned(folder), before) and read_system(folder)["ledger"] == []
    call(*request)
    assert read_system(folder)["ledger"][0]["ids"] == ids


def test_a_killed_training_continues(backbone, systems, tmp_path, monkeypatch):
    calls = stop_at(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        train(lmeraser, backbone, tmp_path / "system")
    assert not (tmp_path / "system").exists()
    train(lmeraser, backbone, tmp_path / "system")
    assert len(calls) == 3 + len(learned(systems[lmeraser])) - 2
    assert same(learned(tmp_path / "system"), learned(systems[lmeraser]))


def test_the_part_in_progress_continues_from_its_last_epoch(backbone, tmp_path, monkeypatch):
    """In a training, and in a deletion, which also finds the parts that it has trained: the bits are those of runs that
    were never stopped, and nothing else is left."""
    few = ("--parts", 2, "--epochs", 4)
    whole = train(sisa, backbone, tmp_path / "whole", *few)
    ids = full(one_of_each(whole))
    folder, before = tmp_path / "system", learned(whole)
    delete(sisa, whole, "--ids", *ids)
    for action, expected in (
        (lambda: train(sisa, backbone, folder, *few), before),
        (lambda: delete(sisa, folder, "--ids", *ids), learned(whole)),
    ):
        with monkeypatch.context() as patch:
            stop_after(
                patch, 5
            )  # three epochs of the first part, after the last of which comes no snapshot, two of the second
            with pytest.raises(KeyboardInterrupt):
                action()
        with monkeypatch.context() as patch:
            done = epochs_counted(patch)
            action()
        assert len(done) == 2 and same(learned(folder), expected)
        assert {file.name for file in folder.iterdir()} == {SYSTEM, *read_system(folder)["files"]}
    assert read_system(folder)["ledger"][0]["steps"] == read_system(whole)["ledger"][0]["steps"]
    assert {file.name for file in tmp_path.iterdir()} == {"whole", "system"}


def test_a_part_that_is_finished_needs_no_snapshot(backbone, tmp_path, monkeypatch):
    """Killed between the two: the snapshot goes, and its seconds aren't counted twice."""
    few = ("--parts", 2, "--epochs", 2)
    with monkeypatch.context() as patch:
        patch.setattr(learning, "PAUSE", 1e-9)
        patch.setattr(storage, "remove", lambda paths: stopped() if [*paths] else None)
        with pytest.raises(KeyboardInterrupt):
            train(sisa, backbone, tmp_path / "system", *few)
    partial = tmp_path / ".system.partial"
    assert files(partial).keys() == {"part_0000_0000.pth", "part_0000_0000.pth.partial"}
    snapshot = partial / "part_0000_0000.pth.partial"
    write_torch(snapshot, read_torch(snapshot) | {"seconds": 5000.0})
    folder = train(sisa, backbone, tmp_path / "system", *few)
    assert files(folder).keys() == {SYSTEM, *read_system(folder)["files"]} and read_system(folder)["cost"]["seconds"] < 5000


@pytest.mark.parametrize("flags", [(), ("--overwrite",)])
def test_nothing_of_anyones_becomes_part_of_a_system(backbone, tmp_path, flags):
    """What lies where it is trained, called like a part or not, is refused before it is trained."""
    place = tmp_path / ".system.partial"
    for name in ("notes.txt", "part_0000_0000.pth", "part_0009_0000.pth", "part_0001_0000.pth.partial", SYSTEM, "folder/x"):
        (place / name).parent.mkdir(parents=True)
        (place / name).write_bytes(b"mine")
        before = files(tmp_path)
        with pytest.raises(UserError, match=r".system.partial/.* is in the way and no part of this system: move it"):
            train(sisa, backbone, tmp_path / "system", *flags)
        assert files(tmp_path) == before
        shutil.rmtree(place)
    (tmp_path / "elsewhere").mkdir()
    place.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is a link, or no folder, where a system is trained"):
        train(sisa, backbone, tmp_path / "system", *flags)
    assert not list((tmp_path / "elsewhere").iterdir())


def stopped():
    raise KeyboardInterrupt


def test_snapshots_of_parts_are_no_more_frequent_than_they_pay(tmp_path):
    """Of epochs of 0.4 seconds one a second, after the third, the fifth and the eighth; of longer ones each. None is written
    for a process that is gone."""
    if not hasattr(os, "fork"):
        pytest.skip("a process can't be doubled here")
    learner, optimizer = torch.nn.Linear(2, 2), torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])

    def written(seconds, **how):
        snapshot, found = storage.PartSnapshot(tmp_path / "x", "key", pause=1.0, **how), []
        for epoch in range(1, 9):
            snapshot.write(learner, optimizer, None, epoch, seconds * epoch)
            found += [epoch] if (tmp_path / "x").exists() else []
            (tmp_path / "x").unlink(missing_ok=True)
        return found

    assert written(0.4) == [3, 5, 8] and written(1.5) == list(range(1, 9))
    child = os.fork()
    if not child:
        written(1.5, parent=2**30)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1 and not (tmp_path / "x").exists()


def test_a_stopped_deletion_has_no_say_in_another(backbone, tmp_path, monkeypatch):
    """What it has trained is of other images: it goes, the unfinished part too; but not by a mistaken request."""
    few = ("--parts", 2, "--epochs", 2)
    folder = train(sisa, backbone, tmp_path / "system", *few)
    first, second = one_of_each(folder)
    part = read_system(folder)["part"]
    others = [next(i for i in private(folder) if part[i] == k and i not in (first, second)) for k in (0, 1)]
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            delete(sisa, folder, "--ids", *full([first, second]))
    begun = {"part_0000_0001.pth", "part_0001_0001.pth.partial"}
    assert begun < files(folder).keys()
    with pytest.raises(UserError, match="no image 5000"):
        delete(sisa, folder, "--ids", 5000)
    train(sisa, backbone, folder, *few)
    assert begun < files(folder).keys()
    with monkeypatch.context() as patch:
        stop_at(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            delete(sisa, folder, "--ids", *full(others))
    assert not begun & files(folder).keys()
    with monkeypatch.context() as patch:  # now with files in the places of others
        stop_after(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            delete(sisa, folder, "--ids", *full([first, second]))
    delete(sisa, folder, "--ids", *full(others))
    without = train(sisa, backbone, tmp_path / "without", *few, "--ids", *full(others))
    assert same(learned(folder), learned(without))
    assert files(folder).keys() == {SYSTEM, "part_0000_0001.pth", "part_0001_0001.pth"}


def test_two_deletions_at_once_are_both_carried_out(backbone, tmp_path):
    """Each waits with its training until the other has come as far, or can't."""
    if not hasattr(os, "fork"):
        pytest.skip("a process can't be doubled here")
    folder = train(sisa, backbone, tmp_path / "system", *TWO)
    ids, fit, children = one_of_each(folder), learning.fit, []
    for number, image in enumerate(ids):
        if not (child := os.fork()):
            try:

                def both(*arguments, number=number, **how):
                    (tmp_path / f"here{number}").touch()
                    until = time.monotonic() + 1
                    while not (tmp_path / f"here{1 - number}").exists() and time.monotonic() < until:
                        time.sleep(0.01)
                    return fit(*arguments, **how)

                learning.fit = both
                delete(sisa, folder, "--ids", *full([image]))
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert sorted(entry["ids"] for entry in read_system(folder)["ledger"]) == [[i] for i in sorted(ids)]
    without = train(sisa, backbone, tmp_path / "without", *TWO, "--ids", *full(ids))
    assert same(learned(folder), learned(without))
    assert files(folder).keys() == {SYSTEM, *read_system(folder)["files"]}


def test_wherever_a_deletion_is_killed_the_next_command_leaves_no_trace_of_the_image(backbone, tmp_path):
    """Be it there already, mistaken, or a training that is there already; what was killed before is given again."""
    few = ("--parts", 1, "--epochs", 1)
    whole = train(sisa, backbone, tmp_path / "whole", *few)
    ids = full(private(whole, 1))
    trained = learned(whole)[0][0].numpy().tobytes()
    expected = learned(train(sisa, backbone, tmp_path / "without", *few, "--ids", *ids))

    def mistaken(folder):
        with pytest.raises(UserError, match="no image 5000"):
            delete(sisa, folder, "--ids", 5000)

    places = set()
    for step in itertools.count():
        killed = shutil.copytree(whole, tmp_path / str(step) / "killed/system").parent
        dead = killed_at(step, lambda folder=killed: delete(sisa, folder / "system", "--ids", *ids))
        committed = bool(read_system(killed / "system")["ledger"])
        commands = [lambda folder: delete(sisa, folder, "--ids", *ids)]
        if committed and dead:
            commands += [mistaken, lambda folder: train(sisa, backbone, folder, *few)]
        for number, command in enumerate(commands):
            folder = shutil.copytree(killed, tmp_path / str(step) / str(number))
            command(folder / "system")
            assert not [name for name, content in files(folder).items() if trained in content]
            assert files(folder).keys() == {f"system/{SYSTEM}", "system/part_0000_0001.pth"}
            assert same(learned(folder / "system"), expected)
        places.add((committed, dead))
        if not dead:
            break
    assert places == {(False, True), (True, True), (True, False)}


def test_an_unfinished_training_that_would_replace_a_system_goes_with_its_deleted_images(backbone, tmp_path, monkeypatch):
    folder = train(sisa, backbone, tmp_path / "system", *TWO)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(sisa, backbone, folder, *TWO, "--lr", 0.1, "--overwrite")
    partial = tmp_path / ".system.partial"
    (partial / "mine.txt").touch()
    assert files(partial).keys() == {"part_0000_0000.pth", "mine.txt"}
    delete(sisa, folder, "--ids", *full(private(folder, 1)))
    assert files(partial).keys() == {"mine.txt"}


def test_no_file_that_is_not_the_systems_is_swept(copy, capsys):
    """Named as no part is, of another number, of another system, no part at all: they stay, and are said."""
    folder = copy(sisa)
    part = read_torch(folder / "part_0000_0000.pth")
    shutil.copy(folder / "part_0000_0000.pth", folder / "part_0000_backup.pth")
    shutil.copy(folder / "part_0000_0000.pth", folder / "part_0009_0000.pth")
    write_torch(folder / "part_0000_0007.pth", part | {"backbone": "0" * 64})
    (folder / "part_0001_0007.pth").write_bytes(b"mine")
    (folder / ".part_0001_0001.pth.7.unlearning-tmp").write_bytes(b"half of a part")
    shutil.copy(folder / "part_0000_0000.pth", folder / "part_0000_0003.pth")  # the system's own
    before, _ = files(folder), capsys.readouterr()
    delete(sisa, folder, "--ids", *full(private(folder, 1)))
    strangers = {"part_0000_backup.pth", "part_0009_0000.pth", "part_0000_0007.pth", "part_0001_0007.pth"}
    assert files(folder).keys() == {SYSTEM, *read_system(folder)["files"], *strangers}
    assert all(files(folder)[name] == before[name] for name in strangers)
    (said,) = capsys.readouterr().err.splitlines()
    assert said == f"left in {folder}, for they aren't files of this system: {', '.join(sorted(strangers))}"
    (hit,) = read_system(folder)["part"][private(folder)[3:4]].tolist()
    (folder / f"part_{hit:04d}_0002.pth").write_bytes(b"mine")
    before = files(folder)
    with pytest.raises(UserError, match=f"part_{hit:04d}_0002.pth is in the way and no part of this system: move it"):
        delete(sisa, folder, "--ids", *full(private(folder)[3:4]))
    assert files(folder) == before


def test_overwriting_replaces_nothing_but_a_system(backbone, copy, tmp_path):
    """No folder in which something else lies, and none that is or holds what the system is made from."""
    folder, foreign = copy(sisa), tmp_path / "foreign"
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    foreign.mkdir()
    torch.save({"weights": torch.ones(3)}, foreign / SYSTEM)
    holds = shutil.copytree(folder, tmp_path / "holds")
    (holds / "notes.txt").unlink()
    own = shutil.copy(backbone, holds / "part_0000_0009.pth")
    whole = shutil.copytree(holds, tmp_path / "whole", ignore=lambda *_: [Path(own).name])
    delete(sisa, whole, "--ids", *full(private(whole, 1)))
    before = files(tmp_path)
    for output, more, message in (
        (folder, (), "isn't replaced: notes.txt in it is no file of that system"),
        (foreign, (), "is not a system"),
        (holds, ("--backbone", own), "isn't replaced: part_0000_0009.pth in it is no file of that system"),
        (whole, ("--ids-file", whole), f"is or holds {whole}, which --ids-file names"),
        (tmp_path / "new", ("--weights", tmp_path / "new/weights"), "which --weights names"),
        (tmp_path / "new", ("--data-dir", tmp_path / "new"), "which --data-dir names"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            train(sisa, backbone, output, *TWO, "--overwrite", *more)
        assert files(tmp_path) == before
    train(sisa, backbone, whole, *TWO, "--overwrite")
    assert read_system(whole)["config"]["parts"] == 2


@pytest.mark.parametrize("flags", [(), ("--overwrite",)], ids=["new", "replaced"])
def test_what_comes_to_a_systems_place_while_it_is_trained_stays(backbone, tmp_path, monkeypatch, flags):
    """And the same command completes the system once that has been moved away."""
    folder, note = tmp_path / "system", tmp_path / "system/notes.txt"
    if flags:
        train(sisa, backbone, folder, *TWO)
    before, trained = learned(folder) if flags else {}, learning.train_parts

    def meanwhile(*arguments):
        folder.mkdir(exist_ok=True)
        note.write_text("mine", encoding="utf-8")
        return trained(*arguments)

    with (
        monkeypatch.context() as patch,
        pytest.raises((RunFailed, UserError), match=r"has come while|isn't replaced: notes"),
    ):
        patch.setattr("unlearning.exact.system.train_parts", meanwhile)
        train(sisa, backbone, folder, *TWO, "--seed", 1, *flags)
    assert note.read_text(encoding="utf-8") == "mine"
    note.unlink()
    if flags:
        assert same(learned(folder), before)
    else:
        folder.rmdir()
    train(sisa, backbone, folder, *TWO, "--seed", 1, *flags)
    assert read_system(folder)["seed"] == 1


SEVERAL = """
import lmeraser
from unlearning.core.flags import main
from unlearning.exact import learning
learning.STARTUP = 0
main(lmeraser.run, lmeraser.parser())
"""


def processes_with(variable):
    """The processes that have inherited an environment variable, by number."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            found += [path.parent.name] if variable.encode() in path.read_bytes() else []
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found by /proc")
def test_sigterm_ends_several_processes_in_one_line(backbone, tmp_path, monkeypatch):
    monkeypatch.setenv("UNLEARNING_TEST", str(tmp_path))
    partial = tmp_path / ".system.partial"
    flags = (*DIGITS, *SMALL, "--epochs", 400, "--jobs", 2, "--backbone", backbone, "--output", tmp_path / "system")
    begun = shell(
        *("-c", SEVERAL, *latest(("train", *flags))),
        kill_when=lambda: len(list(partial.glob("part_*.pth.partial"))) > 1,
        by=signal.SIGTERM,
    )
    assert begun.returncode == 143 and begun.stderr.endswith(": stopped; the same command continues\n")
    assert begun.stderr.count("\n") == 1
    until = time.monotonic() + 10
    while left := processes_with(f"UNLEARNING_TEST={tmp_path}"):
        assert time.monotonic() < until, left
        time.sleep(0.1)
    assert [path.name for path in tmp_path.iterdir()] == [".system.partial"]
    assert not list(partial.glob(".*"))


def test_a_learner_is_made_where_its_backbone_is(backbone):
    """Meta tensors are of another device than the CPU, as a GPU's."""
    content = read_torch(backbone)
    learner = learners.Learner(load_backbone(content, backbone, "meta"), [1, 8, 8], 10)
    assert learner.prompt.shape == (learner.frame.numbers,)


@pytest.mark.parametrize(("dataset", "message"), [("cifar10", "has 3 x 32 x 32"), ("fashion-mnist", "has 1 x 28 x 28")])
def test_a_backbone_for_images_of_another_shape_is_refused(backbone, tmp_path, monkeypatch, dataset, message):
    like = data.load("digits", subset=300)
    images = torch.zeros(300, *((3, 32, 32) if dataset == "cifar10" else (1, 28, 28)), dtype=torch.uint8)
    other = replace(like, tag=dataset, train=data.Split(images, like.train.labels))
    monkeypatch.setattr(Shared, "load", lambda *_: other)
    with pytest.raises(UserError, match=f"is for images of 1 x 8 x 8 .* and {dataset} {message}"):
        train(lmeraser, backbone, tmp_path / "system")
    assert list(tmp_path.iterdir()) == []


def test_the_papers_frame():
    """Proof 5: 30 wide on 224 x 224 x 3 is 69,840 numbers around a zero centre."""
    frame = learners.Frame((3, 224, 224))
    assert frame.numbers == 69_840
    prompts = torch.arange(1.0, 2 * 69_840 + 1).view(2, -1)
    images = frame(prompts)
    assert (images[:, :, 30:-30, 30:-30] == 0).all() and (images != 0).sum() == 2 * 69_840
    assert torch.equal(images[1][frame.border], prompts[1])


def test_a_learner_is_trained_by_the_papers_recipe(backbone, tmp_path, monkeypatch):
    """SGD with momentum 0.9, two rates, decay of the prompt alone, a warm-up over a fifth of the steps and a cosine, cropped
    images; each part has its own seed, and all have one start, of which the prompt is N(0, 1)."""
    asked = []

    def fit(learner, split, optimizer, **policy):
        asked.append((learner, split, optimizer, policy))
        return {"steps": 0, "seconds": 0.0, "memory_mib": 0.0}

    monkeypatch.setattr(learning, "fit", fit)
    network = load_backbone(models.load_checkpoint(backbone), backbone, "cpu")
    images = data.load("digits", subset=300).train.take(slice(50))
    flags = {"seed": 2, "epochs": 5, "batch_size": 8, "lr": 0.25, "head_lr": 0.125, "parts": 9}
    work = learning.Work(Settings(flags), FP32)
    for number, flip in ((4, False), (7, True)):
        learning.learn(learning.Part(network, number, images, flip, [1, 8, 8], 10, work))
    starts = []
    for (learner, split, optimizer, policy), seed, augment in zip(
        asked, (200_010, 200_013), (data.random_crop, data.crop_and_flip), strict=True
    ):
        assert type(optimizer) is torch.optim.SGD and torch.equal(split.images, images.images)
        prompt, head = optimizer.param_groups
        assert prompt["params"] == [learner.prompt] and {*head["params"]} == {*learner.head.parameters()}
        assert [(g["initial_lr"], g["weight_decay"]) for g in (prompt, head)] == [(0.25, 1e-4), (0.125, 0.0)]
        assert all((g["momentum"], g["nesterov"], g["dampening"]) == (0.9, False, 0) for g in (prompt, head))
        rates = [rate(step) for rate in policy["scheduler"].lr_lambdas[:1] for step in range(36)]  # 5 epochs of 7 batches
        expected = [step / 7 for step in range(7)] + [(1 + np.cos(np.pi * step / 28)) / 2 for step in range(29)]
        assert rates == pytest.approx(expected)
        assert (policy["epochs"], policy["batch_size"], policy["seed"]) == (5, 8, seed)
        assert not any(module.training for module in learner.train().backbone.modules())
        assert policy["augment"] is augment and policy.keys().isdisjoint(("mixup", "clip"))
        starts.append([learner.prompt, learner.head.weight, learner.head.bias])
    assert all(torch.equal(a, b) for a, b in zip(*starts, strict=True))
    prompts = torch.cat([learners.Learner(network, [1, 8, 8], 10).prompt.detach() for _ in range(200)])
    assert abs(prompts.mean()) < 0.05 and abs(prompts.std() - 1) < 0.05


def test_shards_are_drawn_alike_in_size_by_the_seed_alone():
    def shards(seed, parts=7, fill=0.0):
        features = torch.full((100, 2), fill)
        part, centres = sisa.split(features, None, None, Settings({"seed": seed, "parts": parts}))
        assert centres is None
        return part

    sizes = shards(0).bincount()
    assert len(sizes) == 7 and sizes.max() - sizes.min() == 1
    assert torch.equal(shards(0), shards(0, fill=5.0)) and not torch.equal(shards(0), shards(1))
    assert not torch.equal(shards(0), torch.arange(100) % 7)


@pytest.mark.parametrize(("linkage", "expected"), [("average", (0, 0, 0, 1)), ("complete", (0, 0, 1, 1))])
def test_images_belong_to_the_nearest_mean_of_clustered_anchors(linkage, expected):
    """Anchors at 0, 2, 4.9 and 9 on a line: from 0 and 2 the third is 3.9 on average, 4.9 at most, and 4.1 from the last."""
    features = torch.tensor([[4.9], [0.0], [4.0], [2.0], [9.0], [7.0], [-3.0]])
    anchors = torch.tensor([1, 3, 0, 4])
    part, centres = lmeraser.split(features, None, anchors, Settings({"parts": 2, "linkage": linkage}))
    places = torch.tensor([0.0, 2.0, 4.9, 9.0])
    groups = [places[[i for i, k in enumerate(expected) if k == group]].mean() for group in (0, 1)]
    assert sorted(centres.flatten().tolist()) == pytest.approx(sorted(x.item() for x in groups))
    nearest = (features - centres.flatten()).abs().argmin(1)
    assert torch.equal(part, nearest) and len(part.unique()) == 2


@pytest.mark.parametrize("script", [lmeraser, sisa])
def test_the_assembled_network_is_its_learners(systems, backbone, script):
    """Routed: each image gets the answer of its centre's learner alone. Voting: the class with most votes."""
    folder = systems[script]
    model, state = learners.build(assemble(folder)), read_system(folder)
    x = data.load("digits", subset=300).test.images[:40].float() / 255
    network = load_backbone(models.load_checkpoint(backbone), backbone, "cpu")
    answers = {}
    with torch.no_grad():
        for k, (prompt, weight, bias, _) in learned(folder).items():
            learner = learners.Learner(network, state["shape"], 10)
            learner.prompt.data, learner.head.weight.data, learner.head.bias.data = prompt, weight, bias
            answers[k] = learner.eval()(x)
        if script is lmeraser:
            there = list(answers)
            nearest = torch.cdist(network(x), state["centres"][there]).argmin(1)
            expected = torch.stack([answers[there[k]][i] for i, k in enumerate(nearest)])
            assert len(set(nearest.tolist())) > 1
            torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
        else:
            votes = torch.stack([answer.argmax(1) for answer in answers.values()])
            most = votes.mode(0).values
            counts = torch.stack([(votes == label).sum(0) for label in range(10)], 1)
            clear = counts.sort(1).values[:, -1] > counts.sort(1).values[:, -2]
            assert clear.any() and torch.equal(model(x).argmax(1)[clear], most[clear])


def test_evaluate_scores_a_system_like_any_checkpoint(copy, capsys):
    folder = copy(lmeraser)
    three = private(folder)[:3]
    delete(lmeraser, folder, "--ids", *full(three))
    (row,) = rows_of(folder, "--weights", folder.parent, "--precision", "fp32")  # the untrained answers nearly tie
    assert (row["model"], row["method"], row["n"]) == ("resnet8, prompted", "lmeraser", 1)
    assert row["metrics"]["UA"]["mean"] == pytest.approx(errors_on(folder, three))
    assert row["metrics"]["gap"]["missing"].startswith("distances: lmeraser deletes exactly")


def test_a_system_that_votes_is_scored_beneath_its_heads(copy):
    """Its features are the mean over its shards' learners, whichever image."""
    folder = copy(sisa)
    delete(sisa, folder, "--class", 3)
    (row,) = rows_of(folder, "--weights", folder.parent)
    assert 0 <= row["metrics"]["probe"]["mean"] <= 100
    model = learners.build(assemble(folder))
    images = data.load("digits", subset=300).train.take(slice(7))
    found = penultimate(model, images, FP32)
    with torch.no_grad():
        x = images.images.float() / 255
        each = [model.backbone(x, model.frame(prompt.expand(7, -1))) for prompt in model.prompts]
    torch.testing.assert_close(found, torch.stack(each).mean(0), atol=1e-5, rtol=1e-4)
    assert (each[0] - each[1]).abs().max() > 1e-3


def errors_on(folder, ids):
    """UA of a system on training images by number."""
    model, dataset = learners.build(assemble(folder)), data.load("digits", subset=300)
    with torch.no_grad():
        hits = model(dataset.train.images[ids].float() / 255).argmax(1) == dataset.train.labels[ids]
    return 100 * (1 - hits.double().mean().item())


def test_systems_scored_together_are_asked_about_the_same_images(backbone, copy, systems, tmp_path, capsys):
    """Image numbers are those of the training images, whatever each system holds of them."""
    ids = private(systems[lmeraser])[40:60]
    folder = copy(lmeraser)
    delete(lmeraser, folder, "--ids", *full(ids))
    untouched = systems[lmeraser]
    wide = train(lmeraser, backbone, tmp_path / "wide", "--anchors", 30)  # more images are private to it
    delete(lmeraser, wide, "--ids", *full(ids))
    rows = rows_of(folder, untouched, wide, "--weights", tmp_path / "nowhere", beneath=False)
    found = {(row["dataset"], row["metrics"]["UA"]["mean"]) for row in rows}
    assert {name for name, _ in found} == {"digits-300, 240 private", "digits-300, 270 private"}
    expected = [errors_on(system, ids) for system in (folder, untouched, wide)]
    assert sorted(value for _, value in found) == pytest.approx(sorted(expected))
    file = tmp_path / "ids.txt"
    file.write_text("\n".join(map(str, full(ids))), encoding="utf-8")
    (row,) = rows_of(untouched, "--forget-file", file, "--weights", tmp_path / "nowhere", beneath=False)
    assert row["metrics"]["UA"]["mean"] == pytest.approx(errors_on(untouched, ids))
    (row,) = rows_of(untouched, "--forget-class", 3, "--weights", tmp_path / "nowhere", beneath=False)
    assert row["metrics"]["gap"]["missing"].endswith("resnet8, prompted, which lmeraser's deletion of these images would be")
    labels = data.load("digits", subset=300).train.labels
    threes = [i for i in private(untouched) if labels[i] == 3]
    assert row["forget"] == "class3" and row["metrics"]["UA"]["mean"] == pytest.approx(errors_on(untouched, threes))
    public = next(i for i in range(300) if i not in private(untouched))
    (number,) = full([public])
    file.write_text(str(number), encoding="utf-8")
    code, line = one_line(evaluate, capsys, untouched, "--forget-file", file)
    assert code == 2 and f"image {number} is public" in line and number != public


def test_systems_on_other_backbones_and_images_lie_side_by_side(weights, tmp_path, capsys):
    """Their names say what they are trained from; the same request in other words is there already."""
    common = ("--dataset", "digits", "--model", "resnet8", "--epochs", 1, "--quiet", "--weights", tmp_path)
    halves = [call(retrain, *common, "--forget-random", share) for share in (0.5, 0.6)]
    flags = ("--dataset", "digits", "--parts", 3, "--anchors", 50, "--epochs", 1, "--quiet", "--weights", tmp_path)
    folders = [call(sisa, "train", *flags, "--backbone", half) for half in halves]
    assert folders[0].name == "digits_resnet8_sisa3-anchors-50-epochs-1-from-random0.5_retrain1_s0"
    folders[0] = folders[0].rename(tmp_path / f"{folders[0].name}_s0")  # as earlier versions called it
    assert call(sisa, "train", *flags, "--backbone", halves[0]) == folders[0]
    rows = rows_of(*folders, "--forget-class", 3, "--weights", tmp_path / "nowhere", beneath=False)
    assert [row["n"] for row in rows] == [1, 1] and len({row["dataset"] for row in rows}) == 2
    some = private(folders[0])[:2]
    without = call(sisa, "train", *flags, "--backbone", halves[0], "--ids", *some)
    assert "-without-file" in without.name and without not in folders
    (tmp_path / "ids.txt").write_text("\n".join(map(str, reversed(some))), encoding="utf-8")
    capsys.readouterr()
    assert call(sisa, "train", *flags, "--backbone", halves[0], "--ids-file", tmp_path / "ids.txt") == without
    delete(sisa, without, "--ids", private(without)[5])
    assert call(sisa, "train", *flags, "--backbone", halves[0], "--ids", *some) == without
    assert capsys.readouterr().err.count("there already") == 2


def test_a_system_is_scored_on_its_own_backbone_alone(tmp_path, capsys):
    path = random_backbone(tmp_path / "backbone.pth")
    folder = train(sisa, path, tmp_path / "system", "--epochs", 1)
    random_backbone(path, seed=1)
    code, line = one_line(evaluate, capsys, folder, "--forget-class", 3)
    assert code == 2 and "not the file" in line


def test_systems_of_earlier_versions_are_told_apart_by_their_backbones(weights, tmp_path):
    common = ("--dataset", "digits", "--model", "resnet8", "--quiet", "--weights", tmp_path, "--forget-random", 0.5)
    flags = ("--dataset", "digits", "--parts", 3, "--anchors", 50, "--epochs", 1, "--quiet")
    folders = []
    for seed, epochs in enumerate((1, 2)):
        half = call(retrain, *common, "--epochs", epochs)
        folders.append(call(sisa, "train", *flags, "--backbone", half, "--seed", seed, "--output", tmp_path / f"old{seed}"))
        state = read_torch(folders[-1] / SYSTEM)
        del state["own"], state["flags"]
        write_torch(folders[-1] / SYSTEM, state)
    rows = rows_of(*folders, "--forget-class", 3, "--weights", tmp_path / "nowhere", beneath=False)
    assert [row["n"] for row in rows] == [1, 1] and len({row["method"] for row in rows}) == 2


def test_deleted_images_look_like_strangers(backbone, tmp_path, monkeypatch):
    """Proof 7: an attack on the loss tells deleted images from test images no better than a coin, kept ones much better."""
    monkeypatch.setattr(data, "random_crop", lambda images: images)  # so that a hundred images are learned by heart
    flags = ("--parts", 1, "--anchors", 200, "--epochs", 100, "--lr", 0.1, "--head-lr", 2)
    folder = train(lmeraser, backbone, tmp_path / "system", *flags)
    dataset = data.load("digits", subset=300)
    ids, kept = private(folder)[1::2], private(folder)[::2]
    delete(lmeraser, folder, "--ids", *full(ids))
    model = learners.build(assemble(folder))
    with torch.no_grad():
        train_loss = predictions.loss(model(dataset.train.images.float() / 255), dataset.train.labels)
        test_loss = predictions.loss(model(dataset.test.images.float() / 255), dataset.test.labels)
    areas = [membership.tell_apart(train_loss[rows], test_loss)[0] for rows in (ids, kept)]
    half = 1.96 * 100 * np.sqrt((1 / len(ids) + 1 / len(test_loss)) / 12)  # the interval of an AUC of 50
    assert abs(areas[0] - 50) < 1.5 * half and areas[1] > 50 + 2 * half


def test_a_backbone_that_has_seen_everything_is_refused(weights, tmp_path, capsys):
    original = weights / "digits_resnet8_original_s0.pth"
    code, line = one_line(
        lmeraser, capsys, "train", "--dataset", "digits", "--backbone", original, "--output", tmp_path / "x"
    )
    assert code == 2 and "none is private" in line and not (tmp_path / "x").exists()


@pytest.mark.parametrize("method", ["finetune2", "lora2", "loraprune2", "mask2"])
def test_a_backbone_that_was_unlearned_is_refused(weights, tmp_path, capsys, method):
    """Its original has been trained on the images that it forgot."""
    path = weights / f"digits_resnet8_class3_{method}_s0.pth"
    code, line = one_line(lmeraser, capsys, "train", "--dataset", "digits", "--backbone", path, "--output", tmp_path / "x")
    assert code == 2 and "so none is private" in line and not (tmp_path / "x").exists()


def test_a_backbone_normalised_by_private_images_is_refused(tmp_path, capsys):
    """As earlier versions trained a Retrain: its constants came from all training images, and its settings name none."""
    common = ("--dataset", "digits", "--subset", 300, "--model", "resnet8", "--epochs", 1, "--quiet", "--weights", tmp_path)
    path = call(retrain, *common, "--forget-random", 0.5)
    content = models.load_checkpoint(path)
    del content["config"]["mean"], content["config"]["std"]
    content["network"]["arguments"]["mean"] = [0.3049]
    write_torch(path, content)
    small = ("--parts", 3, "--anchors", 50, "--epochs", 1, "--quiet")
    flags = ("train", *DIGITS, "--backbone", path, *small, "--output", tmp_path / "system")
    code, line = one_line(lmeraser, capsys, *flags)
    assert code == 2 and "normalised by all images" in line and not (tmp_path / "system").exists()
    content["network"]["arguments"]["mean"] = [0.5]  # today's constant, whoever recorded it
    write_torch(path, content)
    assert call(lmeraser, *flags).exists()


def test_a_backbone_of_the_public_half_makes_the_other_half_private(weights, tmp_path):
    common = ("--dataset", "digits", "--model", "resnet8", "--epochs", 1, "--quiet", "--weights", tmp_path)
    half = call(retrain, *common, "--forget-random", 0.5)
    folder = tmp_path / "system"
    flags = ("--dataset", "digits", "--backbone", half, "--parts", 3, "--anchors", 50, "--epochs", 1, "--quiet")
    call(lmeraser, "train", *flags, "--output", folder)
    state = read_system(folder)
    assert torch.equal(state["private"], models.load_checkpoint(half)["forget"])
    assert not set(state["anchors"].tolist()) & set(state["private"].tolist())


def test_show_prints_the_ledger(copy, capsys):
    folder = copy(sisa)
    delete(sisa, folder, "--ids", *full(private(folder, 1)))
    call(sisa, "show", folder)
    text = capsys.readouterr().out
    assert text.startswith(f"{folder}\n")  # of the deletion, which is quiet
    assert "sisa: 6 parts of" in text and "1 images, 1 parts hit: what is left of them trained again in " in text
    state = read_system(folder)
    assert str(Path(state["backbone"]["file"])) in text
    shown = text[text.rindex("sisa: 6 parts") :].splitlines()
    held = [full((state["part"] == k).nonzero().squeeze(1)) for k in range(6)]  # numbers in the full set, not in the subset
    more = [f" and {len(some) - 10} more" if len(some) > 10 else "" for some in held]
    parts = [f"part {k}: {len(held[k])} images: {', '.join(map(str, held[k][:10]))}{more[k]}" for k in range(6)]
    assert shown[2:8] == parts and "part " not in text[: text.rindex("sisa: 6 parts")].replace("parts", "")
    del state["numbers"]  # as earlier versions wrote it
    write_torch(folder / SYSTEM, state)
    call(sisa, "show", folder)
    assert f"part 0: {len(held[0])} images\n" in capsys.readouterr().out


@pytest.mark.parametrize("script", [lmeraser, sisa])
def test_a_full_disk_at_any_file_of_a_deletion_leaves_the_old_system_with_all_its_files(copy, script):
    """What belongs to the old state is swept only after the new one is written, last."""
    folder = copy(script)
    before, answer, ids = files(folder), learned(folder), private(folder)[::80]
    parts = len(read_system(folder)["part"][ids].unique())
    for nth, last in [(1, "part_"), *[(2, "part_")] * (parts - 1), (2, SYSTEM)]:  # a part that was written is there already
        with full_disk(nth) as written, pytest.raises(RunFailed, match=f"cannot write .*{last}.*No space left"):
            delete(script, folder, "--ids", *full(ids))
        assert len(written) == nth and same(learned(folder), answer)
        assert all(files(folder)[name] == content for name, content in before.items())
        assert models_answer(folder).shape == (3, 10)
    delete(script, folder, "--ids", *full(ids))
    assert len(files(folder)) == 1 + len(learned(folder))


def test_a_full_disk_at_any_file_of_a_training_leaves_the_old_system(backbone, tmp_path, monkeypatch):
    """With --overwrite, the rename at its end included; the same command then continues."""
    small = ("--parts", 2, "--epochs", 1)
    folder = train(sisa, backbone, tmp_path / "system", *small)
    before, again = files(folder), (*small, "--lr", 0.1, "--overwrite")
    for nth, name in ((1, "part_"), (2, "part_"), (2, SYSTEM)):  # a part that was written is there already
        with full_disk(nth), pytest.raises(RunFailed, match=f"cannot write .*{name}.*No space left"):
            train(sisa, backbone, folder, *again)
        assert files(folder) == before
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda part, path: renamed(part, path) if not takes_place(part, path) else no_room())
        with pytest.raises(RunFailed, match="No space left"):
            train(sisa, backbone, folder, *again)
    assert files(folder) == before and models_answer(folder).shape == (3, 10)
    train(sisa, backbone, folder, *again)
    assert read_system(folder)["config"]["lr"] == 0.1 and [path.name for path in tmp_path.iterdir()] == ["system"]


renamed = os.rename


def takes_place(part, path):
    return path.name == "system" and part.suffix == ".unlearning-tmp"


def no_room():
    raise OSError(28, "No space left on device")


def models_answer(folder):
    return learners.build(assemble(folder))(torch.rand(3, 1, 8, 8))


def test_images_are_not_deleted_by_number_from_other_data(copy, capsys):
    folder = copy(lmeraser)
    state = read_system(folder)
    state["data"]["fingerprint"] = "0" * 64
    write_torch(folder / SYSTEM, state)
    before = files(folder)
    code, line = one_line(lmeraser, capsys, "delete", folder, "--ids", *full([private(folder)[0]]))
    assert code == 2 and "but other pixels or labels" in line and files(folder) == before


def test_a_system_of_ones_own_images(tmp_path, capsys, monkeypatch):
    """Mirrored in training unless --no-flip; its images may move, and what answers says its classes' names."""
    classes, flipped, flip = ("ant", "bee", "cat"), [], data.random_flip
    monkeypatch.setattr(data, "random_flip", lambda images: flipped.append(len(images)) or flip(images))
    folder_of_images(tmp_path / "old", classes=classes)
    torch.manual_seed(0)
    model, arguments = models.create_for("resnet8", data.load(f"folder:{tmp_path / 'old'}", img_size=8))
    write_backbone(tmp_path / "backbone.pth", model, {"name": "resnet8", "arguments": arguments})
    flags = ("--dataset", f"folder:{tmp_path / 'old'}", "--img-size", 8, "--backbone", tmp_path / "backbone.pth")
    flags += ("--parts", 2, "--anchors", 3, "--epochs", 1, "--jobs", 1, "--quiet", "--output")
    call(sisa, "train", *flags, tmp_path / "flipped")
    assert flipped and assemble(tmp_path / "flipped")["classes"] == list(classes)
    flipped.clear()
    folder = call(sisa, "train", *flags, tmp_path / "system", "--no-flip")
    assert assemble(folder)["config"]["no_flip"] is True
    public, state = read_system(folder)["anchors"], read_system(folder)
    names = sorted(f"{path.parent.name}/{path.name}" for path in (tmp_path / "old" / "train").glob("*/*"))
    code, line = one_line(sisa, capsys, "delete", folder, "--ids", *(names[i] for i in public), "--quiet")
    assert code == 2 and f"images {', '.join(f'train/{names[i]}' for i in public.tolist())} are public" in line
    capsys.readouterr()
    call(sisa, "show", folder)
    holds = {k: [names[i] for i, part in enumerate(state["part"].tolist()) if part == k] for k in (0, 1)}
    lines = [f"part {k}: {len(some)} image{'s' * (len(some) > 1)}: {', '.join(some)}" for k, some in holds.items()]
    assert lines == [line for line in capsys.readouterr().out.splitlines() if line.startswith("part ")]
    (tmp_path / "old").rename(tmp_path / "new")
    code, line = one_line(sisa, capsys, "delete", folder, "--ids", private(folder)[0], "--quiet")
    assert code == 2 and "there is no folder" in line
    delete(sisa, folder, "--ids", private(folder)[0], "--dataset", f"folder:{tmp_path / 'new'}")
    assert not flipped and len(read_system(folder)["deleted"]) == 1
    left = [i for i in private(folder) if i not in read_system(folder)["deleted"]]
    one, other, third = left[:3]
    where = ("--dataset", f"folder:{tmp_path / 'new'}")
    entry = delete(sisa, folder, *where, "--ids", names[one], f"{names[other][:-4]}*", third)
    assert {one, other, third} <= set(entry["ids"])  # a name, a pattern and a number, in one request


TINY_VIT = {
    "model_type": "vit",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
}
TINY_VIT |= {"image_size": 32, "patch_size": 8, "num_channels": 3, "num_labels": 3}


SQUEEZENET = ("torchvision:squeezenet1_1", "net.classifier.1", {})  # its head is a convolution, with layers behind it
SHUFFLENET = ("torchvision:shufflenet_v2_x0_5", "net.fc", {})


@pytest.mark.parametrize(
    ("script", "name", "head", "further"),
    [
        pytest.param(lmeraser, *SQUEEZENET, marks=pytest.mark.slow),
        pytest.param(sisa, *SQUEEZENET, marks=pytest.mark.slow),
        pytest.param(lmeraser, *SHUFFLENET, marks=pytest.mark.slow),
        pytest.param(sisa, *SHUFFLENET, marks=pytest.mark.slow),
        (lmeraser, "hf:vit", "net.classifier", {"config": TINY_VIT}),
        (sisa, "hf:vit", "net.classifier", {"config": TINY_VIT}),
    ],
)
def test_a_backbone_of_another_library_is_taken_without_its_head(tmp_path, script, name, head, further):
    folder_of_images(tmp_path / "some", size=32, classes=("ant", "bee", "cat"))
    source = f"folder:{tmp_path / 'some'}"
    torch.manual_seed(0)
    model, arguments = models.create_for(name, data.load(source, img_size=32), **further)
    write_backbone(tmp_path / "backbone.pth", model, {"name": name, "arguments": arguments})
    flags = ("train", "--dataset", source, "--backbone", tmp_path / "backbone.pth", "--parts", 2, "--anchors", 3)
    folder = call(script, *flags, "--epochs", 1, "--jobs", 1, "--quiet", "--output", tmp_path / "system")
    heard = []
    model.get_submodule(head).register_forward_hook(lambda module, inputs, output: heard.append((inputs[0], output)))
    x = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        model.eval()(x)
        taken, logits = heard[0]
        if logits.ndim == 4:  # squeezenet's
            taken = taken.relu().mean((2, 3))
        backbone = learners.build(assemble(folder)).backbone
        torch.testing.assert_close(backbone(x), taken, atol=1e-5, rtol=1e-4)
    one = private(folder)[0]
    assert delete(script, folder, "--ids", one)["ids"] == [one]
    assert rows_of(folder, "--weights", tmp_path)[0]["model"] == f"{name}, prompted"


def test_the_head_that_a_checkpoint_names_is_taken_off_everywhere(tmp_path):
    """Here both linear layers of the classifier, and then the first alone, behind which the second can't follow."""
    folder_of_images(tmp_path / "some", size=32, classes=("ant", "bee", "cat"))
    dataset = data.load(f"folder:{tmp_path / 'some'}", img_size=32)
    model, arguments = models.create_for("torchvision:mobilenet_v3_small", dataset)
    network = {"name": "torchvision:mobilenet_v3_small", "arguments": arguments}
    write_backbone(tmp_path / "b.pth", model, network | {"layers": {"head": ["net.classifier.0", "net.classifier.3"]}})
    flags = ("train", "--dataset", f"folder:{tmp_path / 'some'}", "--backbone", tmp_path / "b.pth", "--parts", 1)
    folder = call(lmeraser, *flags, "--anchors", 3, "--epochs", 1, "--quiet", "--output", tmp_path / "system")
    assert learners.build(assemble(folder)).backbone.features == 576  # 1024 without the second alone
    content = models.load_checkpoint(tmp_path / "b.pth")
    content["network"]["layers"]["head"] = ["net.classifier.0"]
    with pytest.raises(UserError, match="MobileNetV3 gives no row of features for each image once its head is taken off"):
        load_backbone(content, tmp_path / "b.pth", "cpu")


BACKBONES = [
    ("{weights}/own.pth", "own.pth holds a network of your own (my_net.py:make), which no backbone can be"),
    ("{weights}/bare.pth", "bare.pth is no checkpoint of this project, so it isn't known which images it has seen"),
    ("{weights}/bare.safetensors", "bare.safetensors is no checkpoint of this project, so it isn't known"),
    ("{weights}", "is no checkpoint of this project, so it isn't known"),
    ("my_net.py:make", "--backbone my_net.py:make: there are no ImageNet weights for it"),
    ("torchvision:resnet18", "--backbone torchvision:resnet18: there are no ImageNet weights for it"),
    ("resnet20", "--backbone resnet20: there are no ImageNet weights for it"),
]


@pytest.mark.parametrize("script", [lmeraser, sisa])
@pytest.mark.parametrize(("name", "message"), BACKBONES, ids=[name for name, _ in BACKBONES])
def test_what_is_no_backbone_is_said_with_what_is_one(backbone, tmp_path, capsys, monkeypatch, script, name, message):
    """Before the data are read; it names no flag that the script lacks."""
    content = read_torch(backbone)
    write_torch(tmp_path / "bare.pth", content["state_dict"])
    (tmp_path / "bare.safetensors").write_bytes(b"anything")
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    content["network"]["name"] = "my_net.py:make"
    write_torch(tmp_path / "own.pth", content)
    monkeypatch.setattr(Shared, "load", None)
    where = ("--output", tmp_path / "x", "--weights", tmp_path / "w")
    code, line = one_line(script, capsys, "train", *DIGITS, "--backbone", name.format(weights=tmp_path), *where)
    assert code == 2 and message in line
    assert line.endswith("a timm name, for its ImageNet weights, or a checkpoint of retrain.py of any network but your own")
    assert "--model" not in line and "--pretrained" not in line
    assert not (tmp_path / "x").exists() and not (tmp_path / "w").exists()


def test_identity_says_what_a_system_is(backbone, systems, copy, tmp_path):
    """Linkage, backbone and what is deleted make another one, a seed doesn't."""

    def known(folder):
        return assemble(folder)["identity"]

    usual = known(systems[lmeraser])
    assert known(train(lmeraser, backbone, tmp_path / "seed", "--seed", 1)) == usual
    ward = train(lmeraser, backbone, tmp_path / "ward", "--linkage", "ward")
    assert known(ward) != usual and assemble(ward)["flags"]["--linkage"] == "ward"
    folder = copy(lmeraser)
    gone = private(folder, 2)
    delete(lmeraser, folder, "--ids", *full(gone))
    assert known(folder) != usual
    assert known(folder) == known(train(lmeraser, backbone, tmp_path / "without", "--ids", *full(gone)))
    other = tmp_path / "other.pth"
    content = models.load_checkpoint(backbone) | {"method": "retrain"}
    write_torch(other, content)
    assert known(train(lmeraser, other, tmp_path / "other"))["parent"] != usual["parent"]
    network = random_backbone(tmp_path / "network.pth", "resnet20")  # such a file records no settings, but its network
    assert known(train(lmeraser, network, tmp_path / "network", "--epochs", 1))["parent"] != usual["parent"]


def test_a_finished_system_is_there_already_and_another_is_refused(backbone, copy, capsys):
    folder = copy(lmeraser)
    before = files(folder)
    capsys.readouterr()
    train(lmeraser, backbone, folder)
    assert f"there already: {folder}" in capsys.readouterr().err and files(folder) == before
    arguments = ("train", *DIGITS, "--backbone", backbone, "--output", folder)
    circumstances = {"help", "data_dir", "device", "weights", "output", "overwrite", "quiet", "jobs", "list_classes"}
    given = {"dataset", "backbone", "subset", "parts", "anchors", "epochs", "batch_size"}
    elsewhere = circumstances | given | {"img_size", "test_subset", "ids", "ids_file", "forget_class"}
    elsewhere |= {"head", "nearest"}  # no other value of these stands alone
    elsewhere |= {"input_size"}  # a checkpoint says it itself
    others = [changed(flag) for flag in lmeraser.commands()[1]._actions if flag.dest not in elsewhere]
    assert {flag for flag, *_ in others} > {"--lr", "--head-lr", "--linkage", "--seed", "--precision"}
    others += [("--parts", 5), ("--anchors", 61), ("--epochs", 2), ("--batch-size", 8), ("--subset", 310)]
    closed = ("--start", "public", "--head", "ridge")
    others += [closed, (*closed, "--nearest", 2)]
    others += [("--test-subset", 50), ("--ids", *full([private(folder)[0]])), ("--class", 3)]
    for other in others:
        code, line = one_line(lmeraser, capsys, *latest((*arguments, *sized(other))))
        assert code == 2 and "was made " in line and files(folder) == before, (other, line)


def test_a_killed_training_takes_up_its_own_parts_alone(backbone, systems, tmp_path, monkeypatch):
    """Not those of another backbone, of other data, of other settings or of other images."""
    partial = shutil.copytree(systems[lmeraser], tmp_path / ".system.partial")
    (partial / SYSTEM).unlink()
    for file, field in zip(sorted(partial.iterdir()), ("backbone", "data", "config", "members"), strict=False):
        part = read_torch(file)
        other = {
            "backbone": "0" * 64,
            "data": "0" * 64,
            "config": part["config"] | {"lr": 0.1},
            "members": part["members"] + 1,
        }
        write_torch(file, part | {field: other[field], "prompt": part["prompt"] + 1})
    write_torch(partial / "part_0050_0000.pth", part | {"part": 50})
    calls, before = stop_at(monkeypatch, 0), files(partial)
    with pytest.raises(UserError, match=r"part_0000_0000.pth is of an unfinished training with other .*give --overwrite"):
        train(lmeraser, backbone, tmp_path / "system")
    assert files(partial) == before and not calls
    folder = train(lmeraser, backbone, tmp_path / "system", "--overwrite")
    assert same(learned(folder), learned(systems[lmeraser])) and files(folder).keys() == files(systems[lmeraser]).keys()
    assert len(calls) == 4 < len(learned(systems[lmeraser]))


@pytest.mark.parametrize("script", [lmeraser, sisa])
def test_parts_have_one_start_and_batches_of_their_own_and_seeds_have_others(backbone, tmp_path, monkeypatch, script):
    """What `fit` gets of each part; SISA's shards are drawn by the seed, clusters are not."""
    starts, batches, members, fit = {}, {}, {}, learning.fit

    def watched(learner, *arguments, seed, **how):
        starts.setdefault(now, []).append([value.detach().clone() for value in (learner.prompt, learner.head.weight)])
        batches.setdefault(now, []).append(seed)
        return fit(learner, *arguments, seed=seed, **how)

    monkeypatch.setattr(learning, "fit", watched)
    for now in (0, 1):
        folder = train(script, backbone, tmp_path / str(now), "--epochs", 1, "--seed", now)
        members[now] = read_system(folder)["part"]
    for now in (0, 1):
        assert all(torch.equal(x, y) for start in starts[now] for x, y in zip(start, starts[now][0], strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(starts[0][0], starts[1][0], strict=True))
    seeds = batches[0] + batches[1]
    assert len(batches[0]) > 3 and len(set(seeds)) == len(seeds)
    assert torch.equal(members[0], members[1]) == (script is lmeraser)


def test_a_system_of_another_backbone_in_the_same_file_is_not_there_already(tmp_path, capsys):
    path = random_backbone(tmp_path / "backbone.pth")
    folder = train(lmeraser, path, tmp_path / "system", "--epochs", 1)
    random_backbone(path, seed=1)
    before, arguments = files(folder), ("train", *DIGITS, "--backbone", path, *SMALL, "--epochs", 1, "--output", folder)
    code, line = one_line(lmeraser, capsys, *latest(arguments))
    assert code == 2 and "another backbone" in line and files(folder) == before
    call(lmeraser, *arguments, "--overwrite")
    assert same(learned(folder), learned(train(lmeraser, path, tmp_path / "fresh", "--epochs", 1)))
    assert {file.name for file in tmp_path.iterdir()} == {"backbone.pth", "system", "fresh"}


def test_a_system_of_other_anchors_is_not_there_already(backbone, copy, capsys):
    """Earlier versions drew them by the labels of all images."""
    folder = copy(lmeraser)
    state = read_system(folder)
    state["anchors"] = state["anchors"].roll(1)
    write_torch(folder / SYSTEM, state)
    code, line = one_line(lmeraser, capsys, "train", *DIGITS, "--backbone", backbone, *SMALL, "--output", folder)
    assert code == 2 and "anchors" in line


def test_a_killed_training_continues_on_the_same_backbone_alone(tmp_path, monkeypatch):
    """SISA's shards have the same members on every backbone, so these alone don't tell whose a learner is."""
    path = random_backbone(tmp_path / "backbone.pth")
    with monkeypatch.context() as patch:
        stop_at(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            train(sisa, path, tmp_path / "system")
    random_backbone(path, seed=1)
    fresh = train(sisa, path, tmp_path / "fresh")
    with pytest.raises(UserError, match="other settings or images"):
        train(sisa, path, tmp_path / "system")
    assert same(learned(train(sisa, path, tmp_path / "system", "--overwrite")), learned(fresh))


@pytest.mark.parametrize("flags", [(), ("--overwrite",)], ids=str)
def test_a_folder_that_is_no_system_is_never_replaced(backbone, tmp_path, capsys, flags):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "thesis.txt").write_text("all of it", encoding="utf-8")
    arguments = ("train", *DIGITS, "--backbone", backbone, *SMALL, "--output", folder, *flags)
    code, line = one_line(lmeraser, capsys, *arguments)
    assert code == 2 and "not a system" in line and files(folder) == {"thesis.txt": b"all of it"}


def test_a_folder_that_cannot_be_written_is_one_line(backbone, tmp_path, capsys):
    (tmp_path / "file").touch()
    arguments = ("train", *DIGITS, "--backbone", backbone, *SMALL, "--output", tmp_path / "file" / "system")
    code, line = one_line(lmeraser, capsys, *arguments)
    assert code == 2 and "Not a directory" in line


def test_each_script_deletes_from_its_own_systems(copy, capsys):
    """The other's split would put all images into other parts when an anchor goes."""
    folder = copy(lmeraser)
    before = files(folder)
    code, line = one_line(sisa, capsys, "delete", folder, "--ids", *full([private(folder)[0]]))
    assert code == 2 and "a system of lmeraser" in line and files(folder) == before


def test_a_system_without_images_is_shown_and_not_scored(copy, capsys):
    folder = copy(sisa)
    call(sisa, "delete", folder, "--ids", *full(private(folder)))
    assert "sisa: 0 parts" in capsys.readouterr().out
    with pytest.raises(UserError, match="all its images are deleted"):
        assemble(folder)


def test_a_class_that_never_was_there_is_not_there_already(copy, capsys):
    folder = copy(lmeraser)
    one = private(folder, 1)
    delete(lmeraser, folder, "--ids", *full(one))
    code, line = one_line(lmeraser, capsys, "delete", folder, "--ids", *full(one), "--class", 99)
    assert code == 2 and "--class 99: the classes are 0 to 9" in line
