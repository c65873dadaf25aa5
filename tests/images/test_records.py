"""A folder without the images to be forgotten, which are deleted: runs and scores are as with them, but for their pixels."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import data
import evaluate
import finetune
import loraprune
import models
import pretrain
import retrain
import rfau
from baselines import badteacher, control, delete, gradascent, negate, neglora, randomlabel, regun, scrub, sisa, ssd
from tests.helpers import call, files, one_line, rows_of
from unlearning.core.errors import UserError
from unlearning.core.files import write_torch
from unlearning.evaluation import entries
from unlearning.evaluation.flags import Scoring
from unlearning.exact.backbone import write_backbone
from unlearning.exact.reading import read_system
from unlearning.experiments import audit
from unlearning.images import folders
from unlearning.vision.originals import Told
from unlearning.vision.shared import Shared

CLASSES = ("ant", "bee", "cat")
GONE = {"ant/1.png": 1, "bee/2.png": 8}  # names and numbers
COMMON = ("--img-size", 8, "--quiet", "--epochs", 1)
FORGETS = (finetune, loraprune, retrain, negate)


def noise(root):
    """Six training and two test images of each class."""
    generator = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for name in CLASSES:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / part / name / f"{i}.png")


def flags_of(script, place, folder):
    start = ("--model", "resnet8", "--data-of") if script is retrain else ("--original",)
    return ("--dataset", f"folder:{folder}", *COMMON, *start, place / "original.pth")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of images, its original, and what forgot two images while they were there; `without` lacks these two."""
    place = tmp_path_factory.mktemp("place")
    noise(place / "pets")
    (place / "ids.txt").write_text(" ".join(map(str, GONE.values())), encoding="utf-8")
    flags = ("--dataset", f"folder:{place / 'pets'}", *COMMON, "--model", "resnet8")
    call(pretrain, *flags, "--output", place / "original.pth")
    for script in FORGETS:
        forget = ("--forget-file", place / "ids.txt", "--output", place / f"{script.__name__}.pth")
        call(script, *flags_of(script, place, place / "pets"), *forget)
    shutil.copytree(place / "pets", place / "without")
    for name in GONE:
        (place / "without" / "train" / name).unlink()
    return place


@pytest.fixture
def without(place, tmp_path):
    return shutil.copytree(place / "without", tmp_path / "pets")


@pytest.mark.parametrize("limit", [0, folders.RESIDENT])
@pytest.mark.parametrize("script", FORGETS, ids=lambda script: script.__name__)
def test_what_never_looks_at_them_ends_with_the_same_bits(place, without, tmp_path, monkeypatch, script, limit):
    if not limit:  # images stay in their files, and so do those of the original
        monkeypatch.setattr(folders, "RESIDENT", 0)
        call(
            pretrain,
            "--dataset",
            f"folder:{place / 'pets'}",
            *COMMON,
            "--model",
            "resnet8",
            "--output",
            tmp_path / "original.pth",
        )
        assert not torch.equal(
            *(models.load_checkpoint(f / "original.pth")["data"]["files"]["digests"] for f in (place, tmp_path))
        )
    begin = place if limit else tmp_path
    made = call(script, *flags_of(script, begin, without), "--output", tmp_path / "x.pth")
    before, after = (models.load_checkpoint(path) for path in (place / f"{script.__name__}.pth", made))
    assert after["forget"].tolist() == list(GONE.values()) and after["forget_tag"] == before["forget_tag"]
    assert all(torch.equal(before["state_dict"][name], value) for name, value in after["state_dict"].items())
    if limit:
        assert after["key"] == before["key"] and after["identity"] == before["identity"]
        assert after["data"]["tag"] == before["data"]["tag"] and len(after["data"]["files"]["names"]) == 18


@pytest.mark.parametrize(
    "script",
    [gradascent, randomlabel, badteacher, rfau, scrub, ssd, delete, neglora, regun, loraprune],
    ids=lambda script: script.__name__,
)
def test_what_looks_at_them_is_refused_before_anything_is_written(place, without, tmp_path, capsys, script):
    before = files(tmp_path)
    flags = (*flags_of(script, place, without), *(("--forget-loss", "bounded") if script is loraprune else ()))
    code, line = one_line(script, capsys, *flags, "--weights", tmp_path)
    assert code == 2 and "are not there any more, and this method looks at them" in line and files(tmp_path) == before


def test_the_run_says_how_many_are_gone(place, without, tmp_path, capsys):
    flags = [flag for flag in flags_of(finetune, place, without) if flag != "--quiet"]
    call(finetune, *flags, "--output", tmp_path / "x.pth")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("forgets ")]
    assert line.startswith("forgets 2 of 18 images: ") and line.endswith("; 2 of these are not in their files any more")


def test_a_whole_class_may_be_gone(place, tmp_path):
    shutil.copytree(place / "pets", tmp_path / "pets")
    shutil.rmtree(tmp_path / "pets" / "train" / "bee")
    flags = (*flags_of(control, place, tmp_path / "pets"), "--kind", "mask")
    content = models.load_checkpoint(call(control, *flags, "--output", tmp_path / "x.pth"))
    assert content["forget_tag"] == "class1" and content["forget"].tolist() == list(range(6, 12))
    asked = models.load_checkpoint(call(control, *flags, "--forget-class", 1, "--output", tmp_path / "y.pth"))
    assert asked["key"] == content["key"] and asked["classes"] == list(CLASSES)


def test_whose_test_images_are_gone_too_is_told_how_to_go_on(place, tmp_path, capsys):
    shutil.copytree(place / "pets", tmp_path / "pets")
    shutil.rmtree(tmp_path / "pets" / "train" / "bee")
    for script in (finetune, retrain):
        flags = [flag for flag in flags_of(script, place, tmp_path / "pets") if flag not in ("--original", "--data-of")]
        flags.remove(place / "original.pth")
        code, line = one_line(script, capsys, *flags, "--weights", tmp_path)
        assert code == 2 and "don't hold the same classes: bee only in one of them; if its training images are" in line
        assert line.endswith("name what was trained on them: --original FILE, of retrain.py --data-of FILE")
    (tmp_path / "pets/test/bee/0.png").unlink()
    code, line = one_line(finetune, capsys, *flags_of(finetune, place, tmp_path / "pets"))
    assert code == 2 and line.endswith(": 6 test images, not 5; only training images may be missing")
    shutil.rmtree(tmp_path / "pets" / "test" / "bee")
    for script in (finetune, retrain):
        code, line = one_line(script, capsys, *flags_of(script, place, tmp_path / "pets"), "--weights", tmp_path)
        assert code == 2 and "of class bee no test image is there any more: only training images may be missing" in line
        assert line.endswith("Put these test images back, or train afresh with pretrain.py")
    (tmp_path / "pets" / "train" / "cat").rename(tmp_path / "pets" / "train" / "dog")
    code, line = one_line(finetune, capsys, *flags_of(finetune, place, tmp_path / "pets"))
    assert code == 2 and line.endswith("the same classes: cat, dog only in one of them")


def test_others_that_are_missing_or_changed_are_named(place, without, tmp_path, capsys):
    flags = (*flags_of(finetune, place, without), "--output", tmp_path / "x.pth")
    code, line = one_line(finetune, capsys, *flags, "--forget-class", 2)
    what = "2 training images, train/ant/1.png, train/bee/2.png, are missing, which are not among those to be forgotten"
    assert code == 2 and f"{what} (class2)" in line
    for asked in (("--forget-class", 0, 1), ("--forget-file", place / "ids.txt")):
        assert call(finetune, *flags, *asked, "--overwrite").exists()
    shutil.copy(without / "train/cat/5.png", without / "train/cat/6.png")  # of the last image, one more
    code, line = one_line(finetune, capsys, *flags, "--overwrite")
    assert code == 2 and line.endswith("missing files (2): ant/1.png, bee/2.png; new files (1): cat/6.png")
    (without / "train/cat/6.png").unlink()
    shutil.copy(without / "train/cat/0.png", without / "train/cat/3.png")
    shutil.copy(without / "train/cat/0.png", without / "train/cat/9.png")
    code, line = one_line(finetune, capsys, *flags, "--overwrite")
    assert (
        code == 2
        and "18 training images, not 17; missing files (2): ant/1.png, bee/2.png; new files (1): cat/9.png; " in line
    )
    assert line.endswith("files with other pixels or another label (1): cat/3.png")
    (without / "train/cat/9.png").unlink()
    code, line = one_line(finetune, capsys, *flags, "--overwrite")
    assert code == 2 and line.endswith("files with other pixels or another label (1): cat/3.png")
    code, line = one_line(retrain, capsys, *flags_of(retrain, place, without), "--output", tmp_path / "y.pth")
    assert code == 2 and "cat/3.png" in line and not (tmp_path / "y.pth").exists()


@pytest.mark.parametrize(
    "damage",
    [
        {"files": {}},
        {
            "files": {
                "names": ["a", 3],
                "digests": torch.zeros(2, dtype=torch.int64),
                "labels": torch.zeros(2, dtype=torch.int64),
            }
        },
        {
            "files": {
                "names": ["a"],
                "digests": torch.zeros(2, dtype=torch.int64),
                "labels": torch.zeros(1, dtype=torch.int64),
            }
        },
        {"files": {"names": ["a"], "digests": torch.zeros(1), "labels": torch.zeros(1, dtype=torch.int64)}},
        {"classes": 3},
        {"test_fingerprint": None},
    ],
)
def test_a_damaged_record_is_one_line(place, without, tmp_path, capsys, damage):
    content = models.load_checkpoint(place / "original.pth")
    content["data"] |= damage
    write_torch(tmp_path / "bad.pth", content)
    flags = ("--dataset", f"folder:{without}", *COMMON, "--original", tmp_path / "bad.pth")
    code, line = one_line(finetune, capsys, *flags, "--output", tmp_path / "x.pth")
    assert code == 2 and line == "finetune.py: what a checkpoint says of its data's files is damaged"


def test_a_changed_test_image_is_noticed(place, without, tmp_path, capsys):
    shutil.copy(without / "test/cat/0.png", without / "test/cat/1.png")
    code, line = one_line(finetune, capsys, *flags_of(finetune, place, without), "--output", tmp_path / "x.pth")
    assert code == 2 and "not on this pets-" in line


def test_the_same_images_are_drawn_of_a_folder_that_lacks_some(place, without):
    """--subset and --validation draw by position, and find what they found."""
    for how in ({"subset": 10}, {"validation": 0.3}, {"validation": 0.2, "subset": 9, "test_subset": 3}):
        whole = data.Source(f"folder:{place / 'pets'}", place, img_size=8, **how)
        there = whole.load()
        known = data.Known.of(whole.described(there))
        found = data.load(f"folder:{without}", img_size=8, known=known, **how)
        kept = torch.ones(len(there.train), dtype=torch.bool)
        kept[found.missing] = False
        assert torch.equal(found.train.labels, there.train.labels)
        assert torch.equal(found.train.images[kept], there.train.images[kept])
        gone = {tuple(there.train.images[row].flatten().tolist()) for row in found.missing}
        two = {tuple(np.array(Image.open(place / "pets/train" / n)).transpose(2, 0, 1).flatten().tolist()) for n in GONE}
        assert gone <= two
        if torch.equal(found.test.images, there.test.images):
            assert found.fingerprint == there.fingerprint or not len(gone)
        else:  # one of them is held out, on which nothing can be scored
            assert found.fingerprint != there.fingerprint


def test_other_settings_are_other_data_though_files_are_missing(place, without):
    whole = data.Source(f"folder:{place / 'pets'}", place, img_size=8)
    known = data.Known.of(whole.described(whole.load()))
    assert data.load(f"folder:{without}", img_size=8, known=known).fingerprint == known.fingerprint
    fewer = data.load(f"folder:{without}", img_size=8, known=known, subset=17)
    assert len(fewer.missing) and fewer.fingerprint != known.fingerprint


def test_a_table_may_name_files_that_are_gone(place, without):
    rows = [f"{file.relative_to(place / 'pets').as_posix()},{file.parent.name},{file.parent.parent.name}"
            for file in sorted((place / "pets").rglob("*.png"))]  # fmt: skip
    for root in (place / "pets", without):
        (root / "list.csv").write_text("\n".join(["file,label,split", *rows]), encoding="utf-8")
    whole = data.Source(f"csv:{place / 'pets' / 'list.csv'}", place, img_size=8)
    known = data.Known.of(whole.described(whole.load()))
    found = data.load(f"csv:{without / 'list.csv'}", img_size=8, known=known)
    assert found.fingerprint == known.fingerprint and found.missing.tolist() == list(GONE.values())
    with pytest.raises(UserError, match=r"2 of 24 files aren't there: .*ant/1.png, .*bee/2.png"):
        data.load(f"csv:{without / 'list.csv'}")
    (without / "test/cat/0.png").unlink()
    with pytest.raises(UserError, match=r"1 of 24 files aren't there: .*cat/0.png"):
        data.load(f"csv:{without / 'list.csv'}", known=known)


def test_what_needs_their_pixels_is_not_scored(place, tmp_path, capsys):
    """Everything else is as it was."""
    names = ("original", "finetune", "retrain")
    shutil.copytree(place / "pets", tmp_path / "pets")
    paths = [shutil.copy(place / f"{name}.pth", tmp_path / f"{name}.pth") for name in names]
    asked = (*paths, "--dataset", f"folder:{tmp_path / 'pets'}", "--weights", tmp_path / "nowhere", "--every-attack")
    before = rows_of(*asked)
    for name in GONE:
        (tmp_path / "pets" / "train" / name).unlink()
    aside = place / "aside"
    (place / "pets").rename(aside)
    try:
        after = rows_of(*asked)
        code, line = one_line(evaluate, capsys, *asked, "--html", tmp_path / "page.html", "--quiet")
        assert code == 2 and "images to be forgotten are not in the folder any more, so that no page can show" in line
    finally:
        aside.rename(place / "pets")
    for old, new in zip(before, after, strict=True):
        assert old["metrics"].keys() == new["metrics"].keys() and old["method"] == new["method"]
        for key, metric in new["metrics"].items():
            reads = key in (
                "UA",
                "dUA",
                "MIA",
                "dMIA",
                "MIA_draw_sd",
                "MIA_AUC",
                "TPR1",
                "gap",
                "ToW",
                "probe",
                "probe_gap",
                "ncc",
                "ncc_gap",
                "relearn_steps",
            )
            reads = reads or key in ("activation_f", "js_f") or " " in key
            assert ("are not in the folder any more" in metric.get("missing", "")) == reads, key
            assert reads or metric == old["metrics"][key], key
        assert new["curves"]["roc"] is None and new["curves"]["features"] is None and not new["curves"]["relearn"]
        assert new["curves"]["losses"] == {k: v for k, v in old["curves"]["losses"].items() if k != "D_f"}


def test_images_that_are_missing_in_a_part_are_called_by_their_own_names(place, without, tmp_path, capsys):
    """Of a part, as of --images, no image has the place that it has among all. What isn't in it may be missing."""
    for name in ("4.png", "5.png"):
        (without / "train/cat" / name).unlink()
    flags = (place / "finetune.pth", "--dataset", f"folder:{without}", "--weights", tmp_path, "--quiet", "--images")
    code, line = one_line(evaluate, capsys, *flags, 16)
    assert code == 2 and "2 training images, train/cat/4.png, train/cat/5.png, are missing" in line
    (row,) = rows_of(*flags, 8, beneath=False)
    assert "mean" in row["metrics"]["RA"]


def test_a_system_deletes_images_that_are_gone_already(place, tmp_path, capsys):
    shutil.copytree(place / "pets", tmp_path / "pets")
    torch.manual_seed(0)
    model, arguments = models.create_for("resnet8", data.load(f"folder:{place / 'pets'}", img_size=8))
    write_backbone(tmp_path / "backbone.pth", model, {"name": "resnet8", "arguments": arguments})
    flags = ("--dataset", f"folder:{tmp_path / 'pets'}", "--backbone", tmp_path / "backbone.pth", "--jobs", 1)
    folder = call(sisa, "train", *flags, *COMMON, "--parts", 2, "--anchors", 3, "--output", tmp_path / "system")
    state = read_system(folder)
    kept = state["private"].tolist()[::-1]  # from the last on: anchors, which are public, lie before them
    names = state["data"]["files"]["names"]
    for number in kept[:2]:
        (tmp_path / "pets" / "train" / names[number]).unlink()
    code, line = one_line(sisa, capsys, "delete", folder, "--ids", kept[0], "--quiet")
    assert code == 2 and f"1 training images, train/{names[kept[1]]}, are missing" in line
    call(sisa, "delete", folder, "--ids", *kept[:2], "--quiet")
    assert read_system(folder)["deleted"].tolist() == sorted(kept[:2])
    call(sisa, "delete", folder, "--ids", kept[2], "--quiet")  # and later those that are still there
    assert read_system(folder)["deleted"].tolist() == sorted(kept[:3])
    (without,) = rows_of(folder, "--weights", tmp_path / "nowhere", beneath=False)
    for number in kept[:2]:
        shutil.copy(place / "pets" / "train" / names[number], tmp_path / "pets" / "train" / names[number])
    (whole,) = rows_of(folder, "--weights", tmp_path / "nowhere", beneath=False)
    assert "missing" in without["metrics"]["UA"] and "mean" in whole["metrics"]["UA"]
    assert all(without["metrics"][key] == whole["metrics"][key] for key in ("RA", "TA"))


def test_an_audit_needs_all_images(place, without):
    """It compares what many networks answer on them."""
    args = evaluate.parser().parse_args([str(place / "finetune.pth"), "--dataset", f"folder:{without}", "--quiet"])
    scoring = Scoring.from_flags(args)
    entry = entries.describe(place / "finetune.pth", scoring, Shared())
    moved = replace(entry, source=entry.source.at(f"folder:{without}"), forgets=((entry.forget, entry.forget_tag),))
    with pytest.raises(
        UserError, match=r"2 training images, train/ant/1.png, train/bee/2.png, are missing.*an audit looks at all of them"
    ):
        audit._answers(moved, SimpleNamespace(scoring=scoring, told=Told()), Shared())


def test_images_that_are_missing_dont_change_how_the_rest_is_read(tmp_path, monkeypatch):
    """Of 24 images two are gone, and one more than are left is as many as are held in memory."""
    noise(tmp_path / "pets")
    monkeypatch.setattr(folders, "RESIDENT", 23 * 3 * 8 * 8)
    whole = data.Source(f"folder:{tmp_path / 'pets'}", tmp_path, img_size=8)
    known = data.Known.of(whole.described(whole.load()))
    for name in GONE:
        (tmp_path / "pets" / "train" / name).unlink()
    found = data.load(f"folder:{tmp_path / 'pets'}", img_size=8, known=known)
    assert found.fingerprint == known.fingerprint and found.missing.tolist() == list(GONE.values())
