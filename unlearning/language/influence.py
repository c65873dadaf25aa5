"""Influence functions: Hessian-vector products of a mean loss, and solving H x = b with nothing else.

Pure functions of losses and parameters; no model, data or file is known here. H is the Hessian of the mean over rows of a
loss, at given parameters. A vector is all parameters one after another, float32 (p,). Koh and Liang 2017 ("Understanding
black-box predictions via influence functions"); Pearlmutter 1994 for the product; Schraudolph 2002 for Gauss-Newton.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

Product = Callable[[torch.Tensor], torch.Tensor]  # from v to H v, float32 (p,)


class Solution(NamedTuple):
    """x float32 (p,); residual: |b - A x| / |b|; products: how many Hessian-vector products it took."""

    x: torch.Tensor
    residual: float
    products: int


def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """Tensors as one vector, float32 (p,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def assign(parameters: Sequence[torch.Tensor], vector: torch.Tensor) -> None:
    """Give the parameters the values of a vector, which stays apart from them."""
    with torch.no_grad():
        for parameter, part in zip(parameters, vector.split([p.numel() for p in parameters]), strict=True):
            parameter.copy_(part.view_as(parameter))


def gradient(loss: torch.Tensor, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
    """Gradient of a scalar loss, float32 (p,), detached."""
    return flat(_derivatives(loss, parameters)).detach()


def _derivatives(
    of: torch.Tensor, by: Sequence[torch.Tensor], along: torch.Tensor | None = None, **how: bool
) -> Sequence[torch.Tensor]:
    """torch.autograd.grad, zero where nothing depends on a tensor: an adapter may have layers that no row reaches, as in the
    last layer of LLaVA's vision tower, or in all of it where rows are without images. along: what `of` is weighed by."""
    if not of.requires_grad:
        return [torch.zeros_like(tensor) for tensor in by]
    return torch.autograd.grad(of, by, along, materialize_grads=True, **how)


def hessian_product(
    loss_of: Callable[[Any], torch.Tensor],
    batches: Sequence[Any],
    parameters: Sequence[torch.Tensor],
    keep: bool = False,
) -> Product:
    """A function from v to H v, where the mean loss is the sum of loss_of(batch), scalars, over the batches.

    keep: the graph of each batch's gradient is built once, so that a product costs one backward pass, and memory is that of
    all graphs. Otherwise it is built anew each time, and memory is that of a batch.
    """

    def graph(batch):
        return flat(_derivatives(loss_of(batch), parameters, create_graph=True))

    graphs = _for_each(graph, batches, keep)

    def product(v):
        total = torch.zeros_like(v)
        for again, g in graphs():
            total += flat(_derivatives(g, parameters, v, retain_graph=again))
        return total

    return product


def gauss_newton_product(
    logits_of: Callable[[Any], tuple[torch.Tensor, torch.Tensor]],
    batches: Sequence[Any],
    parameters: Sequence[torch.Tensor],
    keep: bool = False,
) -> Product:
    """As `hessian_product`, without the curvature of the network itself: J' (diag(p) - p p') J, never negative.

    logits_of(batch): logits float32 (tokens, classes) and the weight of each token in the mean loss, float32 (tokens,).
    """

    def graph(batch):
        logits, weight = logits_of(batch)
        dummy = torch.zeros_like(logits, requires_grad=True)
        g = flat(_derivatives(logits, parameters, dummy, create_graph=True))  # J' dummy, linear in dummy
        return logits, weight, dummy, g

    graphs = _for_each(graph, batches, keep)

    def product(v):
        total = torch.zeros_like(v)
        for again, (logits, weight, dummy, g) in graphs():
            (moved,) = _derivatives(g, [dummy], v, retain_graph=True)  # J v
            p = logits.detach().softmax(1)
            curved = weight[:, None] * p * (moved - (p * moved).sum(1, keepdim=True))
            total += flat(_derivatives(logits, parameters, curved, retain_graph=again))
        return total

    return product


def _for_each(graph: Callable[[Any], Any], batches: Sequence[Any], keep: bool) -> Callable[[], Iterable[tuple[bool, Any]]]:
    """A function that gives (whether it is used again, the graph) of each batch, built once where it is."""
    if keep:
        kept = [(True, graph(batch)) for batch in batches]
        return lambda: kept
    return lambda: ((False, graph(batch)) for batch in batches)


def conjugate_gradients(
    product: Product,
    b: torch.Tensor,
    dampings: Sequence[float],
    tolerance: float = 1e-4,
    most: int = 300,
    rough: bool = False,
) -> dict[float, Solution]:
    """Solve (H + damping I) x = b for each damping to a relative residual: a dictionary of damping to Solution.

    All share one Krylov space and so their products, of which there are at most so many: conjugate gradients in the form of
    Lanczos (Paige and Saunders 1975), every vector made orthogonal to all before it. A damping is left out where the
    residual, as Lanczos estimates it, wasn't reached, but for `rough` solutions, which are what so many products give; and
    where curvature isn't positive in that space, for then the quadratic has no minimum.
    """
    if not b.any():
        return {damping: Solution(torch.zeros_like(b), 0.0, 0) for damping in dampings}
    from scipy.linalg import eigh_tridiagonal

    norm, basis = float(b.norm()), (b / b.norm())[None]
    diagonal: list[float] = []
    beside: list[float] = []
    for count in range(1, most + 1):
        w = product(basis[-1])
        diagonal.append(float(basis[-1] @ w))
        for _ in range(2):  # once isn't enough in fp32
            w = w - basis.T @ (basis @ w)
        beta = float(w.norm())
        spent = beta <= 1e-6 * max(map(abs, diagonal + beside))  # of H's own size: nothing of the space is left
        if count % 5 == 0 or count == most or spent:
            values, vectors = eigh_tridiagonal(diagonal, beside)
            y = {d: vectors @ (vectors[0] / (values + d)) * norm for d in dampings if values[0] + d > 0}
            residual = {d: beta * abs(y[d][-1]) / norm for d in y}
            if spent or count == most or all(r <= tolerance for r in residual.values()):
                break
        if count == most:
            break
        beside.append(beta)
        basis = torch.cat([basis, (w / beta)[None]])
    solved = {
        d: basis.T @ torch.as_tensor(y[d], dtype=b.dtype, device=b.device) for d in y if rough or residual[d] <= tolerance
    }
    # What was estimated can lie far below what fp32 can reach: a product each says how near they are.
    return {d: Solution(x, _residual(product, x, b, d), count + len(solved)) for d, x in solved.items()}


def stochastic(
    product_of: Callable[[Any], Product],
    batches: Sequence[Any],
    sizes: Sequence[int],
    b: torch.Tensor,
    damping: float,
    lr: float = 1e-3,
    tolerance: float = 1e-4,
    most: int = 2000,
    every: int = 500,
) -> Solution:
    """Solve (H + damping I) x = b as LLMEraser does, by Adam on 1/2 x' (H + damping I) x - b' x, a mini-batch a step.

    product_of(batch): the function from v to that batch's own mean Hessian times v. sizes: rows of each batch, by
    which batches are drawn, so that their mean is the whole one. The learning rate falls to 0 over `most` steps; it ends
    there, or at the tolerance of the residual over all batches, which is looked at every so many steps.
    """
    products = [product_of(batch) for batch in batches]
    x = torch.zeros_like(b)
    optimizer = torch.optim.Adam([x], lr=lr)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, most)
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor(sizes, dtype=torch.float64) / sum(sizes)
    order = torch.multinomial(shares, most, replacement=True, generator=generator).tolist()

    def whole(v):
        return sum(share * product(v) for share, product in zip(shares.tolist(), products, strict=True))

    for step, place in enumerate(order, 1):
        x.grad = products[place](x) + damping * x - b
        optimizer.step()
        scheduler.step()
        if (step % every == 0 or step == most) and (residual := _residual(whole, x, b, damping)) <= tolerance:
            break
    return Solution(x, residual, step + -(-step // every) * len(products))


def _residual(product: Product, x: torch.Tensor, b: torch.Tensor, damping: float) -> float:
    return float((b - product(x) - damping * x).norm() / b.norm())
