"""What is wanted of an answer: the closed forms, and that dampings and lengths are chosen by them."""

from dataclasses import dataclass, field, replace

import pytest
import torch

import llmeraser
from tests.language.conftest import with_hard_unseen_rows
from unlearning.language import aim as aim_module
from unlearning.language import influence
from unlearning.language.aim import Aim, Rest
from unlearning.language.command import How
from unlearning.language.rows import Row
from unlearning.language.training import train_adapter


@dataclass
class Hand:
    """A session whose rows' losses are written down: by name, at each moment."""

    losses: dict
    rows: list
    validation: list
    asked: list = field(default_factory=list)

    def losses_of(self, rows):
        self.asked.append([row.name for row in rows])
        return torch.tensor([self.losses[row.name] for row in rows])


def row(name):
    return Row(name, (("user", name),), "x")


def hand(**losses):
    names = {kind: [row(name) for name in losses if name.startswith(kind)] for kind in ("r", "v")}
    return Hand(losses, [*names["r"], None], names["v"])


def test_removed_rows_are_to_rise_by_what_unseen_ones_lie_above_those_that_stay():
    """1 + (2.5 - 0.5) = 3 here; where seen rows aren't easier, the removed ones stay where they are."""
    session = hand(r1=0.9, r2=1.1, r3=0.25, r4=0.75, v1=2.0, v2=3.0)
    aim = Aim(session, session.rows[:2], [])
    assert aim and aim.wanted == pytest.approx(3)
    assert aim() == (False, pytest.approx(2))
    session.losses |= {"r1": 2.5, "r2": 3.1}
    assert aim() == (False, pytest.approx(0.2))
    session.losses |= {"r1": 3.5, "r2": 3.1}  # further than unseen rows' is worse again
    assert aim() == (False, pytest.approx(0.3))
    session.losses |= {"r3": 5.0}  # rows that stay aren't looked at again
    assert aim() == (False, pytest.approx(0.3))
    harder = hand(r1=0.9, r2=1.1, r3=4.0, v1=2.0)
    assert Aim(harder, harder.rows[:2], []).wanted == pytest.approx(1)
    every = hand(r1=0.9, v1=2.0)  # none stays
    assert Aim(every, every.rows[:1], []).wanted == pytest.approx(0.9)


def test_an_answer_that_costs_unseen_rows_more_than_a_hundredth_comes_after_those_that_dont():
    session = hand(r1=1.0, r3=0.5, v1=2.0)
    aim = Aim(session, session.rows[:1], [])
    session.losses |= {"r1": 2.5, "v1": 2.019}
    near = aim()
    session.losses["v1"] = 2.021
    costly = aim()
    assert (near, costly) == ((False, pytest.approx(0)), (True, pytest.approx(0)))
    session.losses |= {"r1": 1.0, "v1": 2.0}
    assert near < aim() < costly


def test_other_requests_want_the_least_loss_on_unseen_rows():
    session = hand(r1=1.0, r2=0.5, v1=2.0, v2=1.0)
    aim = Aim(session, session.rows[:1], [row("r1")])
    assert aim() == (False, 1.5) and not aim.asked
    session.losses |= {"v1": 9.0, "r1": 0.0}
    assert aim() == (False, 5.0)


def test_without_unseen_rows_there_is_no_aim_and_nothing_is_computed():
    session = hand(r1=1.0, r2=0.5)
    assert not Aim(session, session.rows[:1], []) and session.asked == []


def test_a_hundred_rows_of_each_kind_are_looked_at(monkeypatch):
    monkeypatch.setattr(aim_module, "LOOKED_AT", 2)
    session = hand(**{f"{kind}{i}": float(i) for kind in "rv" for i in range(6)})
    aim = Aim(session, session.rows[:3], [])
    assert session.asked == [["v0", "v1"], ["r3", "r4"], ["r0", "r1"]]
    assert aim.wanted == pytest.approx(0.5)


DAMPINGS = (300.0, 10.0, 1.0, 0.1)


@pytest.mark.parametrize("kind", ["remove", "correct"])
def test_damping_and_length_are_those_that_come_nearest_to_the_aim(small, monkeypatch, kind):
    """Tried one by one; a length is chosen for removals alone, and a given one is kept."""
    monkeypatch.setattr(llmeraser, "DAMPINGS", DAMPINGS)
    monkeypatch.setattr(llmeraser, "LENGTHS", (0.25, 1.0, 1.5))
    monkeypatch.setattr(aim_module, "SAFE", 100)
    small, how = with_hard_unseen_rows(small), How(curvature="gauss-newton")
    before = small.rows[10:30]
    after = [replace(one, response="red") for one in before] if kind == "correct" else []
    small = replace(small, validation=[*after[:1], *small.rows[30:45]]) if after else small
    start, found = influence.flat(small.parameters).detach().clone(), {}
    aim = Aim(small, before, after)
    for damping in DAMPINGS:
        for length in llmeraser.LENGTHS if kind == "remove" else (1.0,):
            influence.assign(small.parameters, start)
            step = llmeraser.unlearn(small, before, after, replace(how, damping=damping, length=length))
            assert (step["damping"], step["length"]) == (damping, length)
            found[damping, length] = aim(), influence.flat(small.parameters).detach().clone()
    influence.assign(small.parameters, start)
    step = llmeraser.unlearn(small, before, after, how)
    best = min(found, key=lambda key: found[key][0])
    assert (step["damping"], step["length"]) == best
    torch.testing.assert_close(influence.flat(small.parameters).detach(), found[best][1], rtol=1e-3, atol=1e-5)
    assert best[0] not in (DAMPINGS[0], DAMPINGS[-1])  # else anything that prefers an end would do


@pytest.mark.parametrize("kind", ["remove", "correct"])
def test_at_rest_the_damping_leaves_least_of_what_training_again_would_minimise(small, monkeypatch, kind):
    """The objective on the rows as the request leaves them, over the n that the adapter began with; unseen rows have no
    say, and the length is the formula's."""
    dampings = (10.0, 1.0, 0.3, 0.03)
    monkeypatch.setattr(llmeraser, "DAMPINGS", dampings)
    train_adapter(small, 60)
    small = replace(small, validation=small.validation if kind == "remove" else [])
    before, n = small.rows[10:30], len(small.rows)
    after = [replace(one, response="red") for one in before] if kind == "correct" else []
    left = [*small.rows[:10], *after, *small.rows[30:]]  # two of the first are gone
    start, found = influence.flat(small.parameters).detach().clone(), {}
    rest = Rest(small, before, after)
    for damping in dampings:
        influence.assign(small.parameters, start)
        llmeraser.unlearn(small, before, after, How(curvature="hessian", damping=damping))
        squares = sum((p.detach() ** 2).sum().item() for p in small.parameters)
        found[damping] = small.losses_of(left).sum().item() / n + small.decay / 2 * squares
        assert rest() == (False, pytest.approx(found[damping], rel=1e-5))
    influence.assign(small.parameters, start)
    step = llmeraser.unlearn(small, before, after, How(curvature="hessian"))
    best = {"remove": 0.03, "correct": 0.3}[kind]
    assert (step["damping"], step["length"]) == (min(found, key=found.get), 1.0) == (best, 1.0)


def test_without_unseen_rows_the_largest_damping_is_gone_as_far_as_the_formula_says(small, monkeypatch):
    monkeypatch.setattr(llmeraser, "DAMPINGS", (1.0, 30.0, 10.0))
    blind = replace(small, validation=[])
    step = llmeraser.unlearn(blind, small.rows[10:30], [], How(curvature="gauss-newton"))
    assert (step["damping"], step["length"]) == (30.0, 1.0)


def test_test_rows_have_no_say(small):
    start, found = influence.flat(small.parameters).detach().clone(), []
    for rows in (small.test, small.rows[10:12]):
        influence.assign(small.parameters, start)
        step = llmeraser.unlearn(replace(small, test=rows), small.rows[10:12], [], How(curvature="gauss-newton"))
        found.append((step["damping"], step["length"], influence.flat(small.parameters).tolist()))
    assert found[0] == found[1]
