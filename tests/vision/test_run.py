"""The run that a method sees."""

import shutil
import sys

import pytest
import torch

import data
import finetune
import lora
import models
import pretrain
import retrain
from baselines import control
from tests.helpers import FP32, Altered, call, files, full_disk, one_line, shell
from unlearning.core import memory
from unlearning.core.errors import RunFailed, UserError
from unlearning.core.files import Staged, write_torch
from unlearning.vision import adapter_files, train
from unlearning.vision.identity import of_checkpoint
from unlearning.vision.run import Run
from unlearning.vision.settings import Settings
from unlearning.vision.shared import Shared

OWN_METHOD = '''
"""A method of one's own."""
from functools import partial
from unlearning.vision.flags import method_parser
from unlearning.vision.run import execute

def unlearn(model, retain, forget, run):
    run.settings.lr = 5
    return model

def parser():
    return method_parser(__doc__, epochs=1, lr=0.1)

run = partial(execute, "meddler", unlearn, parser)
'''


def test_settings_are_read_and_never_written():
    given = {"lr": 0.1, "rank": 4}
    settings = Settings(given)
    given["lr"] = 5
    assert settings.lr == settings["lr"] == 0.1 and dict(settings) == {"lr": 0.1, "rank": 4}
    with pytest.raises(AttributeError, match="don't change"):
        settings.lr = 1
    with pytest.raises(TypeError):
        settings["lr"] = 1
    with pytest.raises(AttributeError, match="alpha"):
        _ = settings.alpha


def test_a_run_trains_with_its_own_epochs_seed_and_device_and_adds_to_its_cost(tmp_path):
    dataset = data.load("digits", subset=64)
    model, _ = models.create_for("resnet8", dataset)
    settings = Settings({"epochs": 3, "batch_size": 16, "seed": 0})
    run = Run("x", settings, FP32, dataset, Staged(tmp_path / "x.pth"), cost={"moved": 1})
    assert run.fit(model, dataset.train, torch.optim.SGD(model.parameters(), lr=0.1)) is model and not model.training
    assert run.cost["steps"] == 12 and run.cost["moved"] == 1 and run.cost["seconds"] > 0


def test_a_method_that_writes_to_its_settings_fails(weights, tmp_path, monkeypatch):
    (tmp_path / "meddler.py").write_text(OWN_METHOD, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    import meddler

    common = ("--dataset", "digits", "--model", "resnet8", "--weights", weights, "--forget-class", 3, "--quiet")
    with pytest.raises(AttributeError, match="don't change"):
        call(meddler, *common, "--output", tmp_path / "x.pth")
    sys.modules.pop("meddler")


def test_a_finished_output_given_again_is_there_already(weights, tmp_path, capsys):
    output = tmp_path / "x.pth"
    arguments = ("--dataset", "digits", "--model", "resnet8", "--weights", weights, "--forget-class", "3", "--epochs", "1")
    arguments = (*arguments, "--output", output)
    call(finetune, *arguments)
    before = output.read_bytes()
    for further in ((), ("--cache", "0")):  # the same command, and with another circumstance
        capsys.readouterr()
        assert call(finetune, *arguments, *further) == output
        assert capsys.readouterr().err == f"there already: {output}\n"
    code, line = one_line(finetune, capsys, *arguments, "--batch-size", "64")
    assert code == 2 and "--overwrite" in line
    assert output.read_bytes() == before


def test_nothing_of_anyones_goes_with_a_run(weights, tmp_path, capsys, monkeypatch):
    """Neither what has the name of its unfinished run, though it trains nothing, nor what comes while it trains."""
    common = ("--dataset", "digits", "--model", "resnet8", "--weights", weights, "--forget-class", "3", "--quiet")
    (tmp_path / "x.pth.partial").write_bytes(b"a download")
    mask = (control, *common, "--kind", "mask", "--output", tmp_path / "x.pth")
    code, line = one_line(*mask[:1], capsys, *mask[1:])
    assert code == 2 and "is no unfinished run of this project" in line
    assert files(tmp_path) == {"x.pth.partial": b"a download"}
    (tmp_path / "x.pth.partial").unlink()
    tuned, epoch = (*common, "--epochs", 2, "--output", tmp_path / "x.pth"), train._epoch

    def stopped(*given):
        if "2/2" in given[0]:
            raise KeyboardInterrupt
        return epoch(*given)

    with monkeypatch.context() as patch:
        patch.setattr(train, "_epoch", stopped)
        with pytest.raises(KeyboardInterrupt):
            call(finetune, *tuned)
    unfinished = (tmp_path / "x.pth.partial").read_bytes()
    call(*mask)
    assert (tmp_path / "x.pth.partial").read_bytes() == unfinished  # another run's
    (tmp_path / "x.pth").unlink()

    def while_it_trains(*given):
        (tmp_path / "x.pth").write_bytes(b"a stranger's")
        return epoch(*given)

    monkeypatch.setattr(train, "_epoch", while_it_trains)
    with pytest.raises(RunFailed, match=r"x\.pth has come while this was at work"):
        call(finetune, *tuned)
    assert (tmp_path / "x.pth").read_bytes() == b"a stranger's"


def test_an_output_that_is_a_link_is_refused(weights, tmp_path, capsys):
    """It would be replaced by the checkpoint, and what it leads to would stay as it was."""
    (tmp_path / "link.pth").symlink_to(weights / "digits_resnet8_original_s0.pth")
    common = ("--dataset", "digits", "--model", "resnet8", "--epochs", 1, "--overwrite", "--quiet")
    code, line = one_line(pretrain, capsys, *common, "--output", tmp_path / "link.pth")
    assert code == 2 and line.endswith("link.pth is a link, which the checkpoint would replace: name what it leads to")
    assert (tmp_path / "link.pth").is_symlink() and len(list(tmp_path.iterdir())) == 1


def test_a_full_disk_leaves_the_old_checkpoint_and_what_to_continue_from(tmp_path, monkeypatch, capsys):
    """At the snapshot, at the adapter, at the checkpoint, which comes last: it alone says that a run is finished."""
    common = ("--dataset", "digits", "--subset", 120, "--weights", tmp_path)
    call(pretrain, *common, "--model", "resnet8", "--epochs", 1, "--output", tmp_path / "original.pth")
    run = (lora, *common, "--original", tmp_path / "original.pth", "--forget-class", 3, "--epochs", 2)
    run = (*run, "--output", tmp_path / "x.pth")
    call(*run)
    before, again = files(tmp_path), (*run, "--lr", 0.01, "--overwrite")
    with full_disk(), pytest.raises(RunFailed, match="No space left"):
        call(*again)
    assert files(tmp_path) == before
    with monkeypatch.context() as patch:
        patch.setattr(adapter_files, "save_tensors", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(RunFailed, match="No space left"):
            call(*again)
    found = files(tmp_path)
    unfinished = found.pop("x.pth.partial")
    assert found == before
    with (
        full_disk(nth=3),
        pytest.raises(RunFailed, match=r"cannot write .*x\.pth: No space left"),
    ):  # after the adapter and its card
        call(*again)
    found = files(tmp_path)
    assert (found["x.pth"], found["x.pth.partial"]) == (before["x.pth"], unfinished)
    with pytest.raises(UserError, match="other settings"):  # the one that is there isn't what was asked for
        call(*run, "--lr", 0.01)
    capsys.readouterr()
    call(*again)
    assert "continuing after epoch 1" in capsys.readouterr().err
    assert models.load_checkpoint(tmp_path / "x.pth")["config"]["lr"] == 0.01
    assert files(tmp_path).keys() == before.keys()


def test_argparses_own_errors_are_one_line(capsys):
    """A baseline's, which is run as a module, in a process of its own."""
    done = shell("-m", "baselines.control", "--dataset", "digits")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "--kind" in done.stderr
    for arguments in (("--modl", "x"), ("--forget-count", "Dress")):
        code, line = one_line(finetune, capsys, *arguments)
        assert code == 2 and (arguments[0] if arguments[1] == "x" else "Dress") in line


def test_retrain_depends_on_no_pixel_and_no_label_of_what_is_forgotten(tmp_path):
    gone = torch.arange(0, 300, 3)
    numbers = data.load("digits", subset=300).whole.positions[gone]
    (tmp_path / "gone.txt").write_text("\n".join(map(str, numbers.tolist())), encoding="utf-8")
    flags = ("--dataset", "digits", "--subset", 300, "--model", "resnet8", "--forget-file", tmp_path / "gone.txt")
    states = []
    for name, shared in (("as_it_is", Shared()), ("altered", Altered(gone))):
        where = ("--epochs", 1, "--quiet", "--weights", tmp_path / name)
        states.append(models.load_checkpoint(call(retrain, *flags, *where, shared=shared))["state_dict"])
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(x, states[1][key]) for key, x in states[0].items())


def constants(path):
    return [models.load_checkpoint(path)["network"]["arguments"][name] for name in ("mean", "std")]


def test_normalisation_is_the_data_sets_or_what_the_flags_say(tmp_path, capsys):
    flags = ("--dataset", "digits", "--subset", 100, "--model", "resnet8", "--epochs", 1, "--quiet", "--weights", tmp_path)
    default = call(pretrain, *flags)
    own = call(pretrain, *flags, "--mean", 0.3, "--std", 0.4)
    assert constants(default) == [[0.5], [0.5]] and constants(own) == [[0.3], [0.4]]
    assert "mean" in own.name and "mean" not in default.name
    assert models.build(models.load_checkpoint(own)).normalize(torch.ones(1, 1, 8, 8)).mean().item() == pytest.approx(1.75)
    for wrong, message in (
        (("--mean", 0.3), "belong together"),
        (("--mean", 0.3, 0.3, "--std", 0.4, 0.4), "1 channel"),
        (("--mean", 76, "--std", 0.4), "from 0 to 1"),
        (("--mean", 0.3, "--std", 0), "not a number from 1e-30"),
    ):
        code, line = one_line(pretrain, capsys, *flags, *wrong)
        assert code == 2 and message in line
    assert {file.name for file in tmp_path.iterdir()} == {default.name, own.name}


def test_a_batch_of_one_image_is_one_line_where_batch_norms_need_more(tmp_path, capsys):
    """Of which the last layers of the network leave one pixel."""
    flags = ("--dataset", "digits", "--subset", 11, "--model", "test_efficientnet", "--epochs", 10, "--weights", tmp_path)
    code, line = one_line(pretrain, capsys, *flags, "--quiet", "--batch-size", 1)
    assert code == 2 and "a batch of one image is too few" in line and not files(tmp_path)


def test_images_that_do_not_fit_into_the_memory_are_refused_beforehand(tmp_path, capsys, monkeypatch):
    """No more images at once than there are, nor than are computed at once anywhere: of 16 channels in and 16 out."""
    monkeypatch.setattr(memory, "available", lambda: 100 * 2.0**20)
    flags = ("--dataset", "digits", "--model", "resnet8", "--epochs", 1, "--quiet", "--weights", tmp_path)
    code, line = one_line(pretrain, capsys, *flags, "--input-size", 1024, "--batch-size", 10**9)
    expected = (
        "resnet8, for 250 images of 1024 x 1024 pixels at once, needs at least 31.3 GiB of memory, of which 0.1 GiB are"
    )
    assert code == 2 and f"{expected} free: give a smaller --batch-size or --input-size" in line and not files(tmp_path)


def test_an_original_normalised_by_its_images_is_not_there_already(tmp_path, capsys):
    """As earlier versions trained it: the file records no constants, its network has them."""
    flags = ("--dataset", "digits", "--subset", 100, "--model", "resnet8", "--epochs", 1, "--quiet", "--weights", tmp_path)
    path = call(pretrain, *flags)
    before = models.load_checkpoint(path)
    for name in ("mean", "std"):
        del before["config"][name], before["identity"]["settings"][name]
    write_torch(path, before)
    kept = path.read_bytes()
    assert call(pretrain, *flags) == path and path.read_bytes() == kept  # its constants are today's
    same_identity = of_checkpoint(models.load_checkpoint(path))
    before["network"]["arguments"]["mean"] = [0.3061]
    write_torch(path, before)
    child = ("--dataset", "digits", "--subset", 100, "--original", path, "--forget-class", 3, "--epochs", 1, "--quiet")
    older = call(lora, *child, "--output", tmp_path / "older.pth")
    recorded = models.load_checkpoint(older)
    for name in ("mean", "std"):
        del recorded["identity"]["parent"]["settings"][name]  # as earlier versions wrote it
    today = of_checkpoint(models.load_checkpoint(older))
    assert of_checkpoint(recorded) == today and today["parent"]["settings"]["mean"] == [0.3061]  # seeds of one row
    for file in tmp_path.glob("older*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    code, line = one_line(pretrain, capsys, *flags)
    assert code == 2 and "other settings" in line
    assert of_checkpoint(models.load_checkpoint(path)) != same_identity  # no seeds of one row


def test_overwrite_takes_nothing_of_anyones_along(tmp_path):
    """A file called as an unfinished run is, and notes in the folder of the adapter that goes: each refused beforehand."""
    flags = ("--dataset", "digits", "--subset", 60, "--model", "resnet8", "--epochs", 1, "--quiet")
    first = call(pretrain, *flags, "--output", tmp_path / "first.pth")
    flags = (*flags, "--original", first, "--forget-class", 3, "--overwrite", "--output", tmp_path / "x.pth")
    call(lora, *flags)
    for name, what in (
        ("x.pth.partial", "is no unfinished run of this project"),
        ("x_adapter/notes.txt", r"which goes with x\.pth, holds notes\.txt"),
        (".x.pth.unlearning-lock", "where the lock on"),
    ):
        (tmp_path / name).mkdir() if name.startswith(".") else (tmp_path / name).write_bytes(b"mine")
        before = files(tmp_path)
        with pytest.raises(UserError, match=what):
            call(finetune, *flags)
        assert files(tmp_path) == before
        (tmp_path / name).rmdir() if name.startswith(".") else (tmp_path / name).unlink()
    call(finetune, *flags)
    assert files(tmp_path).keys() == {"first.pth", "x.pth"}
