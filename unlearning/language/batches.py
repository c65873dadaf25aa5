"""Rows of token ids as batches, and what is computed from the logits of their answered tokens."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch.nn import functional

TOKENS, ANSWERED = 8192, 1024  # of a batch, at most: with padding; that are answered, each with logits of a whole vocabulary


@dataclass(frozen=True)
class Tokens:
    """A row as token ids: what is asked, and what is answered to it, with the token that ends it. image: the path of one
    that is asked about, whose places in the prompt have ids of their own, and shown: a digest of its file; "" for none.
    merged: the first token of the response holds the end of the prompt's text too. of: the digest of the row, by which all
    that was ever kept of it is found, whatever its tokens were then; "" where nobody needs it."""

    prompt: tuple[int, ...]
    response: tuple[int, ...]
    image: str = ""
    shown: str = ""
    merged: bool = field(default=False, compare=False)
    of: str = field(default="", compare=False)

    @cached_property
    def key(self) -> str:
        """A name for the states of these tokens."""
        return hashlib.sha256(repr((self.prompt, self.response, self.shown)).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Batch:
    """Rows of token ids as a model takes them.

    ids: without the last of each row, padded on the right, int64 (N, T). mask: what of it is no padding, bool (N, T).
    targets: the token to answer with at each place, -1 where nothing is answered, int64 (N, T). rows: the same as Tokens.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    targets: torch.Tensor
    rows: tuple[Tokens, ...]

    @property
    def asked(self) -> torch.Tensor:
        """Where something is answered, bool (N, T)."""
        return self.targets >= 0

    @property
    def weights(self) -> torch.Tensor:
        """What each answered token counts in its row's loss, float32 (tokens,): one over the answer's tokens."""
        return (1 / self.asked.sum(1))[self.asked.nonzero()[:, 0]]


def batch_of(rows: Sequence[Tokens], device: str | torch.device = "cpu") -> Batch:
    """Rows as one Batch."""
    sequences = [(*row.prompt, *row.response)[:-1] for row in rows]
    longest = max(map(len, sequences))
    ids, mask = torch.zeros(len(rows), longest, dtype=torch.int64), torch.zeros(len(rows), longest, dtype=torch.bool)
    targets = torch.full((len(rows), longest), -1)
    for i, (row, tokens) in enumerate(zip(rows, sequences, strict=True)):
        end = len(tokens)
        ids[i, :end], mask[i, :end] = torch.tensor(tokens), True
        targets[i, end - len(row.response) : end] = torch.tensor(row.response)
    return Batch(ids.to(device), mask.to(device), targets.to(device), tuple(rows))


def batches_of(rows: Sequence[Tokens], device: str | torch.device = "cpu", most: int | None = None) -> list[Batch]:
    """Rows in their order as batches within TOKENS and ANSWERED, and of at most so many rows. One row alone may exceed."""
    found: list[Batch] = []
    waiting: list[Tokens] = []
    longest = answered = 0
    for row in rows:
        length = max(longest, len(row.prompt) + len(row.response))
        full = length * (len(waiting) + 1) > TOKENS or answered + len(row.response) > ANSWERED or len(waiting) == most
        if waiting and full:
            found.append(batch_of(waiting, device))
            waiting, length, answered = [], len(row.prompt) + len(row.response), 0
        waiting.append(row)
        longest, answered = length, answered + len(row.response)
    return [*found, batch_of(waiting, device)] if waiting else found


def token_log_likelihoods(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The log-likelihood of every answered token in nats, float32 (tokens,)."""
    return -functional.cross_entropy(logits, batch.targets[batch.asked], reduction="none")


def row_means(batch: Batch, each: torch.Tensor) -> torch.Tensor:
    """The mean of a number of each answered token, float32 (tokens,), over each row's answer, float32 (N,)."""
    start = torch.zeros(len(batch.rows), device=each.device)
    return start.index_add(0, batch.asked.nonzero()[:, 0], each * batch.weights)
