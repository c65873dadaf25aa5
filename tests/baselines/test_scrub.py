"""SCRUB: the divergence, its sign in max and min epochs, and when each is made, by hand."""

import math

import pytest
import torch

from baselines import scrub
from tests.baselines.toy import Constant, handed_to_fit, images, run_of

SCRUB = {"alpha": 0.5, "gamma": 1.0, "temperature": 1.0, "msteps": 3}
KL = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)  # of (3/4, 1/4) from (1/2, 1/2); the other way round it is 0.144


def test_the_divergence_is_the_teachers_from_the_students_answers():
    known, flat = torch.tensor([[math.log(3), 0.0], [0.0, 0.0]]), torch.zeros(2, 2)
    assert scrub.divergence(known, flat, 1.0).item() == pytest.approx(KL / 2)  # the mean of two images
    assert scrub.divergence(3 * known, flat, 3.0).item() == pytest.approx(9 * KL / 2)
    assert scrub.divergence(flat[:1], known[:1], 1.0).item() == pytest.approx(math.log(2 / math.sqrt(3)))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_a_max_epoch_leads_away_from_the_teacher(temperature):
    """By T (q - p), the gradient of T^2 KL(p || q): the student's answer q is even, the teacher's p is (3/4, 1/4)."""
    student, teacher = Constant(0.0, 0.0), Constant(temperature * math.log(3), 0.0)
    optimizer = torch.optim.SGD(student.parameters(), lr=1.0)
    scrub.max_epoch(student, teacher, images(0, 0, 1), optimizer, run_of(**SCRUB | {"temperature": temperature}))
    torch.testing.assert_close(student.logits.data, temperature * torch.tensor([-0.25, 0.25]))


def test_a_min_epoch_weighs_obedience_and_labels():
    model = Constant(2 * math.log(3), 0.0)  # at temperature 2: (3/4, 1/4)
    own = {"alpha": 0.25, "gamma": 3.0, "temperature": 2.0}
    split, optimizer, policy = handed_to_fit(scrub, model, retain := images(0, 1), images(0), **SCRUB | own)
    assert split is retain and type(optimizer) is torch.optim.Adam
    assert optimizer.param_groups[0]["weight_decay"] == 0.1 and optimizer.param_groups[0]["lr"] == 0.1
    x, y = torch.zeros(2, 1, 1, 1), torch.tensor([0, 1])
    apart = 3 * (math.log(9) / 2 - math.log(9) + math.log(10))  # nothing but cross-entropy while the student is the teacher
    assert policy["objective"](model, x, y, None).item() == pytest.approx(apart)
    with torch.no_grad():
        model.logits.zero_()  # the teacher stays what it was
    assert policy["objective"](model, x, y, None).item() == pytest.approx(0.25 * 4 * KL + 3 * math.log(2))


def test_the_first_epochs_begin_with_a_max_epoch_and_the_rate_falls(monkeypatch):
    """After half, 80 % and 90 % of the epochs; every step is counted."""
    made = []
    monkeypatch.setattr(scrub, "max_epoch", lambda *handed: made.append(handed[3].param_groups[0]["lr"]))
    run = run_of(**SCRUB | {"epochs": 10, "msteps": 99, "lr": 1e-3, "batch_size": 2})
    scrub.unlearn(Constant(0.0, 0.0), images(0, 1, 0, 1), images(0, 1, 0, 1, 0, 1), run)
    assert made == pytest.approx([1e-3] * 5 + [1e-4] * 3 + [1e-5, 1e-6])
    assert run.cost["steps"] == 10 * 2 + 10 * 3
    made.clear()
    run = run_of(**SCRUB | {"epochs": 5, "msteps": 2})
    scrub.unlearn(Constant(0.0, 0.0), images(0, 1), images(0, 1), run)
    assert len(made) == 2 and run.cost["steps"] == 5 + 2


def test_the_teacher_answers_in_evaluation_mode_and_never_moves():
    """Batch norm of the student takes a batch's statistics, the teacher's the stored ones."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(1), torch.nn.Linear(1, 2))
    split = images(0, 1)
    split.images[1] = 255
    _, _, policy = handed_to_fit(scrub, model.train(), split, split, **SCRUB | {"gamma": 0.0, "alpha": 1.0})
    x, y = split.images / 255, split.labels
    stored = model.eval()(x).detach()
    batch = model.train()(x).detach()
    for _ in range(2):  # the student's statistics move with each batch
        found = policy["objective"](model, x, y, None)
        assert found.item() == pytest.approx(scrub.divergence(stored, batch, 1.0).item()) and found > 1e-3
