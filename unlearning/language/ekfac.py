"""EK-FAC: the Gauss-Newton matrix of an adapter's training loss in Kronecker-factored form, inverted at once.

Each of LoRA's linear layers has a block of its own. Within it, with x the layer's inputs and g the loss's gradients at its
outputs, the eigenvectors of sum x x' and of sum g g' make a basis, in which the diagonal is exact: George et al. 2018, "Fast
approximate natural gradient descent in a Kronecker-factored eigenbasis"; for influence functions of language models, Grosse
et al. 2023, arXiv 2308.03296. The factors are computed by curvlinops, once for an adapter, and kept in a file beside its
folder. Its "expand" treats the places of a sequence as examples for the basis; the diagonal takes a row's gradient whole.

Labels are drawn from the model's own distribution, one for each answered token ("MC" Fisher). Its expectation is
Gauss-Newton, which labels of the data ("empirical") have not; all classes in turn ("type-2") would take a backward pass for
each of the vocabulary, and mixes the tokens of a row. A token counts its weight in the mean loss by its gradient's root.

Directions come from the factors alone, lengths from one product with Gauss-Newton itself on some rows (`fitted`).
"""

import hashlib
import importlib.util
import warnings
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from unlearning.core import content
from unlearning.core.device import clock
from unlearning.core.errors import UserError
from unlearning.core.files import check_writable, read_torch, sha256, write_torch
from unlearning.core.locks import locked, settle
from unlearning.language import prompts
from unlearning.language.adapters import CONFIG
from unlearning.language.batches import Batch, Tokens, batches_of
from unlearning.language.forward import ANSWERS
from unlearning.language.influence import Solution, gauss_newton_product
from unlearning.language.rows import digest
from unlearning.language.session import Session, tokens_digest

SAMPLES = 1  # labels drawn for each answered token
MEASURED, TOGETHER = 50, 8  # rows on which a step's length is measured, at most; of a batch of them
KIND = "ekfac 1"  # of the file; another number for factors that are computed otherwise


class Layer(NamedTuple):
    """A linear layer's block, float32: eigenvectors as columns (in, in) and (out, out), eigenvalues (out, in)."""

    inputs: torch.Tensor
    outputs: torch.Tensor
    eigenvalues: torch.Tensor


def check_library() -> None:
    """Raise UserError where the library that computes the factors isn't installed."""
    if importlib.util.find_spec("curvlinops") is None:
        raise UserError("--solver ekfac needs curvlinops-for-pytorch: pip install -r requirements-dev.txt")


def solve(factors: Sequence[Layer], b: torch.Tensor, dampings: Sequence[float], decay: float) -> dict[float, Solution]:
    """(G + (decay + damping) I) x = b, G the EK-FAC of Gauss-Newton: a dictionary of damping to Solution, for no products.

    b: float32 (p,), layers in the order of `factors`. The residual is that of this system, not of G's own original. A
    damping is left out where G is singular and nothing is added to it.
    """
    solved = {}
    for damping in dampings:
        shift = decay + damping
        x = _applied(factors, b, [1 / (layer.eigenvalues + shift) for layer in factors])
        if x.isfinite().all():
            left = b - _applied(factors, x, [layer.eigenvalues + shift for layer in factors])
            solved[damping] = Solution(x, float(left.norm() / b.norm()) if b.any() else 0.0, 0)
    return solved


def _applied(factors: Sequence[Layer], vector: torch.Tensor, values: Sequence[torch.Tensor]) -> torch.Tensor:
    """A matrix with the factors' eigenvectors and other eigenvalues, each (out, in), times a vector, float32 (p,)."""
    found = []
    parts = vector.split([each.numel() for each in values])
    for layer, each, part in zip(factors, values, parts, strict=True):
        within = layer.outputs.T @ part.view_as(each) @ layer.inputs
        found.append(layer.outputs @ (within * each) @ layer.inputs.T)
    return torch.cat([part.reshape(-1) for part in found])


def fitted(session: Session, b: torch.Tensor, solutions: dict[float, Solution]) -> dict[float, Solution]:
    """Solutions, each at the length that is best along it for Gauss-Newton itself: b'x / x' (G + (decay + damping) I) x.

    EK-FAC knows nothing of what layers, and directions of one layer, have in common: where rows are alike, as under one
    prompt, its steps are many times too long. A product each, on MEASURED of the session's rows, says by how much. The
    residual is then that of Gauss-Newton's system on these rows.
    """
    there = [row for row in session.rows if row is not None]
    some = there[:: -(-len(there) // MEASURED)]
    n = len(session.rows) * len(some) / len(there)  # so that they stand for all
    session = session.without_checkpointing
    batches = session.batches(some, TOGETHER)
    product = gauss_newton_product(lambda batch: (session.logits(batch), batch.weights / n), batches, session.parameters)
    found = {}
    for damping, solution in solutions.items():
        curved = product(solution.x) + (session.decay + damping) * solution.x
        length = (b @ solution.x) / (solution.x @ curved)
        residual = float((b - length * curved).norm() / b.norm())
        found[damping] = Solution(length * solution.x, residual, len(solutions))
    return found


def factors_of(session: Session) -> tuple[list[Layer], float]:
    """(A block for each of the session's parameters, seconds that computing them took).

    0 seconds where they lay beside the adapter, of the same weights, base and rows. Else they are computed and put there.
    Raises UserError where nothing can be put there, or what lies there is damaged or something else.
    """
    file, of = file_of(session), _identity(session)
    if file:
        settle(file)
    if file and file.exists():
        stored = read_torch(file)
        content.check(
            stored, content.fields({"kind": content.one_of(KIND), "of": content.map_of(content.text())}), str(file)
        )
        if stored["of"] == of:
            content.check(stored, _shapes(session), str(file))
            device = session.forward.device
            stored = [stored["layers"][str(place)] for place in range(len(session.parameters))]
            return [Layer(**{name: tensor.to(device) for name, tensor in block.items()}) for block in stored], 0.0
    if file:
        check_writable(file.parent)
    started = clock(session.forward.device)
    layers = compute(session)
    seconds = clock(session.forward.device) - started
    if file:
        blocks = {str(i): {name: part.cpu() for name, part in layer._asdict().items()} for i, layer in enumerate(layers)}
        with locked(file):
            write_torch(file, {"kind": KIND, "of": of, "layers": blocks})
    return layers, seconds


def file_of(session: Session) -> Path | None:
    """Where the factors of a session's adapter lie: beside its folder, not in it. None for one without a folder."""
    folder = session.source and session.source.resolve()
    return folder.parent / f"{folder.name}_ekfac.pth" if folder else None


def compute(session: Session, samples: int = SAMPLES) -> list[Layer]:
    """The factors of the mean loss over the session's rows, at its parameters: a Layer for each of them, in their order.

    Raises UserError for LoRA on anything but linear layers.
    """
    check_library()
    with warnings.catch_warnings():  # what it is built on asks torch for a way that is going
        warnings.simplefilter("ignore", FutureWarning)
        from curvlinops import EKFACLinearOperator

    session = session.without_checkpointing
    answers, parameters = _Answers(session, samples), session.parameters
    if any(parameter.dim() < 2 for parameter in parameters):
        raise UserError("--solver ekfac takes LoRA without biases: take --solver cg")
    try:
        places = EKFACLinearOperator.compute_parameter_mapping(parameters, answers)
    except NotImplementedError:
        raise UserError("--solver ekfac takes LoRA on linear layers only: take --solver cg") from None
    batches = _batches(session)
    operator = EKFACLinearOperator(
        answers,
        nn.CrossEntropyLoss(reduction="sum"),
        parameters,
        [(batch, drawn) for batch in batches for drawn in _labels(session, batch, samples)],
        check_deterministic=False,
        fisher_type="empirical",  # of labels that were drawn, which makes it "mc"; row by row, whatever rows stand beside
        num_data=1,
        num_per_example_loss_terms=1,
    )
    operator.compute_kronecker_factors()
    operator.compute_eigenvalue_correction()
    state, found = operator.state_dict(), [_unreached(parameter) for parameter in parameters]
    for name, of in places.items():
        if name in state["corrected_eigenvalues"]:
            inputs, outputs = (state[f"{kind}_covariances_eigenvectors"][name] for kind in ("input", "gradient"))
            found[of["weight"]] = Layer(inputs, outputs, state["corrected_eigenvalues"][name][of["weight"]])
    return found


def _unreached(parameter: torch.Tensor) -> Layer:
    """The block of a layer on which no row's answer depends: without curvature."""
    inputs, outputs = (torch.eye(size, dtype=parameter.dtype, device=parameter.device) for size in reversed(parameter.shape))
    return Layer(inputs, outputs, torch.zeros_like(parameter, requires_grad=False))


class _Answers(nn.Module):
    """A session as a function from a Batch to its logits, as curvlinops takes one."""

    def __init__(self, session: Session, samples: int) -> None:
        super().__init__()
        self.model, self.session, self.share = session.peft_model, session, 1 / (len(session.rows) * samples)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits float32 (tokens, V). Gradients come back times the root of a token's weight: their squares weigh right."""
        nothing = sum(parameter.sum() for parameter in self.session.parameters) * 0  # curvlinops wants all of them used
        logits = self.session.logits(batch) + nothing
        root = (batch.weights * self.share).sqrt()[:, None]
        logits.register_hook(lambda gradient: gradient * root)
        return logits


def _batches(session: Session) -> list[Batch]:
    """The session's rows as batches without padding, which the covariances of inputs would count in."""
    tokens = session.tokens(session.rows)
    session.forward.keep(tokens)
    if session.forward.way == ANSWERS:  # only answered places are computed
        return batches_of(tokens, session.forward.device)

    def length(row: Tokens) -> int:
        return len(row.prompt) + len(row.response)

    alike = groupby(sorted(tokens, key=length), key=length)
    return [batch for _, rows in alike for batch in batches_of(list(rows), session.forward.device)]


def _labels(session: Session, batch: Batch, samples: int) -> list[torch.Tensor]:
    """So many times a token for each answered place, int64 (tokens,), drawn as the model thinks likely.

    Each row has a generator of its own, by what it says: other rows beside it draw nothing else for it.
    """
    with torch.no_grad():
        likely = session.logits(batch).softmax(1)
    generator, drawn = torch.Generator(likely.device), []
    for row, part in zip(batch.rows, likely.split([len(row.response) for row in batch.rows]), strict=True):
        generator.manual_seed(int(row.key[:15], 16))
        drawn.append(part.multinomial(samples, replacement=True, generator=generator))
    return list(torch.cat(drawn).T)


def _identity(session: Session) -> dict[str, str]:
    """What factors are of, in digests: they are right for no other adapter, base or rows."""
    weights = hashlib.sha256()
    for parameter in session.parameters:
        weights.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    told = [
        session.record["precision"],
        session.record["prompt"],
        prompts.text_part(session.processor).chat_template,
        session.record["loss"],
    ]
    if session.allowed is not None:
        told.append(session.allowed.nonzero().flatten().tolist())
    return {
        "adapter": weights.hexdigest(),
        "config": sha256(session.source / CONFIG) if session.source else "",  # it says the scaling of LoRA
        "base": session.record["base_sha256"],
        "computes": session.record["config_sha256"],
        "tokens": tokens_digest(session, session.rows),
        "rows": _digest([row and digest(row) for row in session.rows]),
        "asked": _digest(told),
    }


def _digest(value: object) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()


def _shapes(session: Session) -> content.Rule:
    """What a file of factors holds for a session's parameters."""
    blocks = {}
    for place, parameter in enumerate(session.parameters):
        out, into = parameter.shape
        sizes = dict(zip(Layer._fields, ((into, into), (out, out), (out, into)), strict=True))
        block = {name: content.tensor(torch.float32, *size) for name, size in sizes.items()}
        blocks[str(place)] = content.fields(block, closed=True)
    return content.fields({"layers": content.fields(blocks, closed=True)})
