"""Influence functions: Hessian-vector products of a mean loss, and solving H x = b with nothing else.

Pure functions of losses and parameters; no model, data or file is known here. H is the Hessian of the mean over rows of a
loss, at given parameters. A vector is all parameters one after another, float32 (p,). Koh and Liang 2017 ("Understanding
black-box predictions via influence functions"); Pearlmutter 1994 for the product; Schraudolph 2002 for Gauss-Newton.
"""

from collections import namedtuple

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, cg

# x float32 (p,); residual: |b - A x| / |b|; products: how many Hessian-vector products it took; positive: whether A had
# positive curvature in every direction that was tried, without which x isn't a minimum.
Solution = namedtuple("Solution", "x residual products positive")


def flat(tensors):
    """Tensors as one vector, float32 (p,)."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


def add(parameters, vector, factor=1.0):
    """Add factor * vector to the parameters, in place."""
    with torch.no_grad():
        for parameter, part in zip(parameters, _parts(parameters, vector), strict=True):
            parameter.add_(part.view_as(parameter), alpha=factor)


def gradient(loss, parameters):
    """Gradient of a scalar loss, float32 (p,), detached."""
    return flat(torch.autograd.grad(loss, parameters)).detach()


def hessian_product(loss_of, batches, parameters):
    """A function from v to H v, where the mean loss is the sum of loss_of(batch), scalars, over the batches.

    With one batch the graph of its gradient is built once and kept, so that a product costs one backward pass; with more
    it is built anew each time, and memory is that of a batch.
    """

    def graph(batch):
        return flat(torch.autograd.grad(loss_of(batch), parameters, create_graph=True))

    kept = graph(batches[0]) if len(batches) == 1 else None

    def product(v):
        total = torch.zeros_like(v)
        for batch in batches:
            g = graph(batch) if kept is None else kept
            total += flat(torch.autograd.grad(g, parameters, v, retain_graph=kept is not None))
        return total

    return product


def gauss_newton_product(logits_of, batches, parameters):
    """As `hessian_product`, without the curvature of the network itself: J' (diag(p) - p p') J, never negative.

    logits_of(batch): logits float32 (tokens, classes) and the weight of each token in the mean loss, float32 (tokens,).
    """

    def product(v):
        total = torch.zeros_like(v)
        for batch in batches:
            logits, weight = logits_of(batch)
            dummy = torch.zeros_like(logits, requires_grad=True)
            g = flat(torch.autograd.grad(logits, parameters, dummy, create_graph=True))  # J' dummy, linear in dummy
            (moved,) = torch.autograd.grad(g, dummy, v, retain_graph=True)  # J v
            p = logits.detach().softmax(1)
            curved = weight[:, None] * p * (moved - (p * moved).sum(1, keepdim=True))
            total += flat(torch.autograd.grad(logits, parameters, curved))
        return total

    return product


def conjugate_gradients(product, b, damping, start=None, tolerance=1e-4, most=500):
    """Solve (H + damping I) x = b to a relative residual, with at most so many products: a Solution."""
    positive, count = True, 0

    def matvec(v):
        nonlocal positive, count
        v = torch.as_tensor(v, dtype=b.dtype, device=b.device)
        result = product(v) + damping * v
        positive, count = positive and bool(v @ result >= 0), count + 1
        return result.cpu().numpy()

    size = len(b)
    operator = LinearOperator((size, size), matvec=matvec, dtype=np.float32)
    start = None if start is None else start.cpu().numpy()
    x, _ = cg(operator, b.cpu().numpy(), x0=start, rtol=tolerance, maxiter=most)
    x = torch.as_tensor(x, dtype=b.dtype, device=b.device)
    return Solution(x, _residual(product, x, b, damping), count + 1, positive)


def stochastic(product_of, batches, b, damping, lr=1e-4, tolerance=1e-4, most=2000, every=100):
    """Solve (H + damping I) x = b as LLMEraser does: Adam on 1/2 x' (H + damping I) x - b' x, a mini-batch a step.

    product_of(batch): the function from v to that batch's own mean Hessian times v. It ends at the tolerance, at `most`
    steps, or when the residual over all batches, looked at every so many steps, no longer falls.
    """
    products = [product_of(batch) for batch in batches]
    x = torch.zeros_like(b)
    optimizer = torch.optim.Adam([x], lr=lr)

    def whole(v):
        return sum(product(v) for product in products) / len(products)

    best, residual, count = x.clone(), 1.0, 0
    generator = torch.Generator().manual_seed(0)
    for step in range(1, most + 1):
        product = products[int(torch.randint(len(products), (1,), generator=generator))]
        x.grad = product(x) + damping * x - b
        optimizer.step()
        count += 1
        if step % every == 0:
            reached, count = _residual(whole, x, b, damping), count + len(products)
            if reached >= residual:
                break
            best, residual = x.clone(), reached
            if residual <= tolerance:
                break
    return Solution(best, residual, count, True)


def _residual(product, x, b, damping):
    return float((b - product(x) - damping * x).norm() / b.norm())


def _parts(parameters, vector):
    return vector.split([parameter.numel() for parameter in parameters])
