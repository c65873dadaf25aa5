"""Accuracy, attack features and distances against their closed forms."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from unlearning.metrics import predictions

LOGITS = st.lists(st.lists(st.floats(-60, 60), min_size=4, max_size=4), min_size=1, max_size=8)


def test_accuracy_counts_top_1():
    logits = torch.tensor([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0], [0.0, 3.0]])
    assert predictions.accuracy(logits, torch.tensor([0, 1, 0, 0])) == 75.0


def test_confidence_and_loss_are_softmax_and_its_negative_log():
    probabilities = torch.tensor([[0.98, 0.01, 0.01], [0.1, 0.85, 0.05], [0.3, 0.3, 0.4]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2])
    expected = torch.tensor([0.98, 0.85, 0.40], dtype=torch.float64)
    torch.testing.assert_close(predictions.confidence(probabilities.log(), labels), expected)
    torch.testing.assert_close(predictions.loss(probabilities.log(), labels), -expected.log())


def test_a_masked_class_has_confidence_0_and_a_finite_loss():
    logits = torch.tensor([[1.0, float("-inf"), 0.0]])
    assert predictions.confidence(logits, torch.tensor([1])).item() == 0
    assert predictions.loss(logits, torch.tensor([1])).item() == 745.0


def test_modified_entropy_is_song_and_mittals():
    """Three images of two classes: an implementation that overwrites whole columns mixes them up."""
    probabilities = torch.tensor([[0.98, 0.015, 0.005], [0.05, 0.85, 0.10], [0.40, 0.35, 0.25]], dtype=torch.float64)
    labels = [0, 1, 0]
    expected = []
    for p, y in zip(probabilities.tolist(), labels, strict=True):
        others = sum(q * math.log(1 - q) for i, q in enumerate(p) if i != y)
        expected.append(-(1 - p[y]) * math.log(p[y]) - others)
    found = predictions.modified_entropy(probabilities.log(), torch.tensor(labels))
    assert found.tolist() == pytest.approx(expected, rel=1e-12)
    assert found[0] < found[1] < found[2]


def test_entropy_correctness_and_margin():
    probabilities = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]], dtype=torch.float64)
    labels = torch.tensor([1, 0])
    assert predictions.entropy(probabilities.log()).tolist() == pytest.approx([1.5 * math.log(2), 0])
    assert predictions.correctness(probabilities.log(), labels).tolist() == [0, 1]
    assert predictions.margin(probabilities.log(), labels).tolist() == pytest.approx([math.log(0.25 / 0.75), 100])
    masked = torch.tensor([[1.0, float("-inf"), 0.0]])
    assert predictions.margin(masked, torch.tensor([1])).item() == -100
    assert all(torch.isfinite(f(masked, torch.tensor([1]))).all() for f in predictions.FEATURES.values())


def test_distances_of_opposite_one_hots_are_finite_and_largest():
    one, other = torch.tensor([[1000.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 1000.0], [0.0, 0.0]])
    assert predictions.js_divergence(one[:1], other[:1]) == pytest.approx(math.log(2))
    assert predictions.activation_distance(one[:1], other[:1]) == pytest.approx(math.sqrt(2))
    assert predictions.js_divergence(one, other) == pytest.approx(math.log(2) / 2)  # a mean over images
    assert predictions.activation_distance(one, other) == pytest.approx(math.sqrt(2) / 2)


@given(LOGITS, LOGITS)
def test_distances_are_symmetric_bounded_and_0_for_equals(a, b):
    a, b = torch.tensor(a[: len(b)]), torch.tensor(b[: len(a)])
    for distance, most in ((predictions.js_divergence, math.log(2)), (predictions.activation_distance, math.sqrt(2))):
        assert distance(a, a) == 0
        assert -1e-12 <= distance(a, b) <= most + 1e-9
        assert distance(a, b) == pytest.approx(distance(b, a))


def test_js_divergence_is_its_definition_and_scipys_square():
    """Rows with exact zeros among them, in either answer or in both."""
    p = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [0.0, 0.5, 0.5], [0.25, 0.25, 0.5]], dtype=torch.float64)
    q = torch.tensor([[0.1, 0.3, 0.6], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.25, 0.25, 0.5]], dtype=torch.float64)
    rows = []
    for one, other in zip(p.tolist(), q.tolist(), strict=True):
        terms = [(a, (a + b) / 2) for a, b in zip(one, other, strict=True)]
        terms += [(b, (a + b) / 2) for a, b in zip(one, other, strict=True)]
        rows.append(sum(x * math.log(x / middle) for x, middle in terms if x) / 2)
    found = predictions.js_divergence(p.log(), q.log())
    assert found == pytest.approx(sum(rows) / 4, rel=1e-12)
    assert found == pytest.approx((jensenshannon(p, q, axis=1) ** 2).mean(), rel=1e-12)


def test_js_divergence_of_nearly_equal_answers_is_no_nan():
    """Rounding can take a row's sum below 0, of which a root would be NaN."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(2000, 10, generator=generator, dtype=torch.float64)
    found = predictions.js_divergence(a, a + 1e-9 * torch.randn(2000, 10, generator=generator, dtype=torch.float64))
    assert math.isfinite(found) and abs(found) < 1e-12


def test_tug_of_war_multiplies_three_closenesses():
    row, retrain = {"UA": 90.0, "RA": 95.0, "TA": 90.0}, {"UA": 100.0, "RA": 90.0, "TA": 92.0}
    assert predictions.tug_of_war(row, retrain) == pytest.approx(0.9 * 0.95 * 0.98)
    assert predictions.tug_of_war(retrain, retrain) == 1


def test_the_probe_reads_what_is_linear_and_nothing_else():
    generator = torch.Generator().manual_seed(6)
    labels = torch.arange(600) % 3
    noise = torch.randn(600, 8, generator=generator)
    clear = noise + 20 * torch.nn.functional.one_hot(labels, 8)
    wanted = labels[400:] == 2
    assert predictions.linear_probe(clear[:400], labels[:400], clear[400:][wanted], labels[400:][wanted]) == 100
    blind = predictions.linear_probe(noise[:400], labels[:400], noise[400:][wanted], labels[400:][wanted])
    assert 10 < blind < 60


def test_relearn_steps_is_the_first_step_at_the_target():
    assert predictions.relearn_steps((0, 1, 2, 4), [0, 30, 60, 90], 45) == 2
    assert predictions.relearn_steps((0, 1, 2, 4), [50, 30, 60, 90], 45) == 0
    assert predictions.relearn_steps((0, 1, 2, 4), [0, 0, 0, 0], 45) is None


def test_average_gap_is_the_mean_of_four_absolute_differences():
    row = {"UA": 99.0, "RA": 95.0, "TA": 90.0, "MIA": 80.0}
    retrain = {"UA": 100.0, "RA": 98.0, "TA": 88.0, "MIA": 90.0}
    assert predictions.average_gap(row, retrain) == (1 + 3 + 2 + 10) / 4


def test_nan_is_no_answer():
    """argmax takes NaN for the largest logit, so that a broken network seemed to know the first class."""
    logits = torch.tensor([[float("nan")] * 3, [2.0, float("nan"), 0.0], [0.0, 1.0, float("-inf")]])
    labels = torch.tensor([0, 1, 1])
    assert predictions.correctness(logits, labels).tolist() == [0, 0, 1]
    assert predictions.accuracy(logits, labels) == pytest.approx(100 / 3)


def test_nan_stays_nan_in_features_and_distances():
    """A clamp, a maximum or a comparison that turned it into a number would make a broken network look like a good one."""
    logits = torch.tensor([[1.0, float("nan"), 0.0], [1.0, 2.0, 3.0]])
    labels = torch.tensor([0, 1])
    for name, feature in {**predictions.FEATURES, "margin": predictions.margin}.items():
        found = feature(logits, labels).reshape(2, -1).isnan().any(1).tolist()
        assert found == ([False, False] if name == "correctness" else [True, False]), name
    for distance in (predictions.activation_distance, predictions.js_divergence):
        assert math.isnan(distance(logits, logits.nan_to_num())) and math.isnan(distance(logits.nan_to_num(), logits))
    row = {"UA": 1.0, "RA": 2.0, "TA": float("nan"), "MIA": 3.0}
    other = {"UA": 1.0, "RA": 2.0, "TA": 5.0, "MIA": 3.0}
    for figure in (predictions.average_gap, predictions.tug_of_war):
        assert math.isnan(figure(row, other)) and math.isnan(figure(other, row))


def test_the_nearest_centre_is_the_mean_of_training_features():
    """Centres (1, 0), (5, 0) and (0, 8). Of T_f's four images of class 1 two lie nearest to theirs. The mean of T_f's own
    features, (3.2, 2), would be the nearest centre of three."""
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 1.0], [6.0, -1.0], [0.0, 8.0]])
    labels, test = torch.tensor([0, 0, 1, 1, 4]), torch.tensor([[3.1, 0.0], [7.0, 0.0], [2.9, 0.0], [0.0, 8.0]])
    own = torch.ones(4, dtype=torch.int64)
    assert predictions.nearest_centre(features, labels, test, own) == 50
    assert predictions.nearest_centre(features, labels, test, torch.tensor([1, 1, 0, 4])) == 100
    assert predictions.nearest_centre(features, labels, test, torch.tensor([1, 1, 0, 3])) == 75  # no centre of class 3
    order = torch.tensor([4, 2, 0, 3, 1])
    assert predictions.nearest_centre(features[order], labels[order], test, own) == 50


def test_features_are_not_standardised_for_the_nearest_centre():
    """Divided by its deviation the first feature would count no more than the second, which says class 1."""
    features, labels = torch.tensor([[0.0, 0.0], [100.0, 1.0]]), torch.tensor([0, 1])
    assert predictions.nearest_centre(features, labels, torch.tensor([[49.0, 1.0]]), torch.tensor([0])) == 100


def test_a_tie_and_a_nan_are_no_nearest_centre():
    features, labels = torch.zeros(4, 3), torch.tensor([0, 0, 1, 2])
    test = torch.tensor([[0.0, 0.0, 0.0], [math.nan, 0.0, 0.0]])
    for label in range(3):  # dead features put all centres in one place
        assert predictions.nearest_centre(features, labels, test, torch.full((2,), label)) == 0
    with pytest.raises(ValueError, match="NaN"):
        predictions.nearest_centre(features / 0, labels, test, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match="no image"):
        predictions.nearest_centre(features, labels, test[:0], labels[:0])


def test_head_bias_by_hand():
    """V = (-3, 0, 1, 6) of classes 1, 3, 4, 6 and R = (2, -1, 5): means 1 and 2, median of V 1/2, minima -3 and -1."""
    biases = torch.tensor([2.0, 0.0, -1.0, -3.0, 6.0, 5.0, 1.0])
    found = predictions.head_bias(biases, [1, 3, 4, 6])
    expected = {"bsc": 1 / 2, "mbg": 1 / (1 + math.exp(-1.5)), "mbs": 1 / (1 + math.exp(2))}
    assert found == pytest.approx(expected)
    masked = predictions.head_bias(biases.masked_fill(torch.arange(7) == 3, -math.inf), [3])
    assert masked == {"bsc": 0.0, "mbg": pytest.approx(0, abs=1e-300), "mbs": pytest.approx(0, abs=1e-300)}
    for wrong, forgotten in ((biases / 0, [1]), (biases, []), (biases, range(7))):
        with pytest.raises(ValueError):
            predictions.head_bias(wrong, forgotten)
