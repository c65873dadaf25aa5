"""How cost grows, in numbers."""

import pytest

from benchmarks import growth


def test_four_times_as_much_is_compared_over_all_pairs_and_the_worst_counts():
    assert growth.times_four((1, 2, 4, 8), (1, 3, 5, 18)) == 6  # 8 of 2; 4 of 1 are 5
    assert growth.times_four((1, 2, 4), (2, 9, 7)) == 3.5


@pytest.mark.parametrize("name", growth.VARIED)
def test_what_is_varied_reaches_four_times_the_least(name):
    assert growth.times_four(growth.VARIED[name], growth.VARIED[name]) == 4
    assert growth.BASE[name] in growth.VARIED[name]
    assert any(growth.possible(name, what) for what in growth.WHAT.values())
