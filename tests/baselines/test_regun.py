"""ReGUn: what is held out leaves something to learn from."""

import pytest

from baselines import regun
from tests.baselines.toy import Constant, handed_to_fit, images
from unlearning.core.errors import UserError


def test_what_is_held_out_leaves_an_image_to_learn_from():
    split, *_ = handed_to_fit(
        regun, Constant(1.0, 0.0), images(0, 1, 0, 1), images(0, 1), held_out=0.9999, forget_weight=0.5
    )
    assert len(split) == 1 + 2
    with pytest.raises(UserError, match="one image stays"):
        handed_to_fit(regun, Constant(1.0, 0.0), images(0), images(1), held_out=0.5, forget_weight=0.5)
