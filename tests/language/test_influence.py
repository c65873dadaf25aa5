"""Influence functions against what they stand for: dense Hessians, finite differences, and exact retraining."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

from unlearning.language import influence

DECAY = 0.01


@pytest.fixture(scope="module")
def head():
    """A strictly convex head: logistic regression with an L2 penalty on digits, float64, trained to rest."""
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images[:400] / 16), torch.tensor(labels[:400])
    return x, y, fitted(x, y, torch.ones(400, dtype=torch.float64))


def mean_loss(x, y, weight, w):
    logits = x @ w.view(64, 10)
    return (weight * cross_entropy(logits, y, reduction="none")).sum() / len(y) + DECAY / 2 * (w**2).sum()


def fitted(x, y, weight):
    """The minimum of the weighted loss, whose sum is over the rows' number whatever they weigh."""

    def both(values):
        w = torch.tensor(values, requires_grad=True)
        loss = mean_loss(x, y, weight, w)
        return loss.item(), torch.autograd.grad(loss, w)[0].numpy()

    found = minimize(
        both, np.zeros(640), jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-10, "ftol": 1e-16}
    )
    return torch.tensor(found.x, requires_grad=True)


def step(x, y, w, rows, epsilon=1.0):
    """The step that takes `epsilon` of the rows' weight away."""
    n = len(y)
    product = influence.hessian_product(lambda batch: mean_loss(x, y, torch.ones(n), w), [None], [w])
    loss = cross_entropy(x[rows] @ w.view(64, 10), y[rows], reduction="sum")
    b = influence.gradient(epsilon * loss / n, [w])
    return influence.conjugate_gradients(product, b, (0.0,), tolerance=1e-8)[0.0].x


@pytest.mark.parametrize("rows", [[7], list(range(16))])
def test_removal_is_exact_retraining_to_first_order(head, rows):
    x, y, w = head
    errors = []
    for epsilon in (1.0, 0.1, 0.01):
        weight = torch.ones(len(y), dtype=torch.float64)
        weight[rows] -= epsilon
        true = fitted(x, y, weight) - w
        errors.append(((step(x, y, w, rows, epsilon) - true).norm() / true.norm()).item())
    # The relative error is of the order of what is taken away: ten times less weight, ten times less of it.
    assert errors[0] < 0.3
    assert errors[1] / errors[0] == pytest.approx(0.1, rel=0.5)
    assert errors[2] / errors[1] == pytest.approx(0.1, rel=0.5)
    # A wrong sign or a wrong n would be off by as much as the step itself or more.
    assert errors[2] < 0.01


def test_predicted_and_actual_changes_of_the_test_loss_agree_over_groups(head):
    x, y, w = head
    images, labels = load_digits(return_X_y=True)
    seen, answers = torch.tensor(images[400:] / 16), torch.tensor(labels[400:])

    def test_loss(at):
        return cross_entropy(seen @ at.view(64, 10), answers).item()

    predicted, actual = [], []
    for group in torch.randperm(400, generator=torch.Generator().manual_seed(0))[:80].view(20, 4):
        weight = torch.ones(400, dtype=torch.float64)
        weight[group] = 0
        actual.append(test_loss(fitted(x, y, weight)) - test_loss(w))
        predicted.append(test_loss(w + step(x, y, w, group)) - test_loss(w))
    assert np.corrcoef(predicted, actual)[0, 1] > 0.9


@pytest.fixture
def network():
    """A small network that isn't convex, with its loss on two batches of rows."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()
    x, y = torch.randn(30, 4, dtype=torch.float64), torch.randint(3, (30,))
    parameters = list(net.parameters())

    def loss_of(rows):
        penalty = sum((p**2).sum() for p in parameters) / 2 * len(rows) / 30
        return cross_entropy(net(x[rows]), y[rows], reduction="sum") / 30 + 0.3 * penalty

    return net, x, y, parameters, loss_of


def dense(product, size):
    return torch.stack([product(v) for v in torch.eye(size, dtype=torch.float64)])


def test_a_product_is_that_of_the_written_out_hessian_in_one_batch_and_in_several(network):
    _, _, _, parameters, loss_of = network
    size = influence.flat(parameters).numel()

    def whole(values):
        logits = torch.func.functional_call(network[0], dict(zip(names, split(values), strict=True)), (network[1],))
        return cross_entropy(logits, network[2]) + 0.15 * (values**2).sum()

    names = [name for name, _ in network[0].named_parameters()]

    def split(values):
        parts = values.split([p.numel() for p in parameters])
        return [part.view_as(p) for part, p in zip(parts, parameters, strict=True)]

    expected = torch.autograd.functional.hessian(whole, influence.flat(parameters).detach())
    rows = torch.arange(30)
    for batches in ([rows], list(rows.split(7))):
        assert torch.allclose(dense(influence.hessian_product(loss_of, batches, parameters), size), expected, atol=1e-10)


@pytest.mark.parametrize("curvature", ["hessian", "gauss-newton"])
def test_kept_graphs_give_the_same_bits_and_are_built_once(network, curvature):
    net, features, _, parameters, loss_of = network
    built = []

    def hessian(rows):
        built.append(len(rows))
        return loss_of(rows)

    def logits_of(rows):
        built.append(len(rows))
        return net(features[rows]), torch.ones(len(rows), dtype=torch.float64)

    make, of = {
        "hessian": (influence.hessian_product, hessian),
        "gauss-newton": (influence.gauss_newton_product, logits_of),
    }[curvature]
    batches = list(torch.arange(30).split(7))
    anew, kept = (make(of, batches, parameters, keep) for keep in (False, True))
    assert built == [7, 7, 7, 7, 2]  # the kept ones, at once
    for v in torch.eye(influence.flat(parameters).numel(), dtype=torch.float64)[:3]:
        assert torch.equal(kept(v), anew(v)) and anew(v).any()
    assert len(built) == 5 + 6 * 5


def test_a_product_is_the_finite_difference_of_gradients(network):
    _, _, _, parameters, loss_of = network
    rows = [torch.arange(30)]
    at = influence.flat(parameters).detach().clone()
    v = torch.randn(len(at), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    product = influence.hessian_product(loss_of, rows, parameters)(v)
    found = []
    for sign in (1, -1):
        influence.assign(parameters, at + sign * 1e-5 * v)
        found.append(influence.gradient(loss_of(rows[0]), parameters))
    assert torch.allclose(product, (found[0] - found[1]) / 2e-5, atol=1e-8)


def test_gauss_newton_is_the_hessian_where_logits_are_linear_and_is_never_negative(network, head):
    x, y, w = head

    def logits_of(rows):
        return x[rows] @ w.view(64, 10), torch.full((len(rows),), 1 / 400, dtype=torch.float64)

    product = influence.gauss_newton_product(logits_of, list(torch.arange(400).split(150)), [w])
    full = influence.hessian_product(lambda batch: mean_loss(x, y, torch.ones(400), w), [None], [w])
    v = torch.randn(640, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(product(v), full(v) - DECAY * v, atol=1e-10)
    net, features, _, parameters, _ = network
    curved = influence.gauss_newton_product(
        lambda rows: (net(features[rows]), torch.ones(len(rows), dtype=torch.float64)), [torch.arange(30)], parameters
    )
    values = torch.linalg.eigvalsh(dense(curved, influence.flat(parameters).numel()))
    assert values.min() > -1e-10


def test_assigned_values_stay_apart_from_the_parameters(network):
    parameters = network[3]
    vector = influence.flat(parameters).detach().clone()
    influence.assign(parameters, vector + 1)
    assert torch.equal(influence.flat(parameters), vector + 1)
    influence.assign(parameters, vector)
    before = vector.clone()
    with torch.no_grad():
        parameters[0].add_(5)  # as training does, in place
    assert torch.equal(vector, before)


def system(values, seed=0):
    """A symmetric matrix with these eigenvalues, and a right side."""
    torch.manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), dtype=torch.float64)).Q
    return basis @ torch.diag(values) @ basis.T, torch.randn(len(values), dtype=torch.float64)


def test_conjugate_gradients_match_a_dense_solve_at_each_damping():
    matrix, b = system(torch.logspace(-2, 1, 60, dtype=torch.float64))
    solutions = influence.conjugate_gradients(matrix.mv, b, (1.0, 0.1, 0.0), tolerance=1e-6)
    assert list(solutions) == [1.0, 0.1, 0.0]
    for damping, solution in solutions.items():
        expected = torch.linalg.solve(matrix + damping * torch.eye(60), b)
        assert torch.allclose(solution.x, expected, atol=1e-4 * expected.norm())
        true = (b - matrix @ solution.x - damping * solution.x).norm() / b.norm()
        assert true.item() == pytest.approx(solution.residual, rel=0.01, abs=1e-9)
        assert solution.residual <= 1e-6


def test_the_residual_in_fp32_is_what_it_is_said_to_be():
    matrix, b = system(torch.logspace(-3, 1, 120, dtype=torch.float64))
    matrix, b = matrix.float(), b.float()
    for damping, solution in influence.conjugate_gradients(matrix.mv, b, (0.1, 0.003), tolerance=1e-4).items():
        true = ((b - matrix @ solution.x - damping * solution.x).norm() / b.norm()).item()
        assert abs(true - solution.residual) < 2e-5  # rounding


def test_conjugate_gradients_leave_out_dampings_without_a_minimum_or_without_a_solution():
    matrix, b = system(torch.linspace(-1, 5, 40, dtype=torch.float64))
    assert set(influence.conjugate_gradients(matrix.mv, b, (2.0, 0.5, 0.0))) == {2.0}
    hard, b = system(torch.logspace(-6, 3, 200, dtype=torch.float64))
    assert influence.conjugate_gradients(hard.mv, b, (0.0,), most=20) == {}


def test_rough_solutions_are_the_best_that_so_many_products_give():
    """The least of the quadratic in the space of b, H b, ..."""
    matrix, b = system(torch.logspace(-4, 1, 60, dtype=torch.float64))
    solutions = influence.conjugate_gradients(matrix.mv, b, (0.1, 0.0), tolerance=1e-9, most=7, rough=True)
    powers = [b]
    for _ in range(6):
        powers.append(matrix @ powers[-1])
    space = torch.linalg.qr(torch.stack(powers, 1)).Q
    for damping, solution in solutions.items():
        within = space.T @ (matrix + damping * torch.eye(60)) @ space
        assert torch.allclose(solution.x, space @ torch.linalg.solve(within, space.T @ b), atol=1e-5 * solution.x.norm())
        assert solution.residual > 1e-3 and solution.products == 7 + 2


@pytest.mark.parametrize("scale", [1e8, 1e-8])
def test_a_systems_units_dont_matter(scale):
    matrix, b = system(torch.logspace(-2, 1, 60, dtype=torch.float64))
    plain = influence.conjugate_gradients(matrix.mv, b, (0.1,))[0.1]
    larger = influence.conjugate_gradients(matrix.mv, scale * b, (0.1,))[0.1]
    assert torch.allclose(larger.x, scale * plain.x) and larger.products == plain.products
    steeper = influence.conjugate_gradients(lambda v: scale * (matrix @ v), b, (0.1 * scale,))[0.1 * scale]
    assert torch.allclose(steeper.x * scale, plain.x) and steeper.products == plain.products


def test_a_recorded_residual_is_the_true_one_where_fp32_ends():
    """A system that is solved exactly after two products: the estimate is nothing."""
    matrix, b = system(torch.tensor([1.0, 3.0] * 30, dtype=torch.float64))
    matrix, b = matrix.float(), b.float()
    solution = influence.conjugate_gradients(matrix.mv, b, (0.0,), tolerance=1e-6)[0.0]
    true = ((b.double() - matrix.double() @ solution.x.double()).norm() / b.double().norm()).item()
    assert solution.residual > 1e-9 and solution.residual == pytest.approx(true, rel=0.9)


def test_nothing_to_solve_is_solved_by_nothing():
    matrix, b = system(torch.linspace(1, 5, 10, dtype=torch.float64))
    solution = influence.conjugate_gradients(matrix.mv, torch.zeros_like(b), (0.0,))[0.0]
    assert not solution.x.any() and solution.residual == 0


def test_the_stochastic_way_comes_to_the_same_and_says_how_near():
    matrices = [system(torch.linspace(1, 2, 20, dtype=torch.float64), seed)[0] for seed in range(3)]
    b = system(torch.ones(20, dtype=torch.float64))[1]
    sizes = [100, 100, 10]  # a last mini-batch of few rows counts for few
    solution = influence.stochastic(lambda k: matrices[k].mv, [0, 1, 2], sizes, b, 0.5, lr=0.01)
    mean = sum(size * matrix for size, matrix in zip(sizes, matrices, strict=True)) / 210 + 0.5 * torch.eye(20)
    assert solution.residual == pytest.approx(((b - mean @ solution.x).norm() / b.norm()).item(), rel=1e-6)
    assert solution.residual < 0.1
    assert torch.allclose(solution.x, torch.linalg.solve(mean, b), atol=0.1 * b.norm())


class Counted:
    """A product that counts how often it is asked for."""

    def __init__(self, matrix):
        self.matrix, self.calls = matrix, 0

    def __call__(self, v):
        self.calls += 1
        return self.matrix @ v


def test_the_stochastic_way_draws_the_same_batches_whatever_was_drawn_before():
    products = [Counted(system(torch.linspace(1, 2, 5, dtype=torch.float64), seed)[0]) for seed in range(3)]
    b = system(torch.ones(5, dtype=torch.float64))[1]

    def solved():
        return influence.stochastic(products.__getitem__, [0, 1, 2], [5, 90, 5], b, 0.5, most=40, every=40)

    first = solved()
    before = [product.calls for product in products]
    torch.rand(17)
    assert torch.equal(solved().x, first.x)
    assert [product.calls for product in products] == [2 * calls for calls in before]
    assert before[1] > 25 > before[0] + before[2]  # by their sizes: nine of ten draws


@pytest.mark.parametrize(
    ("most", "every", "tolerance", "steps", "looks"),
    [(20, 5, 0.0, 20, 4), (20, 5, 1e9, 5, 1), (7, 5, 0.0, 7, 2), (3, 5, 1e9, 3, 1)],
)
def test_the_stochastic_way_counts_its_products(most, every, tolerance, steps, looks):
    """One a step, and one for each batch whenever the residual is looked at, at the end in any case."""
    products = [Counted(torch.eye(3)), Counted(2 * torch.eye(3))]
    options = {"most": most, "every": every, "tolerance": tolerance}
    solution = influence.stochastic(products.__getitem__, [0, 1], [1, 3], torch.ones(3), 0.5, **options)
    assert solution.products == steps + 2 * looks == sum(product.calls for product in products)


def test_the_stochastic_step_is_adams_on_the_quadratic():
    """From 0 the first step is the rate times the sign of b; the rate falls linearly to 0."""
    b = torch.tensor([3.0, -0.01, 50.0])

    def after(most, steps):
        options = {"lr": 0.1, "tolerance": 1e9, "most": most, "every": steps}
        return influence.stochastic(lambda _: torch.zeros_like, [0], [1], b, 0.0, **options).x

    torch.testing.assert_close(after(10, 1), 0.1 * b.sign())
    torch.testing.assert_close(after(4, 4), 0.1 * (1 + 0.75 + 0.5 + 0.25) * b.sign())  # a constant gradient


def test_conjugate_gradients_count_their_products():
    """The space is shared by all dampings; the residual of each that was solved is measured."""
    matrix, b = system(torch.logspace(-2, 1, 60, dtype=torch.float64))
    product = Counted(matrix)
    solutions = influence.conjugate_gradients(product, b, (1.0, 0.1, 0.01), tolerance=1e-3)
    assert len(solutions) == 3 and {solution.products for solution in solutions.values()} == {product.calls}


@pytest.mark.parametrize("most", [1, 3, 5, 7])
def test_so_many_products_give_the_minimum_over_their_krylov_space(most):
    """What is left of b is orthogonal to b, A b, A A b ...; what isn't reached is left out, if not rough."""
    matrix, b = system(torch.logspace(-2, 1, 60, dtype=torch.float64))
    assert influence.conjugate_gradients(Counted(matrix), b, (0.1,), most=most) == {}
    product = Counted(matrix)
    solution = influence.conjugate_gradients(product, b, (0.1,), most=most, rough=True)[0.1]
    left = b - matrix @ solution.x - 0.1 * solution.x
    space = [b]
    for _ in range(most - 1):
        space.append(matrix @ space[-1])
    basis = torch.linalg.qr(torch.stack(space, 1)).Q
    assert (basis.T @ left).norm() < 1e-6 * b.norm() and (basis.T @ solution.x).norm() == pytest.approx(solution.x.norm())
    assert solution.residual == pytest.approx((left.norm() / b.norm()).item()) and solution.residual > 0.01
    assert solution.products == product.calls == most + 1
