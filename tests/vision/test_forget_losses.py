"""The losses on D_f, by hand."""

from math import log

import pytest
import torch

from unlearning.core.errors import UserError
from unlearning.vision import forget_losses


def of_odds(*odds):
    """Logits whose softmax is proportional to the odds, one row for each tuple; they have a gradient."""
    return torch.tensor(odds, dtype=torch.float32).log().requires_grad_()


def test_a_bounded_loss_raises_the_cross_entropy_as_far_as_its_bound():
    """Cross-entropies of log 4 and log 2: 1.5 log 2 on average. A step down the loss makes the true class less likely."""
    labels = torch.tensor([0, 1])
    logits = of_odds((1, 3), (2, 2))
    loss = forget_losses.bounded(logits, labels, 2.0)
    assert loss.item() == pytest.approx(2 - 1.5 * log(2))
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.75], [-0.5, 0.5]]) / 2)
    logits = of_odds((1, 3), (2, 2))
    loss = forget_losses.bounded(logits, labels, 1.0)  # 1.04 nats are enough
    loss.backward()
    assert loss.item() == 0 and (logits.grad == 0).all()


def test_deletes_target_is_the_answer_without_the_true_class():
    """Odds 1 : 2 : 5 without the second are 1 : 5; without the third 1 : 2."""
    targets = forget_losses.without_true_class(of_odds((1, 2, 5), (1, 2, 5)).detach(), torch.tensor([1, 2]))
    torch.testing.assert_close(targets, torch.tensor([[1 / 6, 0, 5 / 6], [1 / 3, 2 / 3, 0]]))


def test_the_divergence_is_that_of_the_student_from_the_target():
    """KL((1/2, 1/2) || (1/4, 3/4)) = log(4/3) / 2, and not log(3) - log(4) / 2... the other way round; a target of 0 counts
    nothing; the gradient is the difference of the two."""
    logits = of_odds((1, 3), (1, 3))
    loss = forget_losses.divergence(logits, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
    assert loss.item() == pytest.approx((log(4 / 3) / 2 + log(4 / 3)) / 2)
    loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.25, 0.25], [0.25, -0.25]]) / 2)
    assert forget_losses.divergence(of_odds((1, 3)), torch.tensor([[0.25, 0.75]])).item() == pytest.approx(0, abs=1e-7)


def test_the_mean_answer_of_a_class_is_that_of_its_images_and_of_all_where_it_has_none():
    answers = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0], [0.3, 0.1, 0.6]])
    means = forget_losses.class_means(answers, torch.tensor([2, 2, 0]))
    torch.testing.assert_close(means, torch.tensor([[0.3, 0.1, 0.6], [0.3, 0.5, 0.2], [0.3, 0.7, 0.0]]))


def test_features_that_dont_vary_over_images_have_no_variance_to_divide_by():
    """Else the loss is NaN, for which no learning rate is to blame."""
    assert forget_losses.variance(torch.tensor([[0.0, 1.0], [2.0, 1.0]])).item() == 1  # the mean of 2 and 0
    for features in (torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0], [1.0, 2.0]])):
        with pytest.raises(UserError, match="all alike, or of one image"):
            forget_losses.variance(features)
