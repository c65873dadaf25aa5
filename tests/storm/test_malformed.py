"""Whatever one field of a file holds: commands take it or refuse it in one line, and never end in a traceback.

Some of the damaged files are read here; `python -m tests.storm.every` has all, an hour of them.
"""

import random

import pytest

from tests.helpers import built_once
from tests.storm import malformed, sound
from unlearning.vision.shared import Shared

# Of each kind of file, damage that once ended in a traceback, and how many others are drawn.
ONCE = {
    "original": {("seed", "large"), ("format", "nans")},
    "lora": {
        ("format", "numbers"),
        ("network.arguments.mean.0", "nans"),
        ("state_dict.normalize.mean", "sparse"),
        ("cost.seconds", "none"),
        ("flags", "true"),
        ("identity", "list"),
        ("identity.parent", "nested"),
        ("forget", "numbers"),
    },
    "public": {("format", "numbers"), ("network.arguments.img_size", "large")},
    "system": {
        ("data.dataset", "gone"),
        ("ledger", "true"),
        ("part", "scalar"),
        ("centres", "half"),
        ("deleted", "numbers"),
        ("files.1", "path"),
    },
    "part": {("bias", "none"), ("weight", "half"), ("seconds", "nan")},
    "snapshot": {
        ("optimizer.state.0.step", "gone"),
        ("optimizer.state.0.step", "large"),
        ("optimizer.state.0.exp_avg", "large"),
        ("history", "true"),
        ("optimizer.param_groups.0.lr", "nan"),
        ("epoch", "large"),
    },
    "result": {("text", "deep"), ("rows.0.metrics.UA.mean", "large"), ("rows.0.method", "long")},
}
OTHERS = {"original": 1, "lora": 1, "public": 1, "system": 2, "part": 2, "result": 4, "snapshot": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return built_once(tmp_path_factory, "sound", sound.build)


@pytest.mark.parametrize("kind", [kind for kind in sound.KINDS if kind not in sound.SLOW])
def test_a_field_that_is_wrong_never_ends_in_a_traceback(folder, tmp_path, kind):
    every, shared = sound.all_cases(kind, folder), Shared(64)
    once = [case for case in every if (case.field, case.fault) in ONCE[kind]]
    assert len(once) == len(ONCE[kind])
    for case in once:
        assert sound.survives(case, folder, tmp_path / "x", shared), case
    for case in random.Random(0).sample(every, OTHERS[kind]):
        sound.survives(case, folder, tmp_path / "x", shared)


def test_every_field_of_a_file_is_damaged_in_every_way():
    content = {"a": {"b": [1, 2, 3]}, "c": "x"}
    places = list(malformed.fields_of(content))
    assert places == [("a",), ("a", "b"), ("a", "b", 0), ("a", "b", 1), ("c",)]
    assert malformed.damaged(content, ("a", "b", 1), None) == {"a": {"b": [1, None, 3]}, "c": "x"}
    assert malformed.damaged(content, ("c",), malformed.GONE) == {"a": {"b": [1, 2, 3]}}
