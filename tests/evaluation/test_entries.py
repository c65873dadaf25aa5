"""Which files make one row: seeds of one identity, and nothing else."""

import argparse
import enum
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import data
import evaluate
import finetune
import lora
import models
import pretrain
import pruneft
import retrain
from baselines import control
from tests.helpers import call, one_line, rows_of
from tests.test_data import folder_of_images
from unlearning.core import device, names
from unlearning.core.errors import UserError
from unlearning.core.files import write_torch
from unlearning.core.flags import Parser
from unlearning.evaluation import row_names
from unlearning.exact.backbone import write_backbone
from unlearning.vision.identity import canonical, key, of_checkpoint

COMMON = ("--dataset", "digits", "--subset", 200, "--model", "resnet8", "--quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the originals of seeds 0 and 1."""
    folder = tmp_path_factory.mktemp("place")
    for seed in (0, 1):
        call(pretrain, *COMMON, "--weights", folder, "--seed", seed)
    return folder


def unlearned(script, place, *flags):
    forget = () if any("--forget" in str(flag) for flag in flags) else ("--forget-class", 3)
    epochs = () if "--epochs" in flags else ("--epochs", 1)
    return call(script, *COMMON, "--weights", place, *forget, *epochs, *flags)


def noisy_folder(folder, classes, seed=0):
    """A folder of random images."""
    folder_of_images(folder, classes=classes)
    noise = np.random.default_rng(seed)
    for file in folder.rglob("*.png"):
        Image.fromarray(noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)


def methods(*paths):
    """(method, seeds) of each row but those of Original and Retrain; nothing comes along from elsewhere."""
    rows = rows_of(*paths, "--weights", paths[0].parent / "nowhere", "--precision", "fp32", beneath=False)
    return [(row["method"], row["n"]) for row in rows if row["method"] not in ("original", "retrain")]


@pytest.mark.parametrize(
    ("script", "flag", "values"),
    [
        (lora, "--rank", (2, 16)),
        (pruneft, "--amount", (0.1, 0.9)),
        (finetune, "--batch-size", (32, 64)),
        (lora, "--alpha", (4, 8)),
    ],
)
def test_runs_of_different_settings_are_rows_of_their_own(place, script, flag, values):
    """Both seed 0, without --output: two files, and two rows that say what differs."""
    name = script.__name__
    paths = [unlearned(script, place, flag, value) for value in values]
    assert len(set(paths)) == 2
    assert methods(*paths) == [(f"{name} {flag} {value}", 1) for value in values]


def test_seeds_of_one_setting_are_one_row_and_the_default_is_not_named(place):
    two = [unlearned(lora, place, "--dropout", 0.2, "--seed", seed) for seed in (0, 1)]
    assert methods(*two) == [("lora", 2)]
    assert methods(*two, unlearned(lora, place)) == [("lora --dropout 0.2", 2), ("lora", 1)]


def test_circumstances_are_no_part_of_the_identity(place, tmp_path):
    one = unlearned(lora, place)
    other = unlearned(lora, place, "--seed", 1, "--cache", 0, "--output", tmp_path / "elsewhere.pth", "--device", "cpu")
    first, second = (models.load_checkpoint(path)["identity"] for path in (one, other))
    assert first == second and "seed" not in first["settings"] and "cache" not in first["settings"]


def test_runs_from_different_originals_are_rows_of_their_own(place, tmp_path):
    short = call(pretrain, *COMMON, "--weights", tmp_path, "--epochs", 2)
    usual = place / "digits-200_resnet8_original_s0.pth"
    paths = [unlearned(finetune, tmp_path, "--original", original, "--output", tmp_path / f"{i}.pth")
             for i, original in enumerate((short, usual))]  # fmt: skip
    assert methods(*paths) == [("finetune from original --epochs 2", 1), ("finetune from original --epochs 30", 1)]
    # The original that each is measured from is its own, though both have seed 0.
    rows = rows_of(*paths, short, usual, "--weights", tmp_path, "--precision", "fp32")
    half = {row["epochs"]: row["curves"]["relearn"][0][0] / 2 for row in rows if row["method"] == "original"}
    assert set(half) == {2, 30}
    for row in rows[2:]:
        target, steps = half[int(row["method"].rpartition(" ")[2])], row["metrics"]["relearn_steps"]
        reached = dict(zip(row["curves"]["relearn_steps"], row["curves"]["relearn"][0], strict=True))
        assert "missing" in steps or reached[steps["mean"]] >= target


def test_lists_of_images_count_by_what_they_hold(place, tmp_path):
    numbers = data.load("digits", subset=200).whole.positions.tolist()
    for name, ids in (("a", numbers[:20]), ("b", numbers[19::-1]), ("c", numbers[:30])):
        (tmp_path / f"{name}.txt").write_text("\n".join(map(str, ids)), encoding="utf-8")
    a, b, c = (unlearned(finetune, place, "--forget-file", tmp_path / f"{name}.txt", "--seed", seed, "--output",
                         tmp_path / f"{name}.pth") for name, seed in (("a", 0), ("b", 1), ("c", 1)))  # fmt: skip
    assert methods(a, b) == [("finetune", 2)]
    assert methods(a, c) == [("finetune", 1), ("finetune", 1)]  # in tables of their own


def test_a_draw_is_known_by_its_share(place):
    found = models.load_checkpoint(unlearned(finetune, place, "--forget-random", 0.2))["identity"]["forget"]
    assert found == {"random": 0.2, "seed": 0}
    path = unlearned(finetune, place, "--forget-count", 7, "--of-class", "5,3")
    assert models.load_checkpoint(path)["identity"]["forget"] == {"count": 7, "of": [3, 5], "seed": 0}
    assert path.name == "digits-200_resnet8_count7-of3-5_finetune1_s0.pth"
    (row,) = rows_of(path, "--weights", place / "nowhere", beneath=False)
    assert (row["forget"], row["forgotten"]) == ("count7-of3-5", "7 random images of classes 3, 5")


def test_data_of_one_name_are_told_apart(tmp_path):
    paths = []
    for seed, side in enumerate(("a", "b")):
        noisy_folder(tmp_path / side / "images", ("ant", "bee", "cat"), seed)
    for side in ("a", "b"):
        common = ("--dataset", f"folder:{tmp_path / side / 'images'}", "--img-size", 8, "--model", "resnet8", "--epochs", 1)
        paths.append(call(retrain, *common, "--forget-class", 1, "--quiet", "--output", tmp_path / f"{side}.pth"))
    rows = rows_of(*paths, "--weights", tmp_path / "nowhere", beneath=False)
    assert [row["n"] for row in rows] == [1, 1]
    tags = {f"images-{models.load_checkpoint(path)['data']['fingerprint'][:6]}-8px" for path in paths}
    assert {row["dataset"] for row in rows} == tags and len(tags) == 2


def test_images_that_have_moved_are_looked_for_where_dataset_says(tmp_path, capsys):
    old, new, other = (tmp_path / name / "images" for name in ("old", "new", "other"))
    noisy_folder(old, ("ant", "bee", "cat"))
    flags = ("--img-size", 8, "--model", "resnet8", "--epochs", 1, "--quiet", "--forget-class", 1)
    path = call(retrain, "--dataset", f"folder:{old}", *flags, "--output", tmp_path / "x.pth")
    asked = (path, "--weights", tmp_path / "nowhere")
    (before,) = rows_of(*asked, beneath=False)
    (tmp_path / "new").mkdir()
    old.rename(new)
    code, line = one_line(evaluate, capsys, *asked)
    assert code == 2 and f"images which are not at folder:{old} any more: if they have moved, name their place" in line
    (row,) = rows_of(*asked, "--dataset", f"folder:{new}", beneath=False)
    assert row["metrics"]["RA"] == before["metrics"]["RA"]
    noisy_folder(other, ("ant", "bee", "cow"), seed=1)
    code, line = one_line(evaluate, capsys, *asked, "--dataset", f"folder:{other}", "--quiet")
    assert (
        code == 2
        and "not on this images-" in line
        and ": its classes without cat and with cow; missing files (4): cat/0.png" in line
    )
    new.rename(old)  # what a file itself says holds where the flag is about another file
    (row,) = rows_of(*asked, "--dataset", f"folder:{other}", beneath=False)
    assert row["metrics"]["RA"] == before["metrics"]["RA"]
    (row,) = rows_of(*asked, "--dataset", "digits", beneath=False)
    assert row["metrics"]["RA"] == before["metrics"]["RA"]


def test_the_same_run_twice_is_an_error_and_not_two_seeds(place, tmp_path, capsys):
    path = unlearned(finetune, place)
    copy = shutil.copy(path, tmp_path / "copy.pth")
    code, line = one_line(evaluate, capsys, path, copy, "--weights", tmp_path)
    assert code == 2 and str(path) in line and str(copy) in line and "same seed" in line
    assert methods(path, path) == [("finetune", 1)]  # one file, named twice


def test_two_retrains_are_refused_by_name(place, tmp_path, capsys):
    path = unlearned(finetune, place)
    two = [call(retrain, *COMMON, "--weights", tmp_path, "--forget-class", 3, "--epochs", epochs) for epochs in (1, 2)]
    code, line = one_line(evaluate, capsys, path, "--weights", tmp_path)
    assert code == 2 and "two Retrains" in line and all(str(retrained) in line for retrained in two)
    rows = rows_of(path, two[0], "--weights", tmp_path, beneath=False)  # named: that one it is
    assert {row["method"]: row["epochs"] for row in rows} == {"retrain": 1, "finetune": 1}


def test_several_originals_are_not_guessed_among(tmp_path, capsys):
    for epochs in (1, 2):
        call(pretrain, *COMMON, "--weights", tmp_path, "--epochs", epochs)
    code, line = one_line(finetune, capsys, *COMMON, "--weights", tmp_path, "--forget-class", 3)
    assert code == 2 and "several originals" in line and "--original" in line
    (tmp_path / "digits-200_resnet8_original-epochs-1_s0.pth").unlink()
    path = unlearned(finetune, tmp_path)
    assert models.load_checkpoint(path)["identity"]["parent"]["settings"]["epochs"] == 2


def test_other_settings_under_one_name_are_refused(place, tmp_path, capsys):
    path = unlearned(finetune, place, "--output", tmp_path / "x.pth")
    before = path.read_bytes()
    for other in (("--lr", 0.5), ("--forget-class", 4), ("--original", place / "digits-200_resnet8_original_s1.pth")):
        forget = () if "--forget-class" in other else ("--forget-class", 3)
        arguments = (*COMMON, "--weights", place, *forget, "--epochs", 1, "--output", path, *other)
        code, line = one_line(finetune, capsys, *arguments)
        assert code == 2 and "other settings" in line and path.read_bytes() == before
    code, line = one_line(finetune, capsys, "--dataset", "digits", "--subset", 210, *COMMON[4:], "--original",
                          place / "digits-200_resnet8_original_s0.pth", "--forget-class", 3, "--output", path)  # fmt: skip
    assert code == 2 and "not on this" in line


def test_a_flag_added_later_leaves_older_files_valid():
    """With its `off` value it is in no key and in no name; with another it is in both."""
    before, after = Parser("x"), Parser("x")
    for parser in (before, after):
        parser.add_argument("--lr", type=float, default=0.1)
        parser.add_argument("--device", default="cpu", identity=False)
    after.add_argument("--bound", type=float, default=1.0, off=0.0)
    old, new, used = before.parse_args([]), after.parse_args(["--bound", "0"]), after.parse_args([])
    assert key(before.settings(old)) == key(after.settings(new)) != key(after.settings(used))
    assert after.non_default(new) == {} and after.own_settings(new) == {"lr": 0.1}
    assert after.non_default(after.parse_args(["--bound", "2"])) == {"--bound": "2"}


def test_files_of_earlier_versions_are_still_told_apart(place, tmp_path):
    """They store no identity: it is made from their settings."""
    paths = [as_before(unlearned(lora, place, "--rank", rank), tmp_path / f"{rank}.pth") for rank in (2, 16)]
    assert [of_checkpoint(models.load_checkpoint(path))["settings"]["rank"] for path in paths] == [2, 16]
    assert methods(*paths) == [("lora --rank 2", 1), ("lora --rank 16", 1)]


def as_before(path, to):
    """A checkpoint as an earlier version wrote it, without its identity."""
    content = models.load_checkpoint(path)
    for name in ("identity", "flags", "origin"):
        del content[name]
    content["config"] |= {"lr_given": False}
    write_torch(to, content)
    return to


def test_files_of_earlier_versions_from_different_originals_are_not_seeds(place, tmp_path):
    """They name their original by its SHA-256 alone; two seeds of one kind of original are one row if both are there."""
    usual = [place / f"digits-200_resnet8_original_s{seed}.pth" for seed in (0, 1)]
    short = call(pretrain, *COMMON, "--weights", tmp_path, "--epochs", 2)
    new = [unlearned(finetune, tmp_path, "--original", file, "--seed", seed, "--output", tmp_path / f"new{seed}.pth")
           for seed, file in enumerate((usual[0], short))]  # fmt: skip
    old = [as_before(path, tmp_path / f"old{seed}.pth") for seed, path in enumerate(new)]
    assert [n for _, n in methods(*old)] == [1, 1] and len(set(methods(*old))) == 2
    for forget in ((), ("--forget-random", 0.2)):
        two = [unlearned(finetune, place, *forget), unlearned(finetune, place, *forget, "--seed", 1)]
        alike = [as_before(path, tmp_path / f"alike{seed}{len(forget)}.pth") for seed, path in enumerate(two)]
        assert methods(*alike, *usual) == [("finetune", 2)]
        assert methods(alike[0], two[1], *usual) == [("finetune", 2)]


def test_a_default_given_is_no_other_setting(place, capsys):
    """16 and 16.0 are one number, in names, keys and identities."""
    path = unlearned(lora, place)
    assert unlearned(lora, place, "--alpha", "16.0") == path  # there already
    content = models.load_checkpoint(path)
    assert content["flags"] == {} and content["config"]["alpha"] == 16
    assert canonical({"alpha": 16}) == canonical({"alpha": 16.0}) != canonical({"alpha": 16.5})
    parser = Parser("x")
    parser.add_argument("--strength", type=float, default=1)
    assert parser.non_default(parser.parse_args(["--strength", "1"])) == {}


def test_flags_of_every_kind_are_named_as_typed():
    parser = Parser("x")
    parser.add_argument("--warm", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--no-noise", dest="noise", action="store_false")
    parser.add_argument("--files", type=Path, nargs="+")
    parser.add_argument("--rate", type=float, default=0.5)
    args = parser.parse_args(["--no-warm", "--no-noise", "--files", "a/b", "c", "--rate", "0.12345671"])
    flags = parser.non_default(args)
    assert flags == {"--no-warm": "", "--no-noise": "", "--files": "a/b c", "--rate": "0.12345671"}
    assert json.loads(json.dumps(parser.settings(args)))["files"] == ["a/b", "c"]
    assert parser.non_default(parser.parse_args(["--warm"])) == {}


class Kind(enum.StrEnum):
    SOFT = "soft"
    HARD = "hard"


def test_values_of_every_type_are_recorded_and_told_apart():
    parser = Parser("x")
    group = parser.add_argument_group("mine")
    group.add_argument("--strength", type=np.float64, default=np.float64(0.5))
    group.add_argument("--kind", type=Kind, default=Kind.SOFT)
    parser.add_argument("--fast", dest="pace", action="store_const", const="fast", default="usual")
    parser.add_argument("--slow", dest="pace", action="store_const", const="slow")
    parser.add_argument("--level", action="count", default=0)
    parser.add_argument("--layers", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--tries", type=int, default="3")
    parser.add_argument("--rare", default=argparse.SUPPRESS)
    parser.add_argument("--version", action="version", version="1")
    parser.add_argument("--words", type=lambda text: frozenset(text.split(",")))
    usual = parser.parse_args(["--layers", "1", "2", "--tries", "3", "--strength", "0.5"])
    assert parser.non_default(usual) == {}
    typed = parser.parse_args(
        [
            "--strength",
            "0.1",
            "--kind",
            "hard",
            "--slow",
            "--level",
            "--level",
            "--layers",
            "3",
            "--rare",
            "a",
            "--words",
            "b,a",
        ]
    )
    found = {"--strength": "0.1", "--kind": "hard", "--slow": "", "--level": "2", "--layers": "3", "--rare": "a"}
    assert parser.non_default(typed) == found | {"--words": "a b"}
    settings = parser.settings(typed)
    assert {type(value) for value in settings.values()} <= {str, int, float, list}
    assert settings["strength"] == 0.1 and settings["words"] == ["a", "b"] and "rare" not in parser.settings(usual)
    assert names.suffix({"--rate": "0.1"}) == "-rate-0.1"
    assert len({names.suffix({"--files": text}) for text in ("a/b", "a-b", "a:b")}) == 3


def test_a_forget_set_counts_by_what_it_holds(place, tmp_path, capsys):
    """The same images under another name are there already, be it another file, another order, or a class named twice."""
    for name in ("a", "b"):
        numbers = data.load("digits", subset=200).whole.positions[[3, 5, 7]].tolist()
        (tmp_path / f"{name}.txt").write_text("\n".join(map(str, numbers)), encoding="utf-8")
    first = unlearned(finetune, place, "--forget-file", tmp_path / "a.txt")
    before = first.stat().st_mtime_ns
    assert unlearned(finetune, place, "--forget-file", tmp_path / "b.txt") == first
    two = unlearned(finetune, place, "--forget-class", 1, 2)
    assert unlearned(finetune, place, "--forget-class", 2, 1, 2) == two
    assert first.stat().st_mtime_ns == before and capsys.readouterr().err.count("there already") == 2


def test_runs_from_another_original_lie_side_by_side(place):
    usual = unlearned(finetune, place)
    other = place / "digits-200_resnet8_original_s1.pth"
    path = unlearned(finetune, place, "--original", other)
    assert path.name == "digits-200_resnet8_class3_finetune1-from-original_s1_s0.pth" and path != usual
    named = unlearned(finetune, place, "--original", place / "digits-200_resnet8_original_s0.pth")
    assert named == usual  # the one that is found by name


def test_a_name_says_a_seed_once_and_files_of_the_old_name_are_found(place, tmp_path, capsys):
    """Finished and unfinished ones; what was made of another original in the old name's place isn't taken for this one's."""
    again = ("--original", unlearned(finetune, place), "--forget-class", 5, "--weights", tmp_path)
    path = unlearned(finetune, place, *again)
    assert path.name == "digits-200_resnet8_class3-5_finetune1-from-class3_finetune1_s0.pth"
    old = path.rename(path.with_name("digits-200_resnet8_class3-5_finetune1-from-class3_finetune1_s0_s0.pth"))
    capsys.readouterr()
    assert unlearned(finetune, place, *again) == old and capsys.readouterr().err == f"there already: {old}\n"
    content = models.load_checkpoint(old)
    write_torch(old, content | {"parent": "0" * 64})
    assert unlearned(finetune, place, *again) == path
    write_torch(f"{old}.partial", {})
    old.unlink()
    path.unlink()
    with pytest.raises(UserError, match=r"finetune1_s0_s0\.pth\.partial is no unfinished run of this project"):
        unlearned(finetune, place, *again)


def test_two_originals_of_one_kind_are_no_two_seeds(place, tmp_path, capsys):
    paths = [
        unlearned(finetune, place),
        unlearned(finetune, place, "--original", place / "digits-200_resnet8_original_s1.pth"),
    ]
    code, line = one_line(evaluate, capsys, *paths, "--weights", tmp_path)
    assert code == 2 and "originals that differ in their seed alone" in line


def test_a_copy_of_an_original_beside_it_does_no_harm(place, tmp_path):
    for name in ("digits-200_resnet8_original_s0.pth", "digits-200_resnet8_original_copy.pth"):
        shutil.copy(place / "digits-200_resnet8_original_s0.pth", tmp_path / name)
    rows = rows_of(unlearned(finetune, place), "--weights", tmp_path, beneath=False)
    assert [row["method"] for row in rows] == ["original", "finetune"]


def test_a_class_named_by_its_images_is_that_class(place, tmp_path):
    """So that the Retrain of the one is the Retrain of the other."""
    part = data.load("digits", subset=200)
    numbers = part.whole.positions[part.train.labels == 3].tolist()
    (tmp_path / "threes.txt").write_text("\n".join(map(str, numbers)), encoding="utf-8")
    listed = unlearned(finetune, place, "--forget-file", tmp_path / "threes.txt")
    exact = call(retrain, *COMMON, "--weights", tmp_path, "--forget-class", 3, "--epochs", 1)
    for paths in ((listed, exact), (exact, listed)):
        rows = rows_of(*paths, "--weights", tmp_path / "nowhere", beneath=False)
        assert {row["forget"] for row in rows} == {"class3"} and "mean" in rows[-1]["metrics"]["gap"]
    rows = rows_of(
        unlearned(finetune, place), "--forget-file", tmp_path / "threes.txt", "--weights", tmp_path, beneath=False
    )
    assert [row["method"] for row in rows] == ["retrain", "finetune"]


def test_a_retrain_of_another_shape_is_not_measured_from(place, tmp_path):
    path = unlearned(finetune, place)
    wide = call(retrain, *COMMON, "--weights", tmp_path, "--forget-class", 3, "--epochs", 1, "--input-size", 16)
    (row,) = rows_of(path, "--weights", tmp_path, beneath=False)
    assert "no Retrain" in row["metrics"]["gap"]["missing"]
    rows = rows_of(path, wide, "--weights", tmp_path / "nowhere", beneath=False)
    assert len({row["model"] for row in rows}) == 2 and any("input_size 16" in row["model"] for row in rows)


def test_labels_name_epochs_where_no_column_does(place):
    masks = [unlearned(control, place, "--kind", "mask", "--epochs", epochs) for epochs in (5, 7)]
    assert methods(*masks) == [("mask --epochs 5", 1), ("mask --epochs 7", 1)]


def test_an_original_that_is_found_by_name_is_the_same_when_named(tmp_path):
    original = call(pretrain, *COMMON, "--weights", tmp_path, "--epochs", 2)
    path = unlearned(finetune, tmp_path)
    assert unlearned(finetune, tmp_path, "--original", original) == path
    call(pretrain, *COMMON, "--weights", tmp_path, "--epochs", 3)
    assert unlearned(finetune, tmp_path, "--original", original) == path  # also when it isn't the only one any more


def test_each_original_is_scored_on_what_comes_from_it(place, tmp_path):
    """An original of a second seed adds no seed to a forget set that nobody has asked of it."""
    originals = [place / f"digits-200_resnet8_original_s{seed}.pth" for seed in (0, 1)]
    paths = [unlearned(finetune, place, "--seed", seed) for seed in (0, 1)] + [
        unlearned(finetune, place, "--forget-random", 0.2)
    ]
    rows = rows_of(*originals, *paths, "--weights", tmp_path, beneath=False)
    assert {(row["forget"], row["n"]) for row in rows if row["method"] == "original"} == {("class3", 2), ("random0.2", 1)}
    (row,) = rows_of(originals[0], "--forget-class", 3, "--weights", tmp_path, beneath=False)
    assert row["n"] == 1


def test_a_file_is_scored_on_no_other_data_than_its_own(place, tmp_path, capsys):
    """Whatever the flags say: one that has forgotten something, and an original that is asked about a class."""
    usual = place / "digits-200_resnet8_original_s0.pth"
    for name, path, flags in (("a", unlearned(finetune, place), ()), ("b", usual, ("--forget-class", 3))):
        content = models.load_checkpoint(path)
        content["data"]["fingerprint"] = "0" * 64
        write_torch(tmp_path / f"{name}.pth", content)
        arguments = (tmp_path / f"{name}.pth", *flags, "--weights", tmp_path / "nowhere", "--json", tmp_path / "t.json")
        code, line = one_line(evaluate, capsys, *arguments)
        alike = "as many images of the same classes, but other pixels or labels"
        assert code == 2 and f"{name}.pth was trained on digits-200, not on this digits-200: {alike}" in line
    assert not (tmp_path / "t.json").exists()


def test_backbones_are_left_out_by_name(place, tmp_path, capsys):
    model, arguments = models.create_for("resnet8", data.load("digits", subset=200))
    write_backbone(tmp_path / "weights_imagenet.pth", model, {"name": "resnet8", "arguments": arguments})
    assert methods(unlearned(finetune, place), tmp_path / "weights_imagenet.pth") == [("finetune", 1)]
    assert "left out: " in capsys.readouterr().err
    code, line = one_line(evaluate, capsys, tmp_path / "weights_imagenet.pth")
    assert code == 2 and "ImageNet weights" in line
    code, line = one_line(finetune, capsys, *COMMON, "--original", tmp_path / "weights_imagenet.pth", "--forget-class", 3)
    assert code == 2 and "ImageNet weights" in line


def test_an_original_that_nothing_was_set_against_is_left_out_by_name(place, tmp_path, capsys):
    alone = call(pretrain, *COMMON, "--subset", 150, "--epochs", 1, "--weights", tmp_path)
    assert methods(unlearned(finetune, place), alone) == [("finetune", 1)]
    assert f"left out: {alone} doesn't say what to forget" in capsys.readouterr().err
    code, line = one_line(evaluate, capsys, alone)
    assert code == 2 and "give --forget-class" in line


def test_rows_from_two_originals_that_forgot_a_drawn_count_are_told_apart():
    """By how many each has forgotten: it used to end in a KeyError."""
    parents = [
        {"method": "retrain", "settings": {"lr": 1}, "data": "d", "forget": draw, "parent": None}
        for draw in ({"count": 5, "seed": 0}, {"count": 9, "seed": 0}, {"random": 0.5, "seed": 0})
    ]
    rows = [{"method": "lora", "settings": {}, "data": "d", "forget": None, "parent": parent} for parent in parents]
    assert row_names._told_apart(rows[:2], set()) == ["from retrain --forget-count 5", "from retrain --forget-count 9"]
    assert row_names._told_apart(rows[1:], set()) == ["from retrain --forget-count 9", "from retrain --forget-random 0.5"]


def test_a_retrain_of_another_recipe_is_named(tmp_path, capsys):
    place = ("--weights", tmp_path)
    call(pretrain, *COMMON, *place, "--epochs", 1)
    longer = call(retrain, *COMMON, *place, "--epochs", 2, "--lr", 0.05, "--forget-class", 3, "--recipe", "paper")
    capsys.readouterr()
    rows_of(longer, *place, beneath=False)
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    what = "was: epochs 2 for 1, batch_size 128 for 256, lr 0.05 for 0.4, recipe paper for fast"
    assert note.endswith(what) and str(longer) in note
    own = call(pretrain, *COMMON, *place, "--epochs", 1, "--mean", 0.2, "--std", 0.3)
    child = call(finetune, *COMMON, *place, "--original", own, "--forget-class", 3, "--epochs", 1)
    rows_of(child, longer, "--weights", tmp_path / "nowhere", beneath=False)
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert (
        note.endswith(f"was: mean [0.5] for [0.2], std [0.5] for [0.3], {what.removeprefix('was: ')}") and child.name in note
    )
    own.unlink()
    child.unlink()
    longer.unlink()
    upright = call(retrain, *COMMON, *place, "--epochs", 1, "--no-flip", "--muon", "--forget-class", 3)
    rows_of(upright, *place, beneath=False)
    (note,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert note.endswith("was: no_flip True for False, muon True for False")
    upright.unlink()
    rows_of(call(retrain, *COMMON, *place, "--epochs", 1, "--forget-class", 3), *place, beneath=False)
    assert "note: " not in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage", [{"data": {}}, {"network": {}}, {"network": {"name": 5, "arguments": {}}}, {"forget": [1]}]
)
def test_a_damaged_file_is_one_line(place, tmp_path, capsys, damage):
    content = models.load_checkpoint(place / "digits-200_resnet8_original_s0.pth") | damage
    write_torch(tmp_path / "bad.pth", content)
    for script, where in ((finetune, ("--original", tmp_path / "bad.pth", "--forget-class", 3)), (evaluate, ())):
        arguments = (*COMMON, *where) if where else (tmp_path / "bad.pth", "--forget-class", 3)
        code, line = one_line(script, capsys, *arguments)
        assert code == 2 and "damaged" in line


def test_names_stay_short_and_say_the_method(place, tmp_path):
    many = ("--rank", 3, "--alpha", 7, "--dropout", 0.25, "--bn", "freeze", "--lr", 0.0123, "--batch-size", 77)
    path = unlearned(lora, place, *many)
    assert len(path.name) <= 120 and path != unlearned(lora, place, *many[:-1], 78)
    assert torch.equal(models.load_checkpoint(path)["forget"], models.load_checkpoint(unlearned(lora, place))["forget"])
    long = names.part("class" + "-".join(map(str, range(46))), "forget")
    assert len(long) == 30 and long != names.part("class" + "-".join(map(str, range(47))), "forget")
    folder = tmp_path / ("a" * 100)
    noisy_folder(folder, [f"c{i}" for i in range(20)])
    path = call(retrain, "--dataset", f"folder:{folder}", "--img-size", 8, "--model", "resnet8", "--epochs", 1, "--quiet",
                "--weights", tmp_path, "--forget-class", *range(15))  # fmt: skip
    assert "_retrain1_s0" in path.name and len(path.name) < 200


def test_seeds_that_two_machines_have_made_by_their_own_precision_are_one_row(tmp_path, monkeypatch):
    """One multiplies in bf16 and the other doesn't: originals and Retrains of both are seeds of one kind. A precision that
    was given by hand is another kind."""
    common, forget = (*COMMON, "--epochs", 1, "--weights", tmp_path), ("--forget-class", 3)
    for seed, usual in ((0, "bf16"), (1, "fp32")):
        monkeypatch.setattr(device, "best_precision", lambda *_, usual=usual: usual)
        for script, flags in ((pretrain, ()), (retrain, forget), (finetune, forget)):
            call(script, *common, *flags, "--seed", seed)
    paths = sorted(tmp_path.glob("*.pth"))
    rows = rows_of(*paths, "--weights", tmp_path, beneath=False)
    assert [(row["method"], row["n"]) for row in rows] == [("original", 2), ("retrain", 2), ("finetune", 2)]
    assert "mean" in rows[2]["metrics"]["gap"]
    by_hand = call(finetune, *common, *forget, "--seed", 0, "--precision", "bf16", "--output", tmp_path / "hand.pth")
    assert [n for _, n in methods(*paths, by_hand)] == [2, 1]
