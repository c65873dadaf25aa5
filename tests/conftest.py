"""Networks trained on scikit-learn's digits, once a session."""

import functools
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
from tests.helpers import built_once, call
from unlearning.evaluation import network
from unlearning.metrics import membership

DRAWS, RELEARN_STEPS = membership.DRAWS, network.RELEARN_STEPS


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


@pytest.fixture
def every_draw(monkeypatch):
    """As many draws as in tables, for tests of the draws themselves."""
    monkeypatch.setattr(membership, "DRAWS", DRAWS)


@pytest.fixture
def whole_curves(monkeypatch):
    """Relearning curves as long as in tables."""
    monkeypatch.setattr(network, "RELEARN_STEPS", RELEARN_STEPS)


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A folder with an original, a Retrain and every method's checkpoint: digits, resnet8 and vit_micro, class 3."""

    def build(folder):
        for model in ("resnet8", "vit_micro"):
            common = ("--dataset", "digits", "--model", model, "--weights", folder, "--quiet")
            forget, recipe = (*common, "--forget-class", 3), ("--epochs", 8, "--recipe", "paper")
            call(pretrain, *common, *recipe, "--output", folder / f"digits_{model}_original_s0.pth")
            call(retrain, *forget, *recipe, "--output", folder / f"digits_{model}_class3_retrain8_s0.pth")
            for script in (finetune, pruneft, lora, loraprune):
                call(script, *forget, "--epochs", 2)
            for kind in ("mask", "zero-row", "head-only"):
                call(control, *forget, "--epochs", 2, "--kind", kind)

    return built_once(tmp_path_factory, "weights", build)
