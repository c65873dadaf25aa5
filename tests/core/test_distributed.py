"""Several processes give the weights of one."""

import contextlib
import os
import socket
import sys
import traceback

import pytest
import torch
from timm.layers import DropPath
from torch import nn

import evaluate
import export
import finetune
import llmeraser
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
from tests.helpers import ROOT, call, shell
from unlearning.core import distributed
from unlearning.core.errors import UserError
from unlearning.core.flags import main
from unlearning.vision.dropout import Dropout
from unlearning.vision.shared import Shared
from unlearning.vision.snapshots import Snapshot

CNN, VIT = "resnet8", "vit_micro"
RUNS = {  # name: script, network, flags
    "original-cnn": (pretrain, CNN, ("--recipe", "paper", "--epochs", 2, "--confidence")),  # crops and batch statistics
    "original-vit": (pretrain, VIT, ("--recipe", "paper")),  # mixup and a clipped gradient
    "retrain-cnn": (retrain, CNN, ("--recipe", "fast")),
    "retrain-vit": (retrain, VIT, ("--recipe", "fast")),
    "finetune-cnn": (finetune, CNN, ()),
    "pruneft-vit": (pruneft, VIT, ()),
    "lora-cnn": (lora, CNN, ("--epochs", 2)),  # dropout
    "lora-vit": (lora, VIT, ()),  # dropout on kept outputs of the frozen part
    "loraprune-vit": (loraprune, VIT, ()),
    "bounded-cnn": (loraprune, CNN, ("--forget-loss", "bounded")),
    "delete-loss-vit": (loraprune, VIT, ("--forget-loss", "delete")),
    "residual-cnn": (loraprune, CNN, ("--forget-loss", "residual", "--dropout", 0.25)),
    "rfau-cnn": (rfau, CNN, ("--batch-size", 5, "--shift", "head")),
    "rfau-vit": (rfau, VIT, ("--batch-size", 5, "--forget-random", 0.1, "--shift", "unseen")),
    "gradascent-cnn": (gradascent, CNN, ("--batch-size", 5, "--retain-weight", 0.8, "--lr", 0.001)),
    "randomlabel-cnn": (randomlabel, CNN, ("--saliency", 0.5)),
    "badteacher-vit": (badteacher, VIT, ()),
    "scrub-cnn": (scrub, CNN, ()),  # with a max epoch
    "l1sparse-cnn": (l1sparse, CNN, ("--gamma", 0.001)),
    "negate-cnn": (negate, CNN, ()),
    "delete-cnn": (delete, CNN, ("--batch-size", 5, "--lr", 0.01)),
    "neglora-cnn": (neglora, CNN, ("--bound", 9, "--beta", 1, "--batch-size", 5)),
    "regun-cnn": (regun, CNN, ("--forget-random", 0.1)),
    "head-only-cnn": (control, CNN, ("--kind", "head-only")),
    "zero-row-cnn": (control, CNN, ("--kind", "zero-row")),  # no training
    "ssd-cnn": (ssd, CNN, ()),
}
# One of each way to train: batch norms, mixup, dropout on kept outputs, draws from D_r, both splits in a batch, two passes.
QUICK = ("original-cnn", "original-vit", "lora-cnn", "lora-vit", "rfau-vit", "scrub-cnn", "residual-cnn", "regun-cnn")
REST = [name for name in RUNS if name not in QUICK]
DRIVER = """
import sys
sys.path.insert(0, {root!r})
from tests.core.test_distributed import run_all
run_all({folder!r}, {originals!r}, {names!r}, {extra!r}, {stopped!r})
"""


def run_all(folder, originals, names, extra=(), stopped=None):
    """Some of RUNS in float64, each checkpoint named after its run: what isn't rounding shows. The last batch is odd,
    and has one image of D_f, or a few, beside D_r's.

    originals: folder of the originals that the others start from. extra: more flags. stopped: the number of epochs after
    which it is interrupted.
    """
    shared, single = Shared(), torch.float32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        if stopped:
            patch.setattr(Snapshot, "after_epoch", _interrupted(Snapshot.after_epoch, stopped))
        torch.set_default_dtype(torch.float64)
        try:
            for name in names:
                call(RUNS[name][0], *words(name, folder, originals), *extra, shared=shared)
        finally:
            torch.set_default_dtype(single)


def _interrupted(after_epoch, stopped):
    def after(snapshot, model, optimizer, scheduler, done, *rest):
        after_epoch(snapshot, model, optimizer, scheduler, done, *rest)
        if done == stopped:
            torch.distributed.barrier()  # the snapshot is there
            sys.exit(0)

    return after


def words(name, folder, originals):
    """The command line of one of RUNS."""
    script, model, flags = RUNS[name]
    common = ("--dataset", "digits", "--subset", 161, "--model", model, "--batch-size", 23, "--epochs", 1, "--quiet")
    common += ("--precision", "fp32", "--output", f"{folder}/{name}.pth", "--weights", folder)
    if script is not pretrain:
        kind = "cnn" if model == CNN else "vit"
        common += () if script is retrain else ("--original", f"{originals}/original-{kind}.pth")
        common += () if "--forget-random" in flags else ("--forget-class", 3)
    return *common, *flags


TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (
    "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
)


def launched(folder, originals, names, extra=(), stopped=None, launcher=TORCHRUN):
    """`run_all` in two processes by torchrun, or by another launcher."""
    driver = folder / "driver.py"
    given = {"folder": str(folder), "originals": str(originals), "names": list(names), "extra": list(extra)}
    driver.write_text(DRIVER.format(root=str(ROOT), stopped=stopped, **given), encoding="utf-8")
    result = shell("-m", *launcher, str(driver))
    assert result.returncode == 0, result.stderr


def doubled(folder, originals, names):
    """`run_all` in two copies of this process, which find in the environment what torchrun says there: they have imported
    all already. By torchrun where a process can't be copied."""
    if torch.cuda.is_available() or not hasattr(os, "fork"):
        launched(folder, originals, names)
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        found = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
    children = []
    for rank in "01":
        if not (child := os.fork()):
            _run_and_end(folder, originals, names, found | {"RANK": rank, "LOCAL_RANK": rank})
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


def _run_and_end(folder, originals, names, environment):
    try:
        os.environ |= environment
        run_all(str(folder), str(originals), names)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(1)


def _both(factory, names, run, originals=None):
    one, two = factory.mktemp("one"), factory.mktemp("two")
    run_all(str(one), str(originals or one), names)
    run(two, originals or one, names)
    return one, two


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    return _both(tmp_path_factory, QUICK, doubled)


@pytest.fixture(scope="module")
def rest(tmp_path_factory, quick):
    return _both(tmp_path_factory, REST, launched, quick[0])


def distance(whole, shared):
    """The norm of the difference of two state dicts over that of the first."""
    pairs = [(value.double().flatten(), shared[key].double().flatten()) for key, value in whole.items()]
    off, length = (torch.cat(tensors).norm().item() for tensors in ([a - b for a, b in pairs], [a for a, _ in pairs]))
    return off / length


def alike(name, one, two, start):
    """Assert that two processes have made of `start` what one has, and not `start` itself."""
    whole, shared = (models.load_checkpoint(folder / f"{name}.pth") for folder in (one, two))
    assert distance(whole["state_dict"], shared["state_dict"]) < 1e-9
    if RUNS[name][0] is not pretrain:
        kind = "cnn" if RUNS[name][1] == CNN else "vit"
        before = models.load_checkpoint(start / f"original-{kind}.pth")["state_dict"]
        assert whole["cost"]["moved"] == shared["cost"]["moved"]
        assert distance(before, whole["state_dict"]) > 1e-6
    assert whole["key"] != "" and "x 2" in shared["device"] and "x 2" not in whole["device"]


@pytest.mark.parametrize("name", QUICK)
def test_two_processes_give_the_weights_of_one(name, quick):
    alike(name, *quick, quick[0])


def test_two_processes_are_as_sure_of_each_image_as_one(quick):
    one, two = ((folder / "original-cnn_confidence.csv").read_text(encoding="utf-8").splitlines() for folder in quick)
    assert len(one) == 1 + 161 and sorted(one[1:]) == sorted(two[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", REST)
def test_every_other_script_does_so_too(name, rest, quick):
    alike(name, *rest, quick[0])


@pytest.mark.parametrize("script", [evaluate, export, lmeraser, llmeraser, reproduce, sisa])
def test_what_runs_in_one_process_says_so(script, monkeypatch, capsys):
    words = {reproduce: ["prunelora"], lmeraser: ["train"], sisa: ["train"], llmeraser: ["finetune", "--task", "genre"]}
    monkeypatch.setattr(sys, "argv", [script.__name__, *words.get(script, ["x.pth"])])
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        main(lambda *_: pytest.fail("it began"), script.parser())
    err = capsys.readouterr().err
    assert stop.value.code == 2 and len(err.splitlines()) == 1 and "it runs in one process: " in err


@pytest.mark.parametrize(
    ("left", "line"),
    [
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many' in the environment"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0' in the environment"),
        ({"RANK": "x"}, "RANK is 'x' in the environment"),
        ({"RANK": "3"}, "RANK is 3 of WORLD_SIZE 1 processes"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK is '-1' in the environment"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, and RANK isn't set"),
        ({"WORLD_SIZE": "2", "RANK": "1"}, "WORLD_SIZE is 2, and MASTER_ADDR isn't set"),
        ({"WORLD_SIZE": ""}, None),
    ],
)
def test_what_a_cluster_leaves_in_the_environment_is_one_line(left, line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["finetune.py", "--dataset", "digits", "--forget-class", "3"])
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    began = []
    with contextlib.suppress(SystemExit):
        main(lambda *_: began.append(1), finetune.parser())
    err = capsys.readouterr().err
    assert began == ([] if line else [1]) and err.count("\n") == (1 if line else 0) and (line or "") in err


def test_one_process_writes(quick):
    assert not list(quick[1].glob(".*"))
    assert len(list(quick[1].glob("*.pth"))) == len(QUICK)


@pytest.mark.slow
def test_two_processes_continue_and_draw_one_curve(quick, tmp_path):
    """Killed after the first of three epochs, then given again."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    flags = ("--epochs", 3, "--curve")
    run_all(str(one), str(quick[0]), ["lora-cnn"], flags)
    launched(two, quick[0], ["lora-cnn"], flags, stopped=1)
    assert not (two / "lora-cnn.pth").exists()
    launched(two, quick[0], ["lora-cnn"], flags)
    alike("lora-cnn", one, two, quick[0])
    curves = [(folder / "lora-cnn_curve.csv").read_text(encoding="utf-8") for folder in (one, two)]
    assert curves[0] == curves[1] and len(curves[0].splitlines()) == 1 + 3


@pytest.mark.slow
def test_accelerate_launches_them_too(quick, tmp_path):
    launched(tmp_path, quick[0], ["lora-vit"], launcher=ACCELERATE.split())
    alike("lora-vit", quick[0], tmp_path, quick[0])


DRAWS = {
    "dropout": lambda x: torch.nn.functional.dropout(x, 0.4, training=True),
    "ours": Dropout(0.4),
    "channels": nn.Dropout2d(0.4),
    "stochastic depth": DropPath(0.4),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_draws_are_those_of_the_whole_batch(name, layout, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    x, draw = torch.rand(9, 3, 4, 2).contiguous(memory_format=layout), DRAWS[name]
    torch.manual_seed(0)
    whole = draw(x)
    assert (whole == 0).any() and (whole != 0).any()
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        part, _ = distributed.shard(9)
        torch.manual_seed(0)
        with distributed._WholeBatch(9):
            assert torch.equal(draw(x[part]), whole[part])


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True)(x, x, x, need_weights=False),
        lambda x: nn.functional.scaled_dot_product_attention(x, x, x, dropout_p=0.1),
        lambda x: nn.functional.dropout(x[:1], 0.1, training=True),
    ],
)
def test_draws_that_have_no_row_for_each_image_are_refused(draw, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with distributed._WholeBatch(4), pytest.raises(UserError, match="without torchrun"):
        draw(torch.rand(2, 3, 4))


@pytest.mark.parametrize("shape", [(12, 5), (12, 5, 7), (12, 5, 4, 3), (12, 5, 2, 3, 4)])
def test_batch_norms_of_every_dimension_are_torchs(shape, monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: None)  # one process: the sum is its own
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.rand(5), torch.randn(5)
    found, expected = ((torch.zeros(5), torch.ones(5)) for _ in range(2))
    ours = distributed._batch_norm(x, *found, weight, bias, training=True)
    torch.testing.assert_close(ours, torch.nn.functional.batch_norm(x, *expected, weight, bias, training=True))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_shares_make_up_the_batch_and_weights_its_mean(monkeypatch):
    losses = torch.rand(10)
    for world in (2, 3, 4):
        monkeypatch.setenv("WORLD_SIZE", str(world))
        total, seen = 0, []
        for rank in range(world):
            monkeypatch.setenv("RANK", str(rank))
            piece, weight = distributed.shard(10)
            seen += losses[piece].tolist()
            total += weight * losses[piece].mean() / world
        assert seen == losses.tolist()
        torch.testing.assert_close(total, losses.mean())
    assert distributed.shard(3) == (slice(3), 1.0)
