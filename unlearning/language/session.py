"""Adapters at work: a session puts an adapter on its base with the rows that it was trained on; training minimises the
mean loss of its answers plus (decay / 2) |Theta|^2 to a stationary point, as influence functions want it."""

import contextlib
import functools
from collections import namedtuple

import torch

from unlearning.core.device import resolve_device
from unlearning.core.errors import RunFailed, UserError
from unlearning.language.base import DOWN, MLP, Tail, Task, adapted, base_fingerprint, load_base, lora_config, tail_start
from unlearning.language.rows import edited, load_rows

AT_ONCE = 4096  # rows of a batch
# An adapter at work: its task on the base, its data, its rows as they are now (None: removed), its tail and parameters, the
# weight of |Theta|^2 / 2.
Session = namedtuple("Session", "task data rows peft_model tail parameters decay")


def objective(session, rows, n):
    """A function of batches of Encoded rows whose sum over batches is the training objective: losses over n, and the decay.

    Retrain without some rows divides by the same n, or the decay would weigh more.
    """
    total = sum(len(batch.targets) for batch in rows)

    def part(batch):
        penalty = session.decay / 2 * sum((parameter**2).sum() for parameter in session.parameters)
        return session.task.losses(session.tail, batch).sum() / n + len(batch.targets) / total * penalty

    return part


def train_adapter(session, evaluations):
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


@functools.lru_cache(maxsize=1)
def base_of(name, data_dir, device):
    """A base with its tokenizer and SHA-256, the last one kept, so that several runs in one process load it once."""
    model, tokenizer = load_base(name, data_dir, device)
    return model, tokenizer, base_fingerprint(model)


@functools.lru_cache(maxsize=1)
def task_of(name, data_dir, device, weights, answers, lora):
    """The llm.Task of a base for adapters like `lora` (rank, alpha, targets, blocks), the last one kept."""
    model, tokenizer, sha256 = base_of(name, data_dir, device)
    adapter_config = lora_config(model, *lora)
    block, start = tail_start(adapter_config)
    kept = MLP if start == DOWN else start
    store = weights / "frozen" / f"{sha256[:12]}-{block}-{kept}.safetensors" if block else None
    return Task(model, tokenizer, list(answers), adapter_config, store)


@contextlib.contextmanager
def session_of(record, config, source=None):
    """A Session on what an adapter's record says, while the context lasts. source: its folder; None: a new adapter.

    Raises UserError when the base or the data aren't those that the adapter was trained on.
    """
    device = resolve_device(config.device)
    model, _, sha256 = base_of(record["base"], config.data_dir, device)
    if record.get("base_sha256", sha256) != sha256:
        raise UserError(f"{source} is an adapter of another base than this {record['base']}: their fingerprints differ")
    data = load_rows(record["task"], config.data_dir, record["sizes"])
    if record.get("fingerprint", data.fingerprint) != data.fingerprint:
        raise UserError(f"{source} was trained on other data than this {record['task']}: their fingerprints differ")
    record |= {"base_sha256": sha256, "fingerprint": data.fingerprint}
    lora = (record["rank"], record["alpha"], tuple(record["targets"]), record["blocks"])
    task = task_of(record["base"], config.data_dir, device, config.weights, tuple(data.answers), lora)
    rows = edited(data.train, record["edits"])
    torch.manual_seed(record["seed"])
    with adapted(model, source or lora_config(model, *lora)) as peft_model:
        parameters = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
        yield Session(task, data, rows, peft_model, Tail(peft_model), parameters, record["decay"])


def batches(session, rows, size=AT_ONCE):
    """Rows, but for the removed ones, as a list of Encoded."""
    rows = [row for row in rows if row is not None]
    return [session.task.encode(rows[i : i + size]) for i in range(0, len(rows), size)]
