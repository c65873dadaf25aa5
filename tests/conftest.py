"""Networks trained on scikit-learn's digits, once a session."""

import functools
import gc
import os

# The networks of the tests are too small for two threads: a worker for each core is faster. Processes that tests start
# inherit it, and so compute the same bits.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
from sklearn import datasets

import finetune
import lora
import loraprune
import pretrain
import pruneft
import retrain
from baselines import control
from tests.helpers import FEW, built_once, call
from unlearning.core import provenance
from unlearning.evaluation import network
from unlearning.metrics import membership

DRAWS, RELEARN_STEPS = membership.DRAWS, network.RELEARN_STEPS


def pytest_collection_finish():
    """What is imported by now stays: looking whether it is garbage takes a third of a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def little_scoring():
    """Two draws of the attacker's samples, not twenty, and relearning curves of three points: tests score hundreds of
    networks, which would take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(membership, "DRAWS", 2)
        patch.setattr(network, "RELEARN_STEPS", (0, 1, 4))
        yield


@pytest.fixture(scope="session", autouse=True)
def digits_once():
    """scikit-learn's digits are read from their file, a large text, once a process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "load_digits", functools.cache(datasets.load_digits))
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_waited_for():
    """What costs each run some milliseconds and changes nothing that a test sees: files that are flushed wait for no disk,
    and libraries are asked once for their versions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)  # which fails where the file isn't open, too
        patch.setattr(provenance, "version", functools.cache(provenance.version))
        yield


@pytest.fixture
def every_draw(monkeypatch):
    """As many draws as in tables, for tests of the draws themselves."""
    monkeypatch.setattr(membership, "DRAWS", DRAWS)


@pytest.fixture
def whole_curves(monkeypatch):
    """Relearning curves as long as in tables."""
    monkeypatch.setattr(network, "RELEARN_STEPS", RELEARN_STEPS)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory):
    """A folder with an original of each network, resnet8 and vit_micro, hardly trained, on the digits of FEW."""

    def build(folder):
        for model in ("resnet8", "vit_micro"):
            path = folder / f"{model}_original.pth"
            call(pretrain, *FEW, "--model", model, "--epochs", 1, "--output", path, "--quiet")

    return built_once(tmp_path_factory, "few_digits", build)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder with an original, a Retrain and every method's checkpoint: digits, resnet8, class 3. Of vit_micro, which
    takes ten times as long, an original that knows most images, a Retrain that knows few, and LoRA's checkpoint."""

    def build(folder):
        where = ("--dataset", "digits", "--weights", folder, "--quiet")
        resnet, vit = ((*where, "--model", model) for model in ("resnet8", "vit_micro"))
        recipe = (*resnet, "--recipe", "paper", "--epochs", 8)
        call(pretrain, *recipe, "--output", folder / "digits_resnet8_original_s0.pth")
        call(retrain, *recipe, "--forget-class", 3, "--output", folder / "digits_resnet8_class3_retrain8_s0.pth")
        recipe = (*vit, "--recipe", "paper", "--batch-size", 16)  # as many steps in fewer epochs
        call(pretrain, *recipe, "--epochs", 2, "--output", folder / "digits_vit_micro_original_s0.pth")
        retrained = folder / "digits_vit_micro_class3_retrain1_s0.pth"
        call(retrain, *recipe, "--epochs", 1, "--forget-class", 3, "--output", retrained)
        forget = ("--forget-class", 3, "--epochs", 2)
        for script in (finetune, pruneft, lora, loraprune):
            call(script, *resnet, *forget)
        for kind in ("mask", "zero-row", "head-only"):
            call(control, *resnet, *forget, "--kind", kind)
        call(lora, *vit, *forget)

    return built_once(tmp_path_factory, "weights", build)
