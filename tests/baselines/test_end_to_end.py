"""Each baseline from its command line to its checkpoint, for a class and for single images."""

import pytest

import models
import pretrain
from baselines import l1sparse, negate, randomlabel, scrub, ssd
from tests.helpers import call
from unlearning.vision.shared import Shared

COMMON = ("--dataset", "digits", "--subset", 200, "--model", "resnet8", "--quiet")
OWN = {  # flags of a row of its own, and what a checkpoint says of them
    scrub: ("--msteps", 1, "--temperature", 4, "--alpha", 0.25, "--gamma", 2),
    ssd: ("--alpha", 1.5, "--dampening", 0.5, "--batch-size", 16),
    l1sparse: ("--gamma", 0.01),
    negate: ("--lr", 0.001),
    randomlabel: ("--saliency", 0.5, "--random-mask"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with an original, and the digits."""
    folder, shared = tmp_path_factory.mktemp("place"), Shared()
    call(pretrain, *COMMON, "--epochs", 2, "--weights", folder, shared=shared)
    return folder, shared


@pytest.mark.parametrize("request_", [("--forget-class", 3), ("--forget-random", 0.1)], ids=["class", "images"])
@pytest.mark.parametrize("script", OWN, ids=lambda script: script.__name__)
def test_a_command_makes_a_checkpoint_that_says_its_flags(place, tmp_path, script, request_):
    folder, shared = place
    original = models.load_checkpoint(next(folder.glob("*original*.pth")))
    common = (*COMMON, "--weights", folder, *request_, "--epochs", 2)
    usual, own = (
        models.load_checkpoint(call(script, *common, *flags, "--output", tmp_path / f"{place}.pth", shared=shared))
        for place, flags in enumerate(((), OWN[script]))
    )
    name = script.__name__.split(".")[-1]
    assert usual["method"] == own["method"] == name and usual["flags"] == {}
    words = " ".join(map(str, OWN[script])).replace(" --", "\n--").split("\n")
    assert sorted(f"{flag} {value}".strip() for flag, value in own["flags"].items()) == sorted(words)
    assert usual["key"] != own["key"] and usual["identity"] != own["identity"]
    state = original["state_dict"]
    assert 0 < models.moved(state, own["state_dict"]) == own["cost"]["moved"]
    assert models.moved(usual["state_dict"], own["state_dict"]) > 0
    statistics = {key for key in state if key.endswith(("running_mean", "running_var"))}
    kept = all((state[key] == own["state_dict"][key]).all() for key in statistics)
    assert kept == (script is ssd)  # which trains nothing
