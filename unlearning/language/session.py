"""Adapters at work: a session puts an adapter on its base with the rows that it was trained on; training minimises the
mean loss of its answers plus (decay / 2) |Theta|^2 to a stationary point, as influence functions want it."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unlearning.core.device import Compute
from unlearning.core.errors import RunFailed, UserError
from unlearning.language.base import (
    DOWN,
    MLP,
    Encoded,
    Example,
    Tail,
    Task,
    adapted,
    base_fingerprint,
    load_base,
    lora_config,
    tail_start,
)
from unlearning.language.rows import Data, load_rows, rows_of

AT_ONCE = 4096  # rows of a batch
CIRCUMSTANCES = ("base_model_name_or_path", "revision", "peft_version", "inference_mode")  # of PEFT's configuration


class Workspace:
    """What several runs in one process hand on to each other: the base, the task on it and the rows that were read last."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[Any, Any]] = {}

    def last(self, kind: str, key: Any, make: Callable[[], Any]) -> Any:
        """What `make` returns; the last of its kind is kept for as long as it is asked for by the same key."""
        if kind not in self._last or self._last[kind][0] != key:
            self._last.pop(kind, None)  # before the next one is made, so that only one at a time takes memory
            self._last[kind] = key, make()
        return self._last[kind][1]


@dataclass(frozen=True)
class Place:
    """Where data and adapters lie, where to compute, and what runs hand on to each other."""

    data_dir: Path
    weights: Path
    compute: Compute
    workspace: Workspace

    def rows(self, task: str, sizes: Sequence[int]) -> Data:
        """The rows of a task, as `load_rows` reads them."""
        key = task, self.data_dir, tuple(sizes)
        return self.workspace.last("rows", key, lambda: load_rows(*key, self.compute.quiet))

    def base(self, name: str) -> tuple[Any, Any, str]:
        """A base with its tokenizer and SHA-256."""

        def load() -> tuple[Any, Any, str]:
            model, tokenizer = load_base(name, self.data_dir, self.compute.device, self.compute.quiet)
            return model, tokenizer, base_fingerprint(model)

        return self.workspace.last("base", (name, self.data_dir, self.compute.device), load)

    def task(self, name: str, answers: Sequence[str], lora: tuple[int, int, tuple[str, ...], int]) -> Task:
        """The Task of a base for adapters like `lora`: rank, alpha, targets, blocks."""

        model, tokenizer, sha256 = self.base(name)

        def make() -> Task:
            adapter = lora_config(model, *lora)
            block, start = tail_start(adapter)
            kept = MLP if start == DOWN else start
            store = self.weights / "frozen" / f"{sha256[:12]}-{block}-{kept}.safetensors" if block else None
            return Task(model, tokenizer, list(answers), adapter, store)

        key = model, self.weights, tuple(answers), lora  # the model itself: a base that is read again has a new Task
        return self.workspace.last("task", key, make)


@dataclass(frozen=True)
class Session:
    """An adapter at work.

    record: what it was trained on, completed by the digests of base and data. rows: as they are now, None where removed.
    tail, parameters: of the network with the adapter. decay: the weight of |Theta|^2 / 2.
    """

    record: dict[str, Any]
    task: Task
    data: Data
    rows: list[Example | None]
    peft_model: Any
    tail: Tail
    parameters: list[nn.Parameter]
    decay: float


def objective(session: Session, rows: Sequence[Encoded], n: int) -> Callable[[Encoded], torch.Tensor]:
    """A function of batches of Encoded rows whose sum over batches is the training objective: losses over n, and the decay.

    Retrain without some rows divides by the same n, or the decay would weigh more.
    """
    total = sum(len(batch.targets) for batch in rows)

    def part(batch: Encoded) -> torch.Tensor:
        squares: Any = sum((parameter**2).sum() for parameter in session.parameters)
        penalty = session.decay / 2 * squares
        return session.task.losses(session.tail, batch).sum() / n + len(batch.targets) / total * penalty

    return part


def train_adapter(session: Session, evaluations: int) -> tuple[float, int]:
    """Minimise the objective on the session's rows by L-BFGS from where the parameters are: (loss, evaluations made)."""
    rows = batches(session, session.rows)
    part, count, last = objective(session, rows, len(session.rows)), 0, 0.0
    optimizer = torch.optim.LBFGS(
        session.parameters,
        max_iter=evaluations,
        max_eval=evaluations,
        tolerance_grad=1e-4,
        tolerance_change=1e-9,
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def closure():
        nonlocal count, last
        optimizer.zero_grad()
        count, last = count + 1, 0.0
        for batch in rows:
            loss = part(batch)
            loss.backward()
            last += loss.item()
        return last

    optimizer.step(closure)
    if last != last or last == float("inf"):
        raise RunFailed(f"the loss is {last}: try a larger --decay")
    return last, count


@contextlib.contextmanager
def session_of(record: dict[str, Any], place: Place, source: Path | None = None) -> Iterator[Session]:
    """A Session on what an adapter's record says, while the context lasts. source: its folder; None: a new adapter.

    Raises UserError when the base or the data aren't those that the adapter was trained on.
    """
    model, _, sha256 = place.base(record["base"])
    if record.get("base_sha256", sha256) != sha256:
        raise UserError(f"{source} is an adapter of another base than this {record['base']}: their fingerprints differ")
    data = place.rows(record["task"], record["sizes"])
    if record.get("fingerprint", data.fingerprint) != data.fingerprint:
        raise UserError(f"{source} was trained on other data than this {record['task']}: their fingerprints differ")
    lora = (record["rank"], record["alpha"], tuple(record["targets"]), record["blocks"])
    task = place.task(record["base"], data.answers, lora)
    rows = rows_of(record, data, source)
    complete = record | {"base_sha256": sha256, "fingerprint": data.fingerprint}
    torch.manual_seed(record["seed"])
    config = lora_config(model, *lora)
    with adapted(model, source or config) as peft_model:
        if not _alike(config, peft_model.peft_config["default"]):
            raise UserError(f"{source}: its adapter_config.json is of another shape than its record says: it is damaged")
        parameters = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
        yield Session(complete, task, data, rows, peft_model, Tail(peft_model), parameters, record["decay"])


def _alike(config: Any, other: Any) -> bool:
    """True for two configurations of LoRA that make the same adapter. config: one's own; other: as it was read."""

    def shape(of: Any) -> dict[str, Any]:
        told = {name: value for name, value in of.to_dict().items() if name not in CIRCUMSTANCES}
        return told | {name: set(told[name] or ()) for name in ("target_modules", "layers_to_transform")}

    whence = (getattr(other, name, None) for name in CIRCUMSTANCES if name != "inference_mode")
    return shape(config) == shape(other) and all(value is None or isinstance(value, str) for value in whence)


def batches(session: Session, rows: Sequence[Example | None], size: int = AT_ONCE) -> list[Encoded]:
    """Rows, but for the removed ones, as a list of Encoded."""
    there = [row for row in rows if row is not None]
    return [session.task.encode(there[i : i + size]) for i in range(0, len(there), size)]
