"""A profile's seconds go to the part whose function they were spent in, with all that it calls."""

import pytest

from benchmarks import time_shares
from unlearning.core.errors import RunFailed


def test_seconds_are_those_until_a_function_returned():
    known = {
        ("/a/unlearning/vision/predict.py", 70, "relearn"): (1, 3, 0.5, 4.0, {}),
        ("C:\\a\\unlearning\\vision\\predict.py", 90, "relearn"): (1, 1, 0.5, 0.25, {}),
        ("/a/unlearning/vision/predict.py", 18, "predict"): (9, 9, 0.5, 8.0, {}),
        ("/a/unlearning/other/repredict.py", 1, "relearn"): (2, 2, 1.0, 16.0, {}),
    }
    assert time_shares._spent(known, time_shares.PARTS["relearning"]) == (4, 4.25)
    assert time_shares._spent(known, time_shares.PARTS["probe"]) == (0, 0)


@pytest.mark.slow
def test_a_whole_process_is_profiled(tmp_path):
    train = "python pretrain.py --dataset digits --model resnet8 --subset 200 --epochs 2 --weights ."
    seconds, parts = time_shares.profiled(train, tmp_path)
    calls = {part: count for part, (count, _) in parts.items() if count and part != "imports"}
    assert calls == {"training": 1, "answers": 1}
    assert 0 < parts["training"][1] < seconds and 1 < parts["imports"][1] < seconds


def test_a_command_that_fails_is_not_timed(tmp_path):
    with pytest.raises(RunFailed, match="nothing was trained"):
        time_shares.profiled("python pretrain.py --dataset nonsense", tmp_path)
