"""The scripts as a user meets them: through the shell, killed, on a full disk, with mistakes."""

import signal

import pytest
import torch

import evaluate
import finetune
import lmeraser
import lora
import loraprune
import models
import pretrain
import pruneft
import reproduce
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
from tests.helpers import FEW, call, killed_once, one_line, shell
from unlearning.core.files import write_torch
from unlearning.core.flags import main
from unlearning.vision.snapshots import MARK, Snapshot

METHODS = (finetune, pruneft, lora, loraprune, control, rfau, gradascent, randomlabel, badteacher)
METHODS += (scrub, ssd, l1sparse, negate, delete, neglora, regun)
SCRIPTS = (pretrain, retrain, *METHODS, lmeraser, sisa, evaluate, reproduce)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda s: s.__name__)
def test_help_explains_every_flag(script):
    text = script.parser().format_help()
    assert script.__doc__.strip().splitlines()[0] in text
    for action in script.parser()._actions:
        assert action.help, action.option_strings
        assert all(option in text for option in action.option_strings)


def test_a_session_at_the_shell(tmp_path, capsys):
    """Pretrain, unlearn, evaluate, draw: the README's steps on few images; the last one is a process of its own."""
    common = ("--dataset", "digits", "--subset", "300", "--test-subset", "100", "--model", "resnet8", "--weights", tmp_path)
    forget = ("--forget-class", "3", "--epochs", "2")
    for script, flags in ((pretrain, ("--epochs", 2)), (loraprune, forget)):
        capsys.readouterr()
        call(script, *common, *flags)
        out, err = capsys.readouterr()
        assert "epoch 2/" in err
    assert "zeros among the weights: 0.0 % before, 49.6 % after" in out
    call(retrain, *common, *forget)
    call(control, *common, *forget, "--kind", "mask")
    capsys.readouterr()
    call(evaluate, *sorted(tmp_path.glob("*.pth")), "--weights", tmp_path, "--json", tmp_path / "t.json")
    table = capsys.readouterr().out
    assert all(f"\n{name}" in table for name in ("original", "retrain", "loraprune", "mask"))
    drawn = shell("reproduce.py", "draw", tmp_path / "t.json")
    assert drawn.returncode == 0, drawn.stderr
    assert (tmp_path / "t/README.md").exists() and (tmp_path / "t/figures/metrics.png").exists()
    path = next(tmp_path.glob("*_loraprune2*.pth"))
    code, line = one_line(loraprune, capsys, *common, *forget, "--lr", "0.5", "--output", path)
    assert code == 2 and "--overwrite" in line


STOPPED = [
    (pretrain, ()),
    (retrain, ("--forget-class", "3")),
    (finetune, ("--forget-random", "0.2")),
    (pruneft, ("--forget-class", "3")),
    (lora, ("--forget-class", "3")),
    (loraprune, ("--forget-class", "3")),
    (control, ("--forget-class", "3", "--kind", "head-only")),
    (rfau, ("--forget-random", "0.2")),
    (gradascent, ("--forget-class", "3", "--retain-weight", "0.9")),
    (randomlabel, ("--forget-class", "3", "--saliency", "0.5")),
    (badteacher, ("--forget-class", "3")),
    (delete, ("--forget-class", "3")),
    (neglora, ("--forget-class", "3", "--bound", "5")),
    (regun, ("--forget-random", "0.1")),
    (loraprune, ("--forget-random", "0.1", "--forget-loss", "residual")),
    (scrub, ("--forget-class", "3")),  # between two max epochs, and where the rate falls
    (l1sparse, ("--forget-class", "3")),
]


def prepared(original, tmp_path, script, extra, epochs):
    """Arguments of a run in a folder of its own, and the state dict with which it ends if nothing stops it."""
    start = () if script in (pretrain, retrain) else ("--original", original)
    arguments = ("--dataset", "digits", "--model", "resnet8", "--weights", tmp_path, *start, "--epochs", epochs, *extra)
    path = call(script, *arguments, "--output", tmp_path / "whole.pth", "--quiet")
    return arguments, models.load_checkpoint(path)["state_dict"]


def continued(script, arguments, output, expected, capsys):
    """Give the same command again and compare every bit."""
    capsys.readouterr()
    call(script, *arguments, "--output", output)
    assert "continuing after epoch" in capsys.readouterr().err
    assert not output.with_name(f"{output.name}.partial").exists()
    result = models.load_checkpoint(output)["state_dict"]
    assert all(torch.equal(value, result[key]) for key, value in expected.items())


@pytest.mark.parametrize(("script", "extra"), STOPPED, ids=lambda x: getattr(x, "__name__", ""))
def test_a_stopped_run_continues_and_ends_with_the_same_bits(few_digits, tmp_path, capsys, monkeypatch, script, extra):
    few = (*FEW[2:], "--batch-size", 32, *extra)
    arguments, expected = prepared(few_digits / "resnet8_original.pth", tmp_path, script, few, 4)
    write, calls = Snapshot.write, []

    def stop_after_two(*arguments):
        write(*arguments)
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Snapshot, "write", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        call(script, *arguments, "--output", tmp_path / "out.pth", "--quiet")
    continued(script, arguments, tmp_path / "out.pth", expected, capsys)


def few_of(few_digits, tmp_path, script):
    """`prepared`, for 12 epochs of few images: enough for a process to be killed between the first and the last."""
    (extra,) = (extra for one, extra in STOPPED if one is script)
    few = (*FEW[2:], "--batch-size", 32, *extra)
    return prepared(few_digits / "resnet8_original.pth", tmp_path, script, few, 12)


def test_a_killed_run_continues_and_ends_with_the_same_bits(few_digits, tmp_path, capsys):
    arguments, expected = few_of(few_digits, tmp_path, pretrain)
    output, partial = tmp_path / "out.pth", tmp_path / "out.pth.partial"
    assert killed_once(partial.exists, lambda: call(pretrain, *arguments, "--output", output, "--quiet"))
    assert partial.exists() and not output.exists()
    continued(pretrain, arguments, output, expected, capsys)


def test_a_run_that_is_ended_by_sigterm_says_so_in_one_line_and_continues(few_digits, tmp_path, capsys):
    """As a cluster ends it: nothing but the snapshot is left."""
    arguments, expected = few_of(few_digits, tmp_path, finetune)
    output, partial = tmp_path / "out.pth", tmp_path / "out.pth.partial"

    def begun():  # an epoch is done
        return output.exists() or partial.exists()

    ended = shell("finetune.py", *arguments, "--output", output, kill_when=begun, by=signal.SIGTERM)
    assert ended.returncode == 143 and partial.exists() and not output.exists()
    assert ended.stderr.splitlines()[-1] == "finetune.py: stopped; the same command continues"
    assert sorted(file.name for file in tmp_path.glob(".*")) == []
    continued(finetune, arguments, output, expected, capsys)


def test_an_unfinished_run_with_other_settings_is_not_continued(weights, tmp_path, capsys):
    partial = tmp_path / "x.pth.partial"
    write_torch(partial, {"what": MARK, "key": "another", "epoch": 1})
    arguments = ("--dataset", "digits", "--weights", weights, "--model", "resnet8", "--forget-class", 3, "--quiet")
    code, line = one_line(finetune, capsys, *arguments, "--output", tmp_path / "x.pth")
    assert code == 2 and "other settings" in line and partial.exists()
    call(finetune, *arguments, "--epochs", 1, "--output", tmp_path / "x.pth", "--overwrite")
    assert [p.name for p in tmp_path.iterdir()] == ["x.pth"]


def test_a_full_disk_fails_in_one_line_and_leaves_nothing(few_digits, tmp_path):
    arguments = (*FEW, "--original", few_digits / "resnet8_original.pth", "--forget-class", "3", "--epochs", 2, "--quiet")
    done = shell("finetune.py", *arguments, "--output", tmp_path / "x.pth", file_limit_kib=200)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_says_how_to_continue(monkeypatch, capsys):
    class Parser:
        prog = "x.py"

        def parse_args(self):
            raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        main(None, Parser())
    assert stop.value.code == 130
    assert capsys.readouterr().err == "x.py: stopped; the same command continues\n"


MISTAKES = [
    (finetune, ("--dataset", "digits"), "nothing to forget"),
    (finetune, ("--dataset", "digits", "--forget-class", "11"), "classes are 0 to 9"),
    (finetune, ("--dataset", "nonsense", "--forget-class", "3"), "unknown data set"),
    (finetune, ("--dataset", "", "--forget-class", "3"), "--dataset: it is empty"),
    (pretrain, ("--dataset", "digits", "--model", " "), "--model: it is empty"),
    (pretrain, ("--dataset", "digits", "--output", "x" * 221 + ".pth"), "its name is longer than 213 bytes"),
    (finetune, ("--dataset", "digits", "--forget-class", "3", "--seed", "9"), "train it with pretrain.py"),
    (finetune, ("--dataset", "digits", "--forget-class", "3", "--subset", "500", "--original", "{original}"), "not on this"),
    (finetune, ("--dataset", "digits", "--forget-class", "3", "--model", "resnet20", "--original", "{original}"), "holds a"),
    (finetune, ("--dataset", "digits", "--forget-class", "3", "--original", "{text}"), "not a readable checkpoint"),
    (finetune, ("--dataset", "digits", "--forget-class", "3", "--device", "cuda:7"), "--device cuda:7"),
    (finetune, ("--dataset", "digits", "--forget-class", "3", "--device", "meta"), "--device meta"),
    (finetune, ("--dataset", "digits", "--forget-class", "3", "--seed", "9" * 20), "from 0 to 4,294,967,295"),
    (finetune, ("--dataset", "digits", "--forget-class", "3", "--seed", "-1"), "from 0 to 4,294,967,295"),
    (lora, ("--dataset", "digits", "--forget-class", "3", "--dropout", "3"), "below 1"),
    (lora, ("--dataset", "digits", "--forget-class", "3", "--dropout", "nan"), "below 1"),
    (pretrain, ("--dataset", "digits", "--model", "vit_micro", "--input-size", "2"), "no images of 2 pixels"),
    (pretrain, ("--dataset", "digits", "--model", "vit_small", "--input-size", "7"), "no images of 7 pixels"),
    (evaluate, ("{unlearned}", "--json", "t", "--csv", "t"), "written twice"),
    (evaluate, ("{unlearned}", "--json", "{unlearned}", "--overwrite"), "written twice"),
    (control, ("--dataset", "digits", "--forget-random", "0.1", "--kind", "mask"), "needs --forget-class"),
    (control, ("--dataset", "digits", "--forget-random", "0.1", "--kind", "bias"), "--kind bias needs --forget-class"),
    (randomlabel, ("--dataset", "digits", "--forget-class", "3", "--random-mask"), "--random-mask needs --saliency"),
    (pretrain, ("--dataset", "digits", "--model", "resnet9000"), "unknown model"),
    (pretrain, ("--dataset", "folder:/nowhere"), "needs train/<class>/"),
    *((reproduce, (table, "--dry-run", "--model", "resnet9000"), "unknown model") for table in ("prunelora", "sequence")),
    (reproduce, ("lmeraser", "--dry-run", "--model", "torchvision:resnet9000"), "torchvision has no network 'resnet9000'"),
    (reproduce, ("draw", "{text}"), "the name of a result file ends in .json"),
    (reproduce, ("draw",), "folders of results come after draw"),
    (reproduce, ("draw", "{text}", "--dry-run"), "draw has no --dry-run: it says nothing to it"),
    (reproduce, ("pages", "--results", "x"), "pages has no --results: it says nothing to it"),
    (reproduce, ("pages", "--overwrite"), "pages has no --overwrite: it says nothing to it"),
    (reproduce, ("prunelora", "{text}"), "folders of results come after draw"),
]


@pytest.mark.parametrize(("script", "arguments", "message"), MISTAKES, ids=lambda x: x if isinstance(x, str) else "")
def test_a_mistake_gets_one_line_and_exit_code_2(weights, tmp_path, capsys, monkeypatch, script, arguments, message):
    original = weights / "digits_resnet8_original_s0.pth"
    text = tmp_path / "text.pth"
    text.write_text("not a checkpoint", encoding="utf-8")
    known = {"original": original, "unlearned": weights / "digits_resnet8_class3_lora2_s0.pth", "text": text}
    arguments = [a.format(**known) for a in arguments]
    if script not in (reproduce, evaluate) and "--model" not in arguments and "--original" not in arguments:
        arguments += ["--model", "resnet8"]
    monkeypatch.chdir(tmp_path)
    if script is not reproduce:
        arguments += ["--weights", str(weights)]
    before = sorted(weights.iterdir())
    code, line = one_line(script, capsys, *arguments)
    assert code == 2
    assert message in line
    assert sorted(weights.iterdir()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["text.pth"]
