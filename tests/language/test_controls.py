"""The other ways of unlearning: what each climbs or descends, by closed forms, and which of its steps is kept."""

from dataclasses import replace

import pytest
import torch

from tests.language.conftest import finetune, losses_of, parameters, record_of, request, session, with_hard_unseen_rows
from unlearning.language import aim, controls, influence
from unlearning.language.aim import Aim
from unlearning.language.controls import CONTROLS
from unlearning.language.training import train_adapter

N = 60


@pytest.fixture
def blind(small):
    """Without unseen rows the last step is kept, whatever it does."""
    return replace(small, validation=[], rows=[*small.rows[:10], None, None, None, *small.rows[13:]])


@pytest.fixture
def asked(small):
    return small.rows[10:13]


def at(session):
    return influence.flat(session.parameters).detach().clone()


def slopes(now, rows):
    return influence.gradient(losses_of(now, rows).mean(), now.parameters)


def first_gradient(monkeypatch, session, method, asked):
    """The gradient of a method's first step, and where that step goes."""
    found = []
    step = torch.optim.Adam.step

    def watched(optimizer, *arguments):
        found.append(influence.flat([parameter.grad for parameter in session.parameters]).clone())
        return step(optimizer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(controls, "STEPS", 1)
        patch.setattr(torch.optim.Adam, "step", watched)
        before = at(session)
        CONTROLS[method](session, asked, [])
        moved = at(session) - before
        influence.assign(session.parameters, before)
    assert len(found) == 1
    torch.testing.assert_close(moved, -controls.RATE * found[0].sign(), rtol=0.02, atol=1e-7)
    return found[0]


def test_gradient_ascent_climbs_the_mean_loss_on_the_asked_rows_alone(blind, asked, monkeypatch):
    climbed = first_gradient(monkeypatch, blind, "gradascent", asked)
    torch.testing.assert_close(climbed, -slopes(blind, asked), rtol=1e-3, atol=1e-5)
    before = losses_of(blind, asked).mean().item()
    assert CONTROLS["gradascent"](blind, asked, []) == {"steps": controls.STEPS}
    assert losses_of(blind, asked).mean().item() > before


def test_graddiff_descends_the_mean_loss_of_drawn_other_rows_at_once(blind, asked, monkeypatch):
    """Of all 55 others where a batch holds as many; of three drawn ones else, by the record's seed."""
    others = [row for row in blind.rows if row is not None]
    assert len(others) == 55
    monkeypatch.setattr(controls, "SIZE", 55)
    found = first_gradient(monkeypatch, blind, "graddiff", asked)
    torch.testing.assert_close(found, slopes(blind, others) - slopes(blind, asked), rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(controls, "SIZE", 3)
    drawn = torch.randperm(55, generator=torch.Generator().manual_seed(0))[:3].tolist()
    found = first_gradient(monkeypatch, blind, "graddiff", asked)
    some = [others[i] for i in drawn]
    torch.testing.assert_close(found, slopes(blind, some) - slopes(blind, asked), rtol=1e-3, atol=1e-5)


def test_others_are_the_rows_that_stay_as_they_are(blind, asked):
    """A corrected row stands among the session's with its new response: it isn't one of them."""
    rows = list(blind.rows)
    rows[10:13] = [replace(row, response="red") for row in asked]
    assert controls._others(replace(blind, rows=rows), asked) == blind.tokens(blind.rows)


def test_npo_begins_as_graddiff_with_whole_answers_in_place_of_mean_tokens(blind, asked, monkeypatch):
    """The slope of 2 / beta log(1 + (p / p_start)^beta) is that of log p where p is p_start: minus the length times that of
    an answer's mean loss."""
    monkeypatch.setattr(controls, "SIZE", 55)
    lengths = [len(tokens.response) for tokens in blind.tokens(asked)]
    assert len(set(lengths)) > 1
    whole = sum(length * slopes(blind, [row]) for length, row in zip(lengths, asked, strict=True)) / len(asked)
    others = slopes(blind, [row for row in blind.rows if row is not None])
    found = first_gradient(monkeypatch, blind, "npo", asked)
    torch.testing.assert_close(found, others - whole, rtol=1e-3, atol=1e-5)


def test_npo_lets_go_of_answers_that_are_unlikely_already(blind, asked, monkeypatch):
    """Its second slope is that of log p times 2 r / (1 + r), with r = (p / p_start)^beta, which has fallen below 1."""
    monkeypatch.setattr(controls, "SIZE", 55)
    monkeypatch.setattr(controls, "STEPS", 2)
    monkeypatch.setattr(controls, "RATE", 0.05)
    monkeypatch.setattr(controls, "BETA", 0.7)
    found, places, step = [], [at(blind)], torch.optim.Adam.step

    def watched(optimizer, *arguments):
        found.append(influence.flat([parameter.grad for parameter in blind.parameters]).clone())
        step(optimizer, *arguments)
        places.append(at(blind))

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    CONTROLS["npo"](blind, asked, [])
    lengths = torch.tensor([len(tokens.response) for tokens in blind.tokens(asked)])
    logs = []
    for place in places[:2]:
        influence.assign(blind.parameters, place)
        logs.append((-losses_of(blind, asked) * lengths).detach())
    r = ((logs[1] - logs[0]) * 0.7).exp()
    assert (r < 0.95).any()
    weights = 2 * r / (1 + r) * lengths / len(asked)
    slope = -sum(weight * slopes(blind, [row]) for weight, row in zip(weights, asked, strict=True))
    slope += slopes(blind, [row for row in blind.rows if row is not None])
    torch.testing.assert_close(found[1], slope, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["gradascent", "graddiff", "npo"])
def test_the_step_that_comes_nearest_to_the_aim_is_kept(small, asked, monkeypatch, method):
    """None where all go away from it."""
    monkeypatch.setattr(controls, "RATE", 0.05)  # so that it is passed
    monkeypatch.setattr(aim, "SAFE", 100)
    rows = [row if row not in asked else None for row in small.rows]
    now, start, found = replace(with_hard_unseen_rows(small), rows=rows), at(small), []
    usual = Aim.__call__
    monkeypatch.setattr(Aim, "__call__", lambda self: found.append((usual(self), at(small))) or found[-1][0])
    kept = CONTROLS[method](now, asked, [])
    assert len(found) == controls.STEPS + 1
    best = min(range(len(found)), key=lambda step: found[step][0])
    assert kept == {"steps": best} and torch.equal(at(small), found[best][1]) and 0 < best < controls.STEPS
    influence.assign(small.parameters, start)
    monkeypatch.setattr(Aim, "__call__", lambda self: (False, 1.0))
    assert CONTROLS[method](now, asked, []) == {"steps": 0} and torch.equal(at(small), start)


def test_without_the_adapter_the_base_alone_is_left(small, asked):
    down = [p.detach().clone() for name, p in small.peft_model.named_parameters() if "lora_A" in name]
    assert CONTROLS["noadapter"](small, asked, []) == {}
    kept = [p for name, p in small.peft_model.named_parameters() if "lora_A" in name]
    assert down and all(torch.equal(*pair) for pair in zip(down, kept, strict=True))  # else it could learn nothing any more
    found = losses_of(small, small.test[:3]).detach()
    with small.peft_model.disable_adapter():
        torch.testing.assert_close(losses_of(small, small.test[:3]), found)


def test_a_short_training_goes_on_from_where_the_adapter_is(small, asked):
    """On the rows as they should have been; one epoch of an adapter that was trained in epochs."""
    rows = [row if row not in asked else None for row in small.rows]
    now, start = replace(small, rows=rows), at(small)
    influence.assign(small.parameters, start)
    found = CONTROLS["finetune"](now, asked, [])
    square = (at(small) ** 2).sum()
    assert found["objective"] == pytest.approx((losses_of(now, rows).sum() / N + 0.025 * square).item(), rel=0.05)
    adamw = {"optimizer": "adamw", "epochs": 7, "lr": 1e-3, "batch_size": 100}
    influence.assign(small.parameters, start)
    CONTROLS["finetune"](replace(now, record=small.record | {"training": adamw}), asked, [])
    assert (at(small) - start).abs().max().item() == pytest.approx(1e-3, rel=0.01)  # a single step


@pytest.mark.parametrize("method", [name for name in CONTROLS if name != "retrain"])
def test_every_method_is_a_request_from_the_command_line(place, tmp_path, method):
    """Removed rows are less known afterwards; the adapter is another one."""
    folder = request(place / "adapter", "remove", tmp_path / "a", "--ids", 1, 2, 3, "--method", method)
    record = record_of(folder)
    entry = record["ledger"][0]
    assert entry["method"] == method and entry["found"]["asked_loss"] > entry["found"]["asked_loss_before"]
    assert not torch.equal(parameters(folder, tmp_path), parameters(place / "adapter", tmp_path))


def test_retrain_of_an_adamw_adapter_is_its_training_without_the_rows(place, tmp_path):
    how = ("--optimizer", "adamw", "--epochs", 2, "--lr", 0.01)
    folder = finetune(place, tmp_path / "a", *how)
    again = request(folder, "remove", tmp_path / "b", "--ids", 7, "--method", "retrain")
    with session(folder, tmp_path) as now:
        kept = [row for row in now.rows if row.name != "7"]
    with session(folder, tmp_path, None) as now:
        train_adapter(replace(now, rows=[*kept[:6], None, *kept[6:]]))
        assert torch.equal(at(now), parameters(again, tmp_path))
