"""Several processes give the weights of one."""

import pytest
import torch

import data
import finetune
import lora
import loraprune
import models
import pretrain
from tests.helpers import FP32, ROOT, call, shell
from unlearning.core import distributed
from unlearning.core.errors import UserError
from unlearning.vision.train import fit

RUNS = {  # name: script, network, flags
    "original-cnn": (pretrain, "resnet8", ("--recipe", "paper")),  # crops and batch statistics
    "original-vit": (pretrain, "vit_micro", ("--recipe", "paper")),  # mixup and a clipped gradient
    "finetune-cnn": (finetune, "resnet8", ()),
    "lora-cnn": (lora, "resnet8", ("--dropout", "0")),  # dropout draws for the images that a process has
    "lora-vit": (lora, "vit_micro", ("--dropout", "0")),  # on kept outputs of the frozen part
    "loraprune-vit": (loraprune, "vit_micro", ("--dropout", "0")),
}
DRIVER = """
import sys
sys.path.insert(0, {root!r})
from tests.core.test_distributed import run_all
run_all({folder!r}, {originals!r})
"""


def run_all(folder, originals):
    """Each of RUNS, its checkpoint named after it; the batches of 45 leave a last one of an odd size.

    originals: folder of the originals that the others start from.
    """
    for name, (script, model, flags) in RUNS.items():
        kind = "cnn" if model == "resnet8" else "vit"
        common = ("--dataset", "digits", "--subset", 331, "--model", model, "--batch-size", 45, "--epochs", 2, "--quiet")
        common += ("--precision", "fp32")  # bf16, the default where it is fast, rounds a hundred times more coarsely
        where = ("--output", f"{folder}/{name}.pth", "--weights", folder)
        if script is not pretrain:
            where += ("--original", f"{originals}/original-{kind}.pth", "--forget-class", 3)
        call(script, *common, *flags, *where)


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


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_give_the_weights_of_one(name, both):
    """To rounding; a CNN's as a whole, for a ReLU whose input is rounded to the other side of 0 changes single weights."""
    whole, shared = (models.load_checkpoint(folder / f"{name}.pth") for folder in both)
    off, length = (
        torch.cat([x.double().flatten() for x in tensors]).norm().item()
        for tensors in (
            [value - shared["state_dict"][key] for key, value in whole["state_dict"].items()],
            whole["state_dict"].values(),
        )
    )
    assert off < 1e-3 * length
    for key, value in whole["state_dict"].items() if name.endswith("vit") else ():
        torch.testing.assert_close(shared["state_dict"][key], value, atol=2e-4, rtol=2e-3, msg=key)
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


def test_methods_with_an_objective_of_their_own_say_no(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    dataset = data.load("digits", subset=20)
    model, _ = models.create_for("resnet8", dataset)
    with pytest.raises(UserError, match="torchrun"):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, dataset.train, optimizer, epochs=1, batch_size=8, seed=0, compute=FP32, objective=lambda *_: None)
