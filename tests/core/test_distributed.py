"""Several processes give the weights of one."""

import pytest
import torch

import finetune
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
    ssd,
)
from tests.helpers import ROOT, call, shell
from unlearning.core import distributed
from unlearning.vision.shared import Shared

CNN, VIT = "resnet8", "vit_micro"
RUNS = {  # name: script, network, flags
    "original-cnn": (pretrain, CNN, ("--recipe", "paper", "--epochs", 2)),  # crops and batch statistics
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
    "bias-cnn": (control, CNN, ("--kind", "bias")),  # no training
    "ssd-cnn": (ssd, CNN, ()),
}
DRIVER = """
import sys
sys.path.insert(0, {root!r})
from tests.core.test_distributed import run_all
run_all({folder!r}, {originals!r})
"""


def run_all(folder, originals, names=RUNS, extra=()):
    """Each of RUNS in float64, its checkpoint named after it: what isn't rounding shows. The batches leave a last one of an
    odd size, and one image of D_f or a few beside D_r's.

    originals: folder of the originals that the others start from.
    """
    shared, single = Shared(), torch.float32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            for name in names:
                call(RUNS[name][0], *words(name, folder, originals), *extra, shared=shared)
        finally:
            torch.set_default_dtype(single)


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


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    driver = two / "driver.py"
    driver.write_text(DRIVER.format(root=str(ROOT), folder=str(two), originals=str(one)), encoding="utf-8")
    run_all(str(one), str(one))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(driver)]
    result = shell(*torchrun)
    assert result.returncode == 0, result.stderr
    return one, two


def distance(whole, shared):
    """The norm of the difference of two state dicts over that of the first."""
    pairs = [(value.double().flatten(), shared[key].double().flatten()) for key, value in whole.items()]
    off, length = (torch.cat(tensors).norm().item() for tensors in ([a - b for a, b in pairs], [a for a, _ in pairs]))
    return off / length


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_the_weights_of_one(name, both):
    whole, shared = (models.load_checkpoint(folder / f"{name}.pth") for folder in both)
    assert distance(whole["state_dict"], shared["state_dict"]) < 1e-9
    if RUNS[name][0] is not pretrain:
        assert whole["cost"]["moved"] == shared["cost"]["moved"] > 0
    assert whole["key"] != "" and "x 2" in shared["device"] and "x 2" not in whole["device"]


def test_one_process_writes(both):
    assert not list(both[1].glob(".*"))
    assert len(list(both[1].glob("*.pth"))) == len(RUNS)


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
