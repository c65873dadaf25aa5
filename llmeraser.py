"""LLMEraser: unlearn instances of an instruction-tuned language model by one step of its adapter's parameters.

Ding, Wu, Yuan et al., "Unified Parameter-Efficient Unlearning for LLMs" (ICLR 2025, arXiv 2412.00383). With G(x, y) the
gradient of a row's loss at the trained adapter, H the Hessian of the mean loss on what it was trained on, and n its rows:

    remove   Theta + 1/n H^-1 sum G(x, y)                 modify   Theta + 1/n H^-1 sum [G(x, y) - G(x', y)]
    correct  Theta + 1/n H^-1 sum [G(x, y) - G(x, y')]

H^-1 b comes from Hessian-vector products alone: by conjugate gradients, or, as in the paper, by stochastic steps on the
quadratic that it minimises. This project's own: the training objective has (decay / 2) |Theta|^2, and so has H; damping is
chosen on validation rows; answers are chosen among the task's (llm.py).

    python llmeraser.py finetune --task genre
    python llmeraser.py remove model_weights/genre_finetune_s0 --ids 3 17
    python llmeraser.py correct model_weights/genre_finetune_s0 --request right.jsonl --method retrain
    python llmeraser.py evaluate model_weights/genre_finetune_s0 model_weights/genre_finetune_s0_remove*
"""

import argparse
import contextlib
import functools
import hashlib
import json
import sys
from collections import namedtuple
from pathlib import Path

import torch

import cli
import influence
import instructions
import llm
import training
from errors import RunFailed, UserError

DAMPINGS = (0.1, 0.03, 0.01, 0.003, 0.0)  # tried from the first on; the best on validation rows is taken
METHODS = ("influence", "gradascent", "finetune", "retrain")
AT_ONCE = 4096  # rows of a batch
MINI = 100  # rows of a mini-batch of the stochastic solver

# An adapter at work: its task on the base, its data, its rows as they are now (None: removed), its tail and parameters, the
# weight of |Theta|^2 / 2.
Session = namedtuple("Session", "task data rows peft_model tail parameters decay")


def objective(session, rows, n):
    """A function of batches of Encoded rows whose sum over batches is the training objective: losses over n, and the decay.

    Retrain without some rows divides by the same n, or the decay would weigh more.
    """
    share = {id(batch): len(batch.targets) / sum(len(b.targets) for b in rows) for batch in rows}

    def part(batch):
        penalty = session.decay / 2 * sum((parameter**2).sum() for parameter in session.parameters)
        return session.task.losses(session.tail, batch).sum() / n + share[id(batch)] * penalty

    return part


def train(session, evaluations):
    """Minimise the objective on the session's rows by L-BFGS from where the parameters are: (loss, evaluations made)."""
    n, rows = len(session.rows), _batches(session, session.rows)
    part, count, last = objective(session, rows, n), 0, 0.0
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


def unlearn(session, before, after, config):
    """The paper's step, from the rows `before`, which have been trained on, to `after`, which should have been: a dictionary
    of damping, residual and products. Of the dampings whose system was solved the best on validation rows is taken."""
    n, task = len(session.rows), session.task
    wrong, right = (
        sum(task.losses(session.tail, batch).sum() for batch in _batches(session, rows)) for rows in (before, after)
    )
    b = influence.gradient((wrong - right) / n, session.parameters)
    solve = _solver(session, config)
    validation = task.encode(session.data.validation)
    best, start = None, None
    for damping in DAMPINGS if config.damping is None else (config.damping,):
        solution = solve(b, damping, start)
        if solution.residual > config.tolerance or not solution.positive:
            continue
        start = solution.x
        influence.add(session.parameters, solution.x)
        with torch.no_grad():
            loss = task.losses(session.tail, validation).mean().item()
        influence.add(session.parameters, solution.x, -1.0)
        if best is None or loss < best[0]:
            best = loss, damping, solution
    if best is None:
        raise RunFailed(
            f"no damping gave a solution to {config.tolerance:g} along positive curvature: try a larger --damping, or "
            "--curvature gauss-newton, which has no negative one"
        )
    _, damping, solution = best
    influence.add(session.parameters, solution.x)
    return {"damping": damping, "residual": solution.residual, "products": solution.products}


def _solver(session, config):
    """A function of b, damping and a start: an influence.Solution with the session's H."""
    n, task, parameters = len(session.rows), session.task, session.parameters

    def product(batches, count):
        if config.curvature == "hessian":
            return influence.hessian_product(objective(session, batches, count), batches, parameters)

        def logits_of(batch):
            return task.logits(session.tail, batch), task.weights(batch) / count

        flat = influence.gauss_newton_product(logits_of, batches, parameters)
        return lambda v: flat(v) + session.decay * v

    if config.solver == "cg":
        whole = product(_batches(session, session.rows), n)
        return lambda b, damping, start: influence.conjugate_gradients(whole, b, damping, start, config.tolerance)
    rows = _batches(session, session.rows, MINI)
    scale = n / sum(len(batch.targets) for batch in rows)  # rows may be gone, but n is what it was
    return lambda b, damping, start: influence.stochastic(
        lambda batch: product([batch], len(batch.targets) * scale), rows, b, damping, tolerance=config.tolerance
    )


def ascend(session, before, after, config, steps=10, lr=1e-3):
    """Gradient ascent on the rows to be forgotten: the baseline that needs neither Hessian nor retained rows."""
    optimizer = torch.optim.Adam(session.parameters, lr=lr, maximize=True)
    rows = _batches(session, before)
    for _ in range(steps):
        optimizer.zero_grad()
        sum(session.task.losses(session.tail, batch).sum() for batch in rows).div(len(before)).backward()
        optimizer.step()
    return {}


def go_on(session, before, after, config, evaluations=20):
    """Fine-tuning further on the rows as they should have been."""
    train(session, evaluations)
    return {}


def start_again(session, before, after, config):
    """Retrain: the exact answer, from the start that the first training had."""
    torch.manual_seed(config.record["seed"])
    for module in session.tail.modules():
        if hasattr(module, "reset_lora_parameters"):
            module.reset_lora_parameters("default", init_lora_weights=True)
    train(session, config.record["evaluations"])
    return {}


STEPS = dict(zip(METHODS, (unlearn, ascend, go_on, start_again), strict=True))


@functools.lru_cache(maxsize=1)
def base_of(name, data_dir, device):
    """A base with its tokenizer and SHA-256, the last one kept, so that several runs in one process load it once."""
    model, tokenizer = llm.load(name, data_dir, device)
    return model, tokenizer, llm.fingerprint(model)


@functools.lru_cache(maxsize=1)
def task_of(name, data_dir, device, weights, answers, lora):
    """The llm.Task of a base for adapters like `lora` (rank, alpha, targets, blocks), the last one kept."""
    model, tokenizer, sha256 = base_of(name, data_dir, device)
    start = "-".join(map(str, llm.cut(llm.lora(model, *lora))))
    store = weights / "frozen" / f"{sha256[:12]}-{'down' in start and 'mlp' or start}.safetensors"
    return llm.Task(model, tokenizer, list(answers), llm.lora(model, *lora), store)


@contextlib.contextmanager
def session_of(record, config, source=None):
    """A Session on what an adapter's record says, while the context lasts. source: its folder; None: a new adapter.

    Raises UserError when the base or the data aren't those that the adapter was trained on.
    """
    device = training.resolve_device(config.device)
    model, _, sha256 = base_of(record["base"], config.data_dir, device)
    if record.get("base_sha256", sha256) != sha256:
        raise UserError(f"{source} is an adapter of another base than this {record['base']}: their fingerprints differ")
    data = instructions.load(record["task"], config.data_dir, record["sizes"])
    if record.get("fingerprint", data.fingerprint) != data.fingerprint:
        raise UserError(f"{source} was trained on other data than this {record['task']}: their fingerprints differ")
    record |= {"base_sha256": sha256, "fingerprint": data.fingerprint}
    lora = (record["rank"], record["alpha"], tuple(record["targets"]), record["blocks"])
    task = task_of(record["base"], config.data_dir, device, config.weights, tuple(data.answers), lora)
    rows = instructions.edited(data.train, record["edits"])
    torch.manual_seed(record["seed"])
    with llm.adapted(model, source or llm.lora(model, *lora)) as peft_model:
        parameters = [parameter for parameter in peft_model.parameters() if parameter.requires_grad]
        yield Session(task, data, rows, peft_model, llm.Tail(peft_model), parameters, record["decay"])


def _batches(session, rows, size=AT_ONCE):
    rows = [row for row in rows if row is not None]
    return [session.task.encode(rows[i : i + size]) for i in range(0, len(rows), size)]


def finetune(config):
    """Train a new adapter on a task's rows, edited if --edits says so, and write its folder."""
    record = {key: getattr(config, key) for key in ("base", "task", "rank", "alpha", "targets", "blocks", "decay", "seed")}
    record |= {"sizes": config.sizes, "evaluations": config.evaluations, "edits": [], "ledger": []}
    name = Path(config.task).stem
    folder = config.output or config.weights / f"{name}_finetune_s{config.seed}"
    if config.edits:
        data = instructions.load(config.task, config.data_dir, config.sizes)
        record["edits"] = instructions.check(instructions.read_edits(config.edits), None, data.train, data.answers)
    if _there(folder, record, config):
        return folder
    with session_of(record, config) as session:
        _batches(session, session.rows)  # the frozen part's output is kept for everyone: not the training's time
        cost, (loss, count) = _metered(lambda: train(session, config.evaluations), config)
        record |= {"cost": cost | {"evaluations": count}, "loss": loss, **_circumstances(config)}
        instructions.write_adapter(session.peft_model, folder, record)
    _say(f"{folder}  ({cost['seconds']:.1f} s, {count} evaluations, objective {loss:.4f})", config)
    return folder


def answer(config):
    """Answer a request by one of STEPS and write the new adapter's folder; the old one stays as it is."""
    record = instructions.read_record(config.adapter)
    data = instructions.load(record["task"], config.data_dir, record["sizes"])
    rows = instructions.edited(data.train, record["edits"])
    asked = [{"id": i} for i in config.ids or []] + (instructions.read_edits(config.request) if config.request else [])
    edits = instructions.check(asked, config.action, rows, data.answers)
    changed = instructions.edited(rows, edits)
    before, after = [rows[edit["id"]] for edit in edits], [changed[edit["id"]] for edit in edits if not edit.get("remove")]
    tag = hashlib.sha256(json.dumps(edits).encode()).hexdigest()[:8]
    folder = config.output or Path(f"{config.adapter}_{config.action}-{tag}_{config.method}")
    how = {key: getattr(config, key) for key in ("method", "solver", "curvature", "damping", "tolerance")}
    request = {"action": config.action, "edits": edits, "before": before, "after": after} | how
    if _there(folder, record | {"edits": record["edits"] + edits}, config):
        return folder
    config.record = record
    with session_of(record, config, config.adapter) as session:
        _batches(session, before + after)
        now = session if config.method == "influence" else session._replace(rows=changed)
        cost, found = _metered(lambda: STEPS[config.method](now, before, after, config), config)
        entry = request | found | {"cost": cost, **_circumstances(config)}
        new = record | {"edits": record["edits"] + edits, "ledger": [*record["ledger"], entry]}
        instructions.write_adapter(session.peft_model, folder, new)
    _say(f"{folder}  ({cost['seconds']:.1f} s" + "".join(f", {k} {v:.3g}" for k, v in found.items()) + ")", config)
    return folder


def _there(folder, record, config):
    """Whether the folder is there with the same data and edits and may be taken as it is; UserError if it is in the way."""
    if not folder.exists() or config.overwrite:
        return False
    old = instructions.read_record(folder) if getattr(config, "reuse", False) else None
    keys = ("base", "task", "sizes", "rank", "alpha", "targets", "blocks", "decay", "seed", "edits")
    if old and all(old[key] == record[key] for key in keys):
        print(f"skipped, there already: {folder}", file=sys.stderr, flush=True)
        return True
    raise UserError(f"{folder} exists; --overwrite computes it again")


def _metered(work, config):
    """What work() costs and returns: ({"seconds", "memory_mib"}, result)."""
    device = torch.device(training.resolve_device(config.device))
    training.reset_peak_memory(device)
    started = training.now(device)
    result = work()
    return {"seconds": training.now(device) - started, "memory_mib": training.peak_memory_mib(device)}, result


def _circumstances(config):
    device = cli.device_name(training.resolve_device(config.device))
    return cli.provenance(config.command, device)


def _say(text, config):
    if not config.quiet:
        print(text)
