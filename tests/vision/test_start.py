"""How a run begins: which finished or unfinished run is its own, and what its seed draws."""

import contextlib
import copy
import re
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

import data
import evaluate
import finetune
import lmeraser
import lora
import loraprune
import models
import pretrain
import pruneft
import retrain
import rfau
from baselines import (
    badteacher,
    control,
    delete,
    gradascent,
    l1sparse,
    negate,
    neglora,
    randomlabel,
    regun,
    scrub,
    sisa,
    ssd,
)
from data import Source
from tests.helpers import call, changed, forgetting_three, latest, one_line
from tests.test_data import folder_of_images
from unlearning.core.errors import UserError
from unlearning.core.files import sha256, write_torch
from unlearning.vision import originals
from unlearning.vision import run as run_module
from unlearning.vision.identity import of_checkpoint
from unlearning.vision.shared import Shared
from unlearning.vision.start import _with_input_of, start

SMALL = ("--dataset", "digits", "--subset", 120, "--precision", "fp32", "--quiet")
# SSD has neither epochs nor steps: seeds differ where it has several batches, and dampens something.
KIND = {control: ("--kind", "head-only"), ssd: ("--batch-size", 16, "--alpha", 1.5)}
FROM_SCRATCH = (pretrain, retrain)
METHODS = (finetune, pruneft, lora, loraprune, rfau, control, gradascent, randomlabel, badteacher)
METHODS += (scrub, ssd, l1sparse, negate, delete, neglora, regun)
# Flags that make no other result.
CIRCUMSTANCES = {
    "help",
    "original",
    "data_of",
    "device",
    "cache",
    "curve",
    "confidence",
    "weights",
    "output",
    "overwrite",
    "quiet",
    "data_dir",
    "plot",
}
CIRCUMSTANCES |= {"list_classes"}
COST = {"seconds": 0.0, "memory_mib": 0.0, "trainable": 1, "steps": 1, "moved": 1}


@pytest.fixture(scope="module")
def shared():
    return Shared()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the originals of seeds 0 and 1, hardly trained."""
    folder = tmp_path_factory.mktemp("place")
    for seed in (0, 1):
        call(pretrain, *SMALL, "--model", "resnet8", "--epochs", 1, "--weights", folder, "--seed", seed,
             "--output", folder / f"{seed}.pth")  # fmt: skip
    return folder


def flags_of(script, place):
    """The flags of a run of a script that forgets class 3, where it forgets."""
    begin = ("--model", "resnet8") if script in FROM_SCRATCH else ("--original", place / "0.pth")
    return (*SMALL, *begin, *(() if script is pretrain else ("--forget-class", 3)), *KIND.get(script, ()))


def begun(script, shared, *flags):
    """What `start` makes of a script's command line; of a flag that is given twice the last one counts."""
    args = script.parser().parse_args(latest(flags))
    method = args.kind if script is control else script.run.args[0]
    with contextlib.ExitStack() as held:
        return start(method, script.parser(), args, shared, held)


def finished(script, shared, *flags):
    """A run, and its checkpoint, as if it had been trained."""
    first = begun(script, shared, *flags)
    write_torch(first.output, first.checkpoint(first.model, COST, "python x.py"))
    assert begun(script, shared, *flags).finished
    return first


def is_another(script, shared, first, *flags):
    """True if a run of these flags is not `first`: its finished file is refused, its unfinished one isn't continued."""
    try:
        begun(script, shared, *flags)
    except UserError as error:
        assert "made with other settings" in str(error)
    else:
        return False
    return begun(script, shared, *flags, "--overwrite").facts["key"] != first.facts["key"]


def result_flags(script):
    """The flags that make a script's result, each with another value than its default, but for those that name its network,
    its data and what it forgets."""
    elsewhere = {"model", "dataset", "img_size", "subset", "test_subset", "validation"}
    elsewhere |= {f"forget_{kind}" for kind in ("class", "subclass", "random", "file", "count")} | {"of_class"}
    elsewhere |= {"mean", "std"}  # these two belong together
    if script not in FROM_SCRATCH:  # of networks that others have trained: tests/vision/test_originals.py
        elsewhere |= {"head", "entry", "input_size"}
    return [changed(action) for action in script.parser()._actions if action.dest not in CIRCUMSTANCES | elsewhere]


@pytest.mark.parametrize("script", (*FROM_SCRATCH, *METHODS), ids=lambda script: script.__name__)
def test_each_flag_that_makes_the_result_makes_another_run(script, place, shared, tmp_path, monkeypatch):
    """One at a time: its finished file isn't taken for this one's, nor its unfinished one continued."""
    create = models.create_for  # without ImageNet weights, which would be downloaded
    monkeypatch.setattr(models, "create_for", lambda name, dataset, *rest: create(name, dataset, None, *rest[1:]))
    others = result_flags(script)
    assert {"--seed", "--precision", "--batch-size", "--epochs", "--lr"} <= {flag for flag, *_ in others}
    if script not in (pretrain, finetune):  # flags that all methods share are one and the same
        others = [other for other in others if other not in result_flags(finetune)]
    flags = (*flags_of(script, place), "--output", tmp_path / "x.pth")
    first = finished(script, shared, *flags)
    for other in others:
        assert is_another(script, shared, first, *flags, *other), other


@pytest.mark.parametrize("script", FROM_SCRATCH, ids=lambda script: script.__name__)
def test_other_data_and_another_network_make_another_run(script, shared, tmp_path):
    """Which images there are, and how many; also where nothing in the command says so."""
    output = ("--output", tmp_path / "x.pth")
    flags = (*flags_of(script, None), *output)
    first = finished(script, shared, *flags)
    constants = ("--mean", 0.3, "--std", 0.5)
    for other in (("--subset", 130), ("--test-subset", 50), ("--validation", 0.25), ("--model", "resnet20"), constants):
        assert is_another(script, shared, first, *flags, *other), other


def test_a_picture_changed_or_read_at_another_size_makes_another_run(shared, tmp_path):
    """The command says the same of a folder whose images are others by now."""
    folder_of_images(tmp_path / "images")
    flags = ("--dataset", f"folder:{tmp_path / 'images'}", "--model", "resnet8", "--quiet", "--output", tmp_path / "x.pth")
    first = finished(pretrain, shared, *flags, "--img-size", 8)
    assert is_another(pretrain, shared, first, *flags, "--img-size", 12)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "images/train/ant/0.png")
    assert is_another(pretrain, Shared(), first, *flags, "--img-size", 8)


def test_another_forget_set_or_original_makes_another_run(place, shared, tmp_path):
    """Of an original what its file holds: another one of the same settings and seed may lie there by now."""
    file, listed = shutil.copy(place / "0.pth", tmp_path / "original.pth"), tmp_path / "list.txt"
    numbers = shared.load(Source("digits", Path("data"), 120)).whole.positions.tolist()
    listed.write_text(f"{numbers[1]} {numbers[5]}", encoding="utf-8")
    flags = (*SMALL, "--original", file, "--output", tmp_path / "x.pth")
    first = finished(finetune, shared, *flags, "--forget-file", listed)
    for other in (("--forget-class", 3), ("--forget-random", 0.1), ("--forget-random", 0.2), ("--forget-count", 2)):
        assert is_another(finetune, shared, first, *flags, *other), other
    listed.write_text(f"{numbers[1]} {numbers[6]}", encoding="utf-8")
    assert is_another(finetune, shared, first, *flags, "--forget-file", listed)
    listed.write_text(f"{numbers[5]} {numbers[1]}", encoding="utf-8")
    assert begun(finetune, shared, *flags, "--forget-file", listed).finished
    content = models.load_checkpoint(file)
    content["state_dict"]["net.fc.bias"] += 1
    write_torch(file, content)
    assert is_another(finetune, shared, first, *flags, "--forget-file", listed)


def test_circumstances_make_no_other_run(place, shared, tmp_path):
    flags = (*flags_of(rfau, place), "--output", tmp_path / "x.pth")
    first = finished(rfau, shared, *flags)
    shutil.copy(place / "0.pth", tmp_path / "copy.pth")
    for other in (
        ("--device", "cpu"),
        ("--cache", 0),
        ("--curve",),
        ("--weights", tmp_path),
        ("--data-dir", tmp_path),
        ("--plot", tmp_path / "x.png"),
        ("--original", tmp_path / "copy.pth"),
    ):
        again = begun(rfau, shared, *flags, *other)
        assert again.finished and again.facts["key"] == first.facts["key"], other
        assert again.facts["identity"] == first.facts["identity"], other


def test_two_folders_of_one_name_have_files_of_their_own(shared, tmp_path):
    """And each run finds the original of its own images by name."""
    found = {}
    for side, classes in (("a", ("ant", "bee")), ("b", ("ant", "cat"))):
        folder_of_images(tmp_path / side / "pets", classes=classes)
        Image.new("RGB", (8, 8), (ord(side), 0, 0)).save(tmp_path / side / "pets/train/ant/0.png")
        flags = ("--dataset", f"folder:{tmp_path / side / 'pets'}", "--img-size", 8, "--model", "resnet8", "--quiet")
        original = finished(pretrain, shared, *flags, "--weights", tmp_path)
        child = begun(finetune, shared, *flags, "--weights", tmp_path, "--forget-class", 1)
        assert child.facts["parent"] == sha256(original.output)
        assert models.load_checkpoint(original.output)["classes"] == list(classes)
        found[side] = original.output, child.output
    assert len({path for pair in found.values() for path in pair}) == 4
    assert all(
        path.name.startswith(f"pets-{models.load_checkpoint(path)['data']['fingerprint'][:6]}-8px_")
        for path, _ in found.values()
    )
    what = r"its classes without bee and with cat; missing files \(4\): bee/0.png, .*; new files \(4\): cat/0.png"
    with pytest.raises(UserError, match=f"not on this pets-.*: {what}"):
        begun(finetune, shared, *flags, "--forget-class", 1, "--original", found["a"][0])


def test_an_old_original_of_a_folder_is_found_by_its_path(shared, tmp_path):
    """Its name and what it says of the data are those of an earlier version; the fingerprint decides."""
    folder_of_images(tmp_path / "pets")
    flags = ("--dataset", f"folder:{tmp_path / 'pets'}", "--img-size", 8, "--model", "resnet8", "--quiet")
    made = finished(pretrain, shared, *flags, "--weights", tmp_path)
    content = models.load_checkpoint(made.output)
    del content["classes"]
    content["data"] = {name: content["data"][name] for name in (*data.FLAGS, "fingerprint")} | {"tag": "pets-8px"}
    write_torch(tmp_path / "pets-8px_resnet8_original_s0.pth", content)
    made.output.unlink()
    flags += ("--weights", tmp_path, "--forget-class", 1)
    with pytest.raises(UserError, match="name one with --original"):
        begun(finetune, shared, *flags)
    child = begun(finetune, shared, *flags, "--original", tmp_path / "pets-8px_resnet8_original_s0.pth")
    assert child.facts["data"]["tag"] == f"pets-{content['data']['fingerprint'][:6]}-8px"


@pytest.mark.parametrize("script", (pretrain, retrain, finetune, control, gradascent, lmeraser, sisa, evaluate))
def test_classes_are_listed_and_nothing_else_is_done(script, tmp_path, monkeypatch, capsys):
    folder_of_images(tmp_path / "pets", classes=("10", "9"))
    monkeypatch.chdir(tmp_path)
    flags = ["--dataset", "folder:pets", "--img-size", "8", "--list-classes", *map(str, KIND.get(script, ()))]
    args = script.parser().parse_args([*(["train"] if script in (lmeraser, sisa) else []), *flags])
    assert script.run(args, "python x.py") is None
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1:] == [["0", "9", "4", "4"], ["1", "10", "4", "4"]]
    assert [path.name for path in tmp_path.iterdir()] == ["pets"]


VIT = """
import timm

def vit():
    return timm.create_model("test_vit", in_chans=1, num_classes=10, img_size=8, patch_size=4)

def blocks():
    net = timm.create_model("test_resnet", in_chans=1, num_classes=10)
    net.blocks = 2
    return net
"""


def test_a_plain_vit_has_the_papers_rate(shared, tmp_path):
    """Timm's and one's own, as vit_small has; with the rate typed it is the same file. All else has the CNN's."""
    (tmp_path / "net.py").write_text(VIT, encoding="utf-8")
    vits, file = ("timm:test_vit", f"{tmp_path / 'net.py'}:vit"), tmp_path / "net.py"
    for name in (*vits, "vit_micro", "timm:test_resnet", f"{file}:blocks"):
        flags = ("--model", name, *(["--input-size", 32] if name == "timm:test_vit" else []), "--weights", tmp_path)
        found = begun(retrain, shared, *SMALL, *flags, "--forget-class", 3)
        is_vit = name in (*vits, "vit_micro")
        assert found.values["lr"] == (0.003 if name == "vit_micro" else 0.001 if is_vit else 0.1)
        assert ("lr-0.001" in found.output.name) == (name in vits)
        typed = begun(retrain, shared, *SMALL, *flags, "--forget-class", 3, "--lr", found.values["lr"])
        assert (typed.output, typed.facts["key"]) == (found.output, found.facts["key"])


@pytest.mark.parametrize(("script", "recipe"), [(pretrain, "paper"), (retrain, "fast")])
def test_no_flip_leaves_mirroring_out(script, recipe, shared, tmp_path, monkeypatch):
    """And is in no setting of files without it."""
    flipped, mirror = [], data.mirror
    monkeypatch.setattr(data, "mirror", lambda images, which: flipped.append(which.sum()) or mirror(images, which))
    folder_of_images(tmp_path / "pets")
    flags = ("--dataset", f"folder:{tmp_path / 'pets'}", "--img-size", 8, "--model", "resnet8", "--epochs", 1, "--quiet")
    flags += ("--weights", tmp_path, "--recipe", recipe, *(("--forget-class", 1) if script is retrain else ()))
    assert "no_flip" not in models.load_checkpoint(call(script, *flags))["config"] and flipped
    flipped.clear()
    path = call(script, *flags, "--no-flip")
    assert models.load_checkpoint(path)["config"]["no_flip"] is True and "-no-flip" in path.name and not flipped


def drawn(script, place, tmp_path, monkeypatch, seed):
    """What a method hands to its training, and what training made of it: two lists of tensors."""
    handed, fit = [], run_module.fit

    def watched(model, split, *arguments, **how):
        handed.extend([*(value.clone() for value in model.state_dict().values()), split.labels.clone()])
        return fit(model, split, *arguments, **how)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "fit", watched)
        flags = (*flags_of(script, place), "--epochs", 1, "--seed", seed)
        made = call(script, *flags, "--output", tmp_path / f"{seed}.pth")
    return handed, list(models.load_checkpoint(made)["state_dict"].values())


def alike(a, b):
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


DRAWS = (pretrain, retrain, lora, loraprune, rfau, randomlabel, badteacher, neglora, regun)  # something before they train


@pytest.mark.parametrize("script", (*FROM_SCRATCH, *METHODS), ids=lambda script: script.__name__)
def test_seeds_differ_in_what_is_drawn_and_in_what_is_trained(script, place, tmp_path, monkeypatch):
    """A start, an adapter's A, wrong labels, a bad teacher; then batches. From one original, with one seed each time."""
    runs = [drawn(script, place, tmp_path, monkeypatch, seed) for seed in (0, 1)]
    assert alike(runs[0][0], runs[1][0]) == (script not in DRAWS)
    assert not alike(runs[0][1], runs[1][1])


def test_a_file_of_other_settings_says_in_what_they_differ(weights, tmp_path, capsys):
    """Flags by name, and what isn't a flag in words."""
    run = (*forgetting_three(weights, 1), "--output", tmp_path / "x.pth")
    call(finetune, *run)
    capsys.readouterr()
    other = weights / "digits_resnet8_class3_finetune2_s0.pth"
    for script, flags, what in (
        (finetune, ("--epochs", 2, "--lr", 0.5), "(--epochs, --lr)"),
        (finetune, ("--forget-class", 4), "(the forget set)"),
        (finetune, ("--original", other), "(the original)"),
        (pruneft, (), "(the method, --"),
    ):
        code, line = one_line(script, capsys, *latest((*run, *flags)))
        assert code == 2 and f"x.pth was made with other settings {what}" in line, line
    call(finetune, *run)
    assert f"starts from {weights / 'digits_resnet8_original_s0.pth'}" not in capsys.readouterr().err  # there already


def test_a_retrain_takes_network_and_constants_from_the_checkpoint_that_says_the_data(tmp_path, capsys):
    common = ("--dataset", "digits", "--subset", 120, "--epochs", 1, "--weights", tmp_path, "--quiet")
    call(pretrain, *common, "--model", "resnet8", "--mean", 0.25, "--std", 0.75, "--output", tmp_path / "mine.pth")
    call(retrain, *common, "--data-of", tmp_path / "mine.pth", "--forget-class", 3, "--output", tmp_path / "a.pth")
    arguments = models.load_checkpoint(tmp_path / "a.pth")["network"]["arguments"]
    assert (arguments["mean"], arguments["std"]) == ([0.25], [0.75])
    own = ("--mean", 0.5, "--std", 0.25)
    call(retrain, *common, "--data-of", tmp_path / "mine.pth", "--forget-class", 3, *own, "--output", tmp_path / "b.pth")
    arguments = models.load_checkpoint(tmp_path / "b.pth")["network"]["arguments"]
    assert (arguments["mean"], arguments["std"]) == ([0.5], [0.25])
    call(pretrain, *common, "--model", "resnet8", "--input-size", 16, "--output", tmp_path / "large.pth")
    path = call(retrain, *common, "--data-of", tmp_path / "large.pth", "--forget-class", 3)
    assert models.load_checkpoint(path)["network"]["arguments"]["input_size"] == 16 and "input-size-16" in path.name
    content = models.load_checkpoint(tmp_path / "large.pth")
    content["network"]["name"] = "net.py:small"  # which lies in another folder than this one
    write_torch(tmp_path / "own.pth", content)
    words = ("--model", "there/net.py:small", "--data-of", str(tmp_path / "own.pth"))
    assert _with_input_of(retrain.parser().parse_args(words)).input_size == 16


def test_a_retrain_of_what_a_checkpoint_has_forgotten_needs_no_other_request(weights, tmp_path, capsys):
    common = ("--dataset", "digits", "--model", "resnet8", "--epochs", 1, "--weights", tmp_path, "--quiet")
    drawn = call(finetune, *common, "--original", weights / "digits_resnet8_original_s0.pth", "--forget-random", 0.1)
    for of in (drawn, weights / "digits_resnet8_class3_lora2_s0.pth"):
        made = models.load_checkpoint(call(retrain, *common, "--data-of", of))
        theirs = models.load_checkpoint(of)
        assert torch.equal(made["forget"], theirs["forget"]) and made["forget_tag"] == theirs["forget_tag"]
        assert made["identity"]["forget"] == theirs["identity"]["forget"]  # of a draw what makes it
    original = weights / "digits_resnet8_original_s0.pth"
    code, line = one_line(retrain, capsys, *common, "--data-of", original)
    assert code == 2 and f"{original} has forgotten nothing, and no image of it is missing: give --forget-class" in line


@pytest.mark.parametrize("script", [finetune, retrain, rfau, gradascent])
def test_a_mistaken_request_is_found_before_an_original_is_read(shared, tmp_path, capsys, monkeypatch, script):
    """A file that isn't there even before the data are; so is an original that isn't."""
    monkeypatch.setattr(originals, "read", None)
    where = (*SMALL, "--weights", tmp_path)
    requests = {
        ("--forget-class", "thre"): "--forget-class thre: the classes are 0 to 9",
        (): "nothing to forget: give --forget-class",
        ("--of-class", 3): "--of-class says of which classes",
        ("--forget-count", 121): "--forget-count 121: the training set has 120 images",
    }
    for flags, message in requests.items():
        with pytest.raises(UserError, match=message):
            call(script, *where, *flags, shared=shared)
    monkeypatch.setattr(Shared, "load", None)
    missing = [("--forget-file", tmp_path / "no.txt", f"--forget-file {tmp_path / 'no.txt'} cannot be read (No such file")]
    missing += [("--original", tmp_path / "no.pth", f"no file {tmp_path / 'no.pth'}")] if script is not retrain else []
    for flag, path, message in missing:
        with pytest.raises(UserError, match=re.escape(message)):
            request = ("--forget-class", 3) if flag == "--original" else ()
            call(script, *where, *request, flag, path, shared=shared)


def test_constants_in_other_words_make_no_other_network(tmp_path, capsys):
    """One number for all channels, one for each, and those that a checkpoint says: one identity, one file, one name."""
    folder_of_images(tmp_path / "some", classes=("ant", "bee", "cat"))
    where = ("--dataset", f"folder:{tmp_path / 'some'}", "--img-size", 8, "--model", "resnet8", "--epochs", 1, "--quiet")
    forget = (*where, "--forget-class", "ant", "--weights")
    one, three = (("--mean", *[0.5] * n, "--std", *[0.25] * n) for n in (1, 3))
    original = call(pretrain, *where, "--weights", tmp_path / "o", *one)
    of = ("--data-of", original)
    for place, (first, *others) in enumerate([(one, three, of), (three, one, of), (of, one, three)]):
        made = call(retrain, *forget, tmp_path / str(place), *first)
        before = made.read_bytes()
        capsys.readouterr()
        for words in others:
            assert call(retrain, *forget, tmp_path / str(place), *words) == made
            assert f"there already: {made}" in capsys.readouterr().err
        assert made.read_bytes() == before and len([*made.parent.glob("*.pth")]) == 1
        assert ("mean-0.5-std-0.25" in made.name) == (first is not of)
        content = models.load_checkpoint(made)
        assert content["identity"]["settings"]["mean"] == [0.5] * 3
        assert content["flags"] == ({} if first is of else {"--mean": "0.5", "--std": "0.25"})
    assert call(retrain, *forget, tmp_path / "0", *one, "--std", 0.3) != call(retrain, *forget, tmp_path / "0", *one)
    earlier = tmp_path / "1" / made.name.replace("retrain1", "retrain1-mean-0.5-0.5-0.5-std-0.25-0.25-0.25")
    call(retrain, *forget, tmp_path / "1", *one).rename(earlier)  # as earlier versions called it
    assert call(retrain, *forget, tmp_path / "1", *one) == earlier


def test_constants_of_a_network_from_elsewhere_in_other_words(tmp_path):
    folder_of_images(tmp_path / "some", classes=("ant", "bee", "cat"))
    source = f"folder:{tmp_path / 'some'}"
    model, _ = models.create_for("resnet8", data.load(source, img_size=8))
    torch.save(model.net.state_dict(), tmp_path / "bare.pth")
    where = ("--dataset", source, "--img-size", 8, "--model", "resnet8", "--original", tmp_path / "bare.pth")
    start = (*where, "--epochs", 1, "--quiet", "--weights", tmp_path / "w", "--forget-class", "ant")
    one, three = (("--mean", *[0.5] * n, "--std", *[0.25] * n) for n in (1, 3))
    made = call(finetune, *start, *one)
    assert "mean-0.5-std-0.25-from-bare" in made.name and call(finetune, *start, *three) == made
    content = models.load_checkpoint(made)
    known = copy.deepcopy(of_checkpoint(content))
    assert known["settings"]["mean"] == content["config"]["mean"] == [0.5] * 3
    content["config"] |= {"mean": [0.5], "std": [0.25]}  # as earlier versions recorded what was typed
    content["identity"]["settings"] |= {"mean": [0.5], "std": [0.25]}
    write_torch(made, content)
    assert of_checkpoint(models.load_checkpoint(made)) == known
    assert call(finetune, *start, *three) == made and len([*made.parent.glob("*.pth")]) == 1


def test_a_method_learns_from_a_part_of_what_is_retained(tmp_path, capsys):
    """--retain-subset: as many of each class, the same for every seed; what is to be forgotten stays whole."""
    original = call(pretrain, *SMALL, "--model", "resnet8", "--epochs", 1, "--output", tmp_path / "original.pth")
    flags = (*SMALL, "--original", original, "--forget-class", 3, "--weights", tmp_path)
    dataset, seen = data.load("digits", subset=120), []

    for seed in (0, 1):
        args = finetune.parser().parse_args([*map(str, flags), "--retain-subset", "45", "--seed", str(seed)])
        with contextlib.ExitStack() as held:
            seen.append(start("finetune", finetune.parser(), args, Shared(0), held).splits())
    (retain, forget), (again, _) = seen
    assert torch.equal(forget.images, dataset.train.images[dataset.train.labels == 3])
    assert torch.equal(retain.images, again.images) and len(retain) == 45
    counts = retain.labels.bincount(minlength=10)
    assert counts[3] == 0 and counts[counts > 0].min() >= 4 and counts.max() <= 6
    path = call(finetune, *flags, "--epochs", 2, "--batch-size", 15, "--retain-subset", 45)
    assert path.name.startswith("digits-120_resnet8_class3_finetune2-retain-subset-45-batch-size-15")
    assert models.load_checkpoint(path)["cost"]["steps"] == 6
    whole = call(finetune, *flags, "--epochs", 2, "--batch-size", 15)
    assert "retain_subset" not in models.load_checkpoint(whole)["config"]  # as files of before the flag
    for count in (8, 109):
        code, line = one_line(finetune, capsys, *flags, "--retain-subset", count)
        assert code == 2 and f"--retain-subset {count}: of the images that stay 9, one of each class, to 108" in line


@pytest.mark.parametrize("name", ["resnet8", "test_resnet"])
def test_a_networks_name_goes_before_a_folder_that_is_called_so(tmp_path, monkeypatch, capsys, name):
    """A folder of weights may be called by its network."""
    monkeypatch.chdir(tmp_path)
    flags = ("--dataset", "digits", "--subset", 60, "--epochs", 1, "--model", name, "--weights", name, "--quiet")
    path = call(pretrain, *flags)
    assert call(pretrain, *flags) == path and "there already" in capsys.readouterr().err
