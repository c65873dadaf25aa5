"""LLMEraser's protocol: spoil a share of the rows, train on them, ask for the damage to be undone, and score the answers.

remove: nothing is spoilt, a share of the rows is to be forgotten. modify: chosen rows get each other's queries. correct:
chosen rows get another answer at random. Rows are chosen by the seed; a larger share has the rows of a smaller one. The
request says what the chosen rows should have been. Corrupted is the adapter before the request, Retrain one that was trained
without what was spoilt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from unlearning.core.words import say
from unlearning.evaluation.answers import folder_sha256
from unlearning.evaluation.unfinished import Unfinished, circumstances
from unlearning.experiments.plan import chosen
from unlearning.experiments.request import Plan, Request, Row, Run, Table
from unlearning.language import rows as language_rows
from unlearning.language import scores
from unlearning.language.base import SMOLLM2
from unlearning.language.rows import Data, read_record, task_label, write_edits
from unlearning.language.session import Place, Workspace
from unlearning.metrics import statistics

KINDS = tuple(language_rows.KINDS)
SHARES = (10, 20, 40)  # percent of the rows
NONE = "no adapter"  # the control: the base alone
# The rows of LLMEraser's table, each the flags of a request; the first asks for nothing.
ROWS: dict[str, tuple[str, ...] | None] = {
    "corrupted": None,
    "retrain": ("--method", "retrain"),
    "llmeraser": (),
    "llmeraser --curvature gauss-newton": ("--curvature", "gauss-newton"),
    "llmeraser --solver adam": ("--solver", "adam", "--damping", "0.03"),
    "gradascent": ("--method", "gradascent"),
    "finetune": ("--method", "finetune"),
}
# Here a "model" is a base, "tasks" what it is tuned on; rows to train on, to choose by, to test on.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"model": [SMOLLM2], "tasks": ["genre", "preference"], "sizes": [1000, 300, 700], "flags": []},
    "gpu": {
        "model": [SMOLLM2],
        "tasks": ["genre", "preference"],
        "sizes": [1300, 200, 500],
        "flags": ["--blocks", "30", "--targets", "q_proj", "v_proj"],
    },
}


@dataclass(frozen=True)
class Cell:
    """Runs that are measured against each other: of one seed, task, kind of request and share of rows."""

    seed: int
    task: str
    kind: str
    share: int
    methods: tuple[str, ...]


def requests(kind: str, share: int, seed: int, data: Data, folder: Path) -> list[Path | None]:
    """Write the edits that spoil the data and those that are asked for; their files, the first None for remove."""
    wrong: list[dict[str, Any]]
    right: list[dict[str, Any]]
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data.train))  # the same for every kind and share
    chosen = [int(i) for i in order[: len(order) * share // 100]]
    if kind == "remove":
        wrong, right = [], [{"id": i, "remove": True} for i in chosen]
    elif kind == "modify":
        wrong = [{"id": i, "query": data.train[j][0]} for i, j in zip(chosen, chosen[1:] + chosen[:1], strict=True)]
        right = [{"id": i, "query": data.train[i][0]} for i in chosen]
    else:
        others = [[answer for answer in data.answers if answer != data.train[i][1]] for i in chosen]
        wrong = [{"id": i, "response": str(rng.choice(rest))} for i, rest in zip(chosen, others, strict=True)]
        right = [{"id": i, "response": data.train[i][1]} for i in chosen]
    files: list[Path | None] = []
    for name, edits in (("wrong", wrong), ("right", right)):
        file = folder / f"{kind}{share}_s{seed}_{name}.jsonl"
        files.append(file if edits else None)
        if edits:
            write_edits(file, edits)
    return files


def place_of(request: Request, shared: Workspace) -> Place:
    """Where the table's data and adapters lie."""
    return Place(request.source.data_dir, request.weights, request.scoring.compute, shared)


def plan_llmeraser(request: Request) -> Plan:
    """LLMEraser's three requests at each share, on each of the preset's tasks."""
    runs: list[Run] = []
    cells: list[Cell] = []
    methods = tuple(chosen(request, list(ROWS)))
    sizes = request.sizes["sizes"]
    for base, task in product(request.networks, request.sizes["tasks"]):
        data = language_rows.load_rows(task, request.source.data_dir, sizes, request.quiet)
        for seed, kind, share in product(range(request.seeds), KINDS, SHARES):
            runs += _runs_of_a_cell(request, base, task, seed, kind, share, methods, data)
            cells.append(Cell(seed, task, kind, share, methods))
    return Plan(runs, cells)


def _runs_of_a_cell(
    request: Request, base: str, task: str, seed: int, kind: str, share: int, methods: Sequence[str], data: Data
) -> list[Run]:
    where = ["--weights", str(request.weights), "--data-dir", str(request.source.data_dir), "--device", request.device]
    where += ["--quiet"] if request.quiet else []
    folder = request.weights / Path(base).name / Path(task).stem
    wrong, right = requests(kind, share, seed, data, folder)
    adapter = folder / (f"{kind}{share}_s{seed}" if wrong else f"clean_s{seed}")
    sizes = ["--sizes", *map(str, request.sizes["sizes"])]
    tuned = ["finetune", "--base", base, "--task", task, "--seed", str(seed), *sizes, *request.sizes["flags"]]
    tuned += (["--edits", str(wrong)] if wrong else []) + ["--output", str(adapter)]
    runs = []
    for method in methods:
        asked = [kind, str(adapter), "--request", str(right), *(ROWS[method] or ())]
        asked += ["--output", f"{adapter}_{kind}{share}_{method.replace(' ', '')}"]
        runs.append(("llmeraser", (tuned if method == "corrupted" else asked) + where))
    return runs


def score(paths: list[Path], request: Request, plan: Plan, shared: Workspace) -> list[Row]:
    """The table's rows, with `task` and `share` beside what all have. paths: cell by cell the adapters of its methods."""
    left, rows = iter(paths), []
    for cell in plan.cells:
        rows += _score_cell(cell, dict(zip(cell.methods, left, strict=False)), place_of(request, shared), request.kept)
        if not request.quiet:
            say(f"scored {cell.task} {cell.kind}{cell.share} s{cell.seed}")
    same = ("model", "dataset", "task", "share", "method")
    groups = statistics.grouped(rows, lambda row: tuple(row[key] for key in same))
    found = statistics.rows_over_seeds(groups.values())
    add_undone(found)
    return found


def _score_cell(cell: Cell, folders: dict[str, Path], place: Place, kept: Unfinished) -> list[Row]:
    """A row for each adapter of a cell, and for the base alone."""
    records = {method: read_record(folder) for method, folder in folders.items()}
    before = [tuple(row) for row in records["retrain"]["ledger"][-1]["before"]]
    scored = {method: _score(folder, records[method], before, place, kept) for method, folder in folders.items()}
    scored[NONE] = _score(None, records["corrupted"], before, place, kept)
    full, rows = records["retrain"]["ledger"][-1]["cost"]["seconds"], []
    for method, result in scored.items():
        scores.compare(result, scored["corrupted"], scored["retrain"])
        found = result[0] | {"seconds": 0.0, "memory_mib": 0.0}
        record = records.get(method, records["corrupted"])
        last = record["ledger"][-1] if record["ledger"] else record
        if method not in ("corrupted", NONE):
            found |= last["cost"] | {"seconds_ratio": full / last["cost"]["seconds"]}
            found |= {key: last[key] for key in ("residual", "products", "damping") if last.get(key) is not None}
        rows.append(
            {
                "dataset": task_label(cell.task),
                "model": record["base"],
                "forget": f"{cell.kind}{cell.share}",
                "forgotten": f"{cell.kind} {cell.share} % of the rows",
                "method": method,
                "epochs": None,
                "command": last["command"],
                "device": last["hardware"],
                "task": cell.kind,
                "share": cell.share,
                "metrics": found,
            }
        )
    return rows


def _score(
    folder: Path | None, record: dict[str, Any], before: Sequence[Any], place: Place, kept: Unfinished
) -> scores.Scored:
    """`scores.score`, unless it was kept when the table was killed."""
    adapter = folder and folder_sha256(folder)
    key = {"adapter": adapter, "record": record, "before": before, "where": circumstances(place.compute)}
    return kept.once(key, lambda: scores.score(folder, record, before, place))


def add_undone(rows: list[Row]) -> None:
    """Say how much of the damage each row undoes, where there was any: of the mean over seeds, for a single seed's damage
    may be nearly nothing."""
    losses = {(row["model"], row["dataset"], row["forget"], row["method"]): row["metrics"]["loss"]["mean"] for row in rows}
    for row in rows:
        if row["task"] != "remove":
            worst, best = (losses[row["model"], row["dataset"], row["forget"], name] for name in ("corrupted", "retrain"))
            found = scores.undone(row["metrics"]["loss"]["mean"], worst, best)
            row["metrics"]["undone"] = statistics.over_seeds([found])


ABOUT = "LLMEraser: rows of a language model's training data are removed, modified or corrected."
TABLE = Table(ABOUT, plan_llmeraser, PRESETS, 3, score, shared=lambda request: Workspace())
