"""LLMEraser's protocol: spoil a share of the rows, train on them, ask for the damage to be undone, score the answers.

preference, bookcrossing, movielens (TALLRec): nothing is spoilt, a tenth of the rows is to be removed. next, lastfm (LLaRA):
a tenth of the histories has lost a film and a twentieth has another in a film's place; the request gives them back their
own. genre: two fifths of the answers are another one at random; the request says the right ones. Rows are chosen by the
seed. Corrupted is the adapter before the request, Retrain one that was trained without what was spoilt.
"""

import importlib
import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from unlearning.core.errors import UserError
from unlearning.core.files import write_text
from unlearning.core.words import say
from unlearning.evaluation.answers import folder_sha256
from unlearning.evaluation.unfinished import Unfinished, circumstances
from unlearning.experiments import estimate
from unlearning.experiments.plan import chosen
from unlearning.experiments.request import Plan, Request, Row, Run, Table
from unlearning.language import rows as language_rows
from unlearning.language import scores
from unlearning.language.adapters import read_record
from unlearning.language.base import SMOLLM2
from unlearning.language.batches import ANSWERED, TOKENS
from unlearning.language.prompts import ALPACA
from unlearning.language.rows import few, write_rows
from unlearning.language.session import Place, Workspace
from unlearning.language.tasks import HISTORY_ENDS, PARTS, PUBLISHED, titled_in
from unlearning.metrics import predictions, statistics

MADE = ("preference", "next", "genre")  # tasks of MovieLens' ratings, which need no files
KINDS = {"preference": "remove", "next": "modify", "genre": "correct"}  # of each task's request
KINDS |= {"bookcrossing": "remove", "movielens": "remove", "lastfm": "modify"}
SHARES = {"remove": 10, "modify": 15, "correct": 40}  # percent of the rows that it is about
LOST = 2 / 3  # of modified histories: they lose a film; the others have another in its place
NONE, SISA = "noadapter", "sisa"
SHARDS = 4  # adapters of SISA
FOUND = ("residual", "products", "damping", "length", "factors_seconds")  # of what a step finds, what a row says
STEPS = 120  # of the stochastic solver, each a product on a mini-batch
MINI = 100 * STEPS  # rows that it takes
# The rows of LLMEraser's table, each the flags of a request; "corrupted" asks for nothing, SISA is four trainings.
ROWS: dict[str, tuple[str, ...] | None] = {
    "corrupted": None,
    "retrain": ("--method", "retrain"),
    "llmeraser": (),
    "llmeraser --solver adam": ("--solver", "adam", "--damping", "0.03", "--products", str(STEPS)),
    "llmeraser --solver ekfac": ("--solver", "ekfac"),
    "gradascent": ("--method", "gradascent"),
    "graddiff": ("--method", "graddiff"),
    "npo": ("--method", "npo"),
    "finetune": ("--method", "finetune"),
    SISA: None,
    NONE: ("--method", NONE),
}
# Here a "model" is a base, "tasks" what it is tuned on; rows to train on, to choose by, to test on; flags of trainings, and
# of all runs.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {"model": [SMOLLM2], "tasks": list(MADE), "sizes": [300, 100, 100], "generate": 50, "flags": []},
    "gpu": {
        "model": [SMOLLM2],
        "tasks": list(MADE),
        "sizes": [1200, 400, 400],
        "generate": 400,
        "flags": ["--blocks", "30", "--targets", "q_proj", "v_proj", "--optimizer", "adamw"],
    },
    "paper": {
        "model": ["meta-llama/Llama-2-7b-hf"],
        "tasks": list(PUBLISHED),
        "sizes": [1200, 400, 400],
        "generate": 400,
        "flags": [
            *("--blocks", "32", "--targets", "q_proj", "v_proj", "--optimizer", "adamw"),
            *("--precision", "bf16", "--prompt", "alpaca"),
        ],
        "circumstances": ["--checkpointing"],
    },
}


@dataclass(frozen=True)
class Cell:
    """Runs that are measured against each other: of one seed and task. The last runs are SISA's, where it is a method."""

    seed: int
    task: str
    methods: tuple[str, ...]

    @property
    def kind(self) -> str:
        """What is asked of the rows."""
        return KINDS[self.task]

    @property
    def runs(self) -> int:
        """How many runs the cell has."""
        return len(self.methods) + (SHARDS - 1 if SISA in self.methods else 0)


def spoilt(kind: str, rows: Sequence[language_rows.Row], seed: int) -> tuple[list[language_rows.Row], list[dict[str, Any]]]:
    """(the rows as they are trained on, the request that undoes it), of a share of the rows that the seed draws."""
    draw = random.Random(f"{kind} {seed}")
    places = draw.sample(range(len(rows)), len(rows) * SHARES[kind] // 100)
    found, asked = list(rows), []
    answers = sorted({row.response for row in rows})
    films = sorted({film for row in rows for film in titled_in(_telling(row))}) if kind == "modify" else []
    for i, place in enumerate(places):
        row = rows[place]
        if kind == "remove":
            asked.append({"id": row.name})
        elif kind == "modify":
            told = _without_a_film(_telling(row), draw, None if i < LOST * len(places) else films)
            last = row.messages[-1][1]
            if HISTORY_ENDS in row.input:
                found[place] = replace(row, input=told)
            else:
                found[place] = replace(row, messages=(*row.messages[:-1], ("user", told)))
            asked.append({"id": row.name} | ({"instruction": last, "input": row.input} if row.input else {"query": last}))
        else:
            wrong = draw.choice([answer for answer in answers if answer != row.response])
            found[place] = replace(row, response=wrong)
            asked.append({"id": row.name, "response": row.response})
    return found, asked


def _telling(row: language_rows.Row) -> str:
    """The part of a row's query that tells the history: Alpaca's input, or else what the user says."""
    return row.input if HISTORY_ENDS in row.input else row.messages[-1][1]


def _without_a_film(query: str, draw: random.Random, others: Sequence[str] | None) -> str:
    """The query of a task `next` without one film of its history, or with another in its place."""
    history = titled_in(query)
    film = draw.choice(history)
    if others is None:
        return re.sub(rf'("{re.escape(film)}", |, "{re.escape(film)}")', "", query, count=1)
    other = draw.choice([title for title in others if title not in history])
    return query.replace(f'"{film}"', f'"{other}"', 1)


def write_files(request: Request, task: str, seed: int, folder: Path) -> dict[str, Path]:
    """Write what a cell's runs read: rows to train on, spoilt and clean, unseen ones, the request, and SISA's shards."""
    from unlearning.language.tasks import task_files

    sources = task_files(task, request.source.data_dir, request.quiet)
    found: dict[str, Path] = {}
    kind = KINDS[task]
    for part, size in zip(sources, request.sizes["sizes"], strict=True):
        rows = language_rows.read_rows(sources[part], f"--{part}", lambda line: None)[:size]
        found[part] = folder / f"{task}_{part}.jsonl"
        counts = {len(row.choices) for row in rows}
        if part == "test" and len(counts) > 1:
            most = f"{min(counts)} to {max(counts)} choices"
            raise UserError(f"{sources[part]}: its rows have {most}: they are scored only where all have as many")
        if part == "train":
            _check_spoilable(kind, rows, sources[part])
            wrong, asked = spoilt(kind, rows, seed)
            if kind != "remove":
                found[part] = folder / f"{task}_{kind}_s{seed}_train.jsonl"
            found["request"] = folder / f"{task}_{kind}_s{seed}_request.jsonl"
            write_text(found["request"], "".join(json.dumps(edit) + "\n" for edit in asked))
            gone = {edit["id"] for edit in asked} if kind == "remove" else set()
            for shard in range(SHARDS):
                found[f"shard{shard}"] = folder / f"{task}_{kind}_s{seed}_shard{shard}.jsonl"
                write_rows(found[f"shard{shard}"], [row for row in rows[shard::SHARDS] if row.name not in gone])
            rows = wrong
        write_rows(found[part], rows)
    return found


def _check_spoilable(kind: str, rows: Sequence[language_rows.Row], file: Path) -> None:
    """Raise UserError where a share of these rows is none, or histories aren't in the form of the task `next`."""
    if not len(rows) * SHARES[kind] // 100:
        raise UserError(f"{file}: {SHARES[kind]} % of its {len(rows)} rows are to be spoilt, which is none: it needs more")
    if kind == "modify":
        histories = {row.name: titled_in(told) if HISTORY_ENDS in (told := _telling(row)) else [] for row in rows}
        every = {title for history in histories.values() for title in history}
        unnamed = {title for title in every if not any(map(str.isalnum, title))}
        if odd := [n for n, history in histories.items() if len(history) < 2 or every <= {*history} or unnamed & {*history}]:
            form = f'no history of two titles or more, each in "", before "{HISTORY_ENDS.strip()}"'
            raise UserError(f"{file}: {form}, or no other title in the file: rows {few(odd)}")


def tasks_of(request: Request) -> list[str]:
    """The tasks of the table: the preset's, or the one that --dataset names. Raises UserError for one that there isn't, and
    where a published one's files aren't there."""
    from unlearning.language.tasks import task_files

    asked = request.asked_dataset
    if asked and asked not in KINDS:
        raise UserError(f"--dataset {asked}: {request.table} has {', '.join(KINDS)}")
    tasks = [asked] if asked else request.sizes["tasks"]
    lost = []
    for task in tasks:
        try:
            if task in PUBLISHED:  # before anything is written
                task_files(task, request.source.data_dir, request.quiet)
        except UserError as error:
            lost.append(str(error))
    if lost:
        raise UserError("; ".join(lost))
    return tasks


def place_of(request: Request, shared: Workspace) -> Place:
    """Where the table's data and adapters lie."""
    return Place(request.source.data_dir, request.weights, request.scoring.compute, shared)


def plan_llmeraser(request: Request) -> Plan:
    """A request of each task's kind, by each method, from the adapter that was trained on spoilt rows."""
    runs: list[Run] = []
    cells: list[Cell] = []
    methods = tuple(chosen(request, list(ROWS)))
    _check_names(request.networks)
    for base, task in product(request.networks, tasks_of(request)):
        for seed in range(request.seeds):
            cells.append(Cell(seed, task, methods))
            runs += _runs_of_a_cell(request, base, cells[-1])
    return Plan(runs, cells)


def _check_names(bases: Sequence[str]) -> None:
    """Raise UserError for two bases of one last name, by which folders and rows tell them apart."""
    names = [Path(base).name for base in bases]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--model: two bases are called {twice}, by which a table tells them apart: give them to two tables")


def _runs_of_a_cell(request: Request, base: str, cell: Cell) -> list[Run]:
    where = ["--weights", str(request.weights), "--data-dir", str(request.source.data_dir), "--device", request.device]
    where += [*request.sizes.get("circumstances", ()), *(["--quiet"] if request.quiet else [])]
    folder = request.weights / Path(base).name
    files = write_files(request, cell.task, cell.seed, folder)
    adapter = folder / f"{files['train'].stem}_adapter_s{cell.seed}"
    unseen = ["--validation", str(files["validation"]), "--test", str(files["test"])]
    tuned = ["finetune", "--base", base, "--seed", str(cell.seed), *unseen, *request.sizes["flags"]]
    asked = [cell.kind, str(adapter), "--request", str(files["request"])]
    runs: list[Run] = []
    for method in cell.methods:
        if method == "corrupted":
            runs.append(("llmeraser", [*tuned, "--train", str(files["train"]), "--output", str(adapter), *where]))
        elif method != SISA:
            output = ["--output", f"{adapter}_{method.replace(' ', '')}"]
            runs.append(("llmeraser", [*asked, *(ROWS[method] or ()), *output, *where]))
    for shard in range(SHARDS) if SISA in cell.methods else ():
        file = files[f"shard{shard}"]
        output = ["--output", str(folder / f"{file.stem}_adapter")]
        runs.append(("llmeraser", [*tuned, "--train", str(file), *output, *where]))
    return runs


def estimated(request: Request, plan: Plan) -> list[str]:
    """What the runs would take by rule, as lines; none for a base of unknown size, or adapters in some blocks only."""
    found: dict[str, list[tuple[float, float]]] = {}
    left = iter(plan.runs)
    for base, cell in product(request.networks, plan.cells[: len(plan.cells) // len(request.networks)]):
        size, ((_, words), *_) = estimate.SIZES.get(base), [next(left) for _ in range(cell.runs)]
        args = importlib.import_module("llmeraser").parser().parse_args(words)
        if not size or (args.optimizer, args.blocks, args.checkpointing) != ("adamw", size.blocks, True):
            return []
        rows = _counted(args, cell)
        adapted, squares = size.adapted(args.targets, args.rank), size.squares(args.targets, args.rank)
        how = estimate.How(args.epochs, args.batch_size, TOKENS, SHARDS, MINI, adapted, squares)
        of = estimate.works(rows, how)
        kinds = [*cell.methods, *([SISA] * (SHARDS - 1) if SISA in cell.methods else [])]
        for kind in [*kinds, *["scoring"] * cell.runs]:
            found.setdefault(kind, []).append(estimate.cost(size, of[kind], rows.tokens, adapted, ANSWERED))
    return estimate.in_lines(found, estimate.RULE)


def _counted(args: Any, cell: Cell) -> estimate.Rows:
    """The rows of a cell that its first run's flags name."""
    parts = [language_rows.read_rows(getattr(args, part), f"--{part}", lambda line: None) for part in PARTS]
    length = sum(len(ALPACA) + len(row.query) + len(row.response) for rows in parts for row in rows)
    counts = [len(rows) for rows in parts]
    answers = len(parts[2][0].choices) or len({row.response for row in parts[2]})
    asked, tokens = counts[0] * SHARES[cell.kind] // 100, length / sum(counts) / estimate.CHARACTERS
    return estimate.Rows(counts[0], asked, counts[1], counts[2], answers, tokens)


def score(paths: list[Path], request: Request, plan: Plan, shared: Workspace) -> list[Row]:
    """The table's rows, with `task` and `share` beside what all have. paths: cell by cell the adapters of its runs."""
    left, rows = iter(paths), []
    for cell in plan.cells:
        single = [method for method in cell.methods if method != SISA]
        folders = dict(zip(single, left, strict=False))
        shards = [next(left) for _ in range(cell.runs - len(single))]
        rows += _score_cell(cell, folders, shards, place_of(request, shared), request)
        if not request.quiet:
            say(f"scored {cell.task} s{cell.seed}")
    groups = statistics.grouped(rows, lambda row: tuple(row[key] for key in ("model", "dataset", "task", "share", "method")))
    found = statistics.rows_over_seeds(groups.values())
    add_undone(found)
    return found


def _score_cell(cell: Cell, folders: dict[str, Path], shards: list[Path], place: Place, request: Request) -> list[Row]:
    """A row for each method of a cell."""
    records = {method: read_record(folder) or {} for method, folder in folders.items()}
    before, listed = scores.asked_rows(records["retrain"], place), scores.answers_of_all(list(records.values()), place)
    scored = {m: _score(folder, records[m], before, listed, place, request) for m, folder in folders.items()}
    full, rows = records["retrain"]["ledger"][-1]["cost"]["seconds"], []
    for method, result in scored.items():
        scores.compare(result, scored["corrupted"], scored["retrain"])
        found = result[0] | {"seconds": 0.0, "memory_mib": 0.0}
        record = records[method]
        last = record["ledger"][-1] if record["ledger"] else record
        if method not in ("corrupted", NONE):
            found |= last["cost"] | {"seconds_ratio": full / last["cost"]["seconds"]}
            found |= {key: last["found"][key] for key in FOUND if key in last["found"]}
        rows.append(_row(cell, method, record, last, found))
    if shards:
        rows.append(_score_sisa(cell, shards, scored["retrain"], listed, place, full))
    if cell.kind == "remove" and before:  # scoring has read them once more
        scores.forget(folders["retrain"], records["retrain"], before, place)
    return rows


def _row(cell: Cell, method: str, record: dict[str, Any], last: dict[str, Any], found: dict[str, Any]) -> Row:
    share = SHARES[cell.kind]
    return {
        "dataset": f"movielens {cell.task}" if cell.task in MADE else cell.task,
        "model": Path(record["base"]).name,
        "forget": f"{cell.kind}{share}",
        "forgotten": f"{cell.kind} {share} % of the rows",
        "method": method,
        "epochs": None,
        "command": last["command"],
        "device": last["hardware"],
        "task": cell.kind,
        "share": share,
        "metrics": found,
    }


def _score_sisa(
    cell: Cell, shards: list[Path], retrained: scores.Scored, listed: list[str], place: Place, full: float
) -> Row:
    """SISA's adapters answer by the mean of their probabilities; all of them were trained again, since all are hit."""
    records = [read_record(folder) or {} for folder in shards]
    answers = [scores.score(*shard, [], place, listed=listed) for shard in zip(shards, records, strict=True)]
    mean = torch.stack([logits.softmax(1) for _, _, logits, _ in answers]).mean(0).log()
    right = answers[0][3]
    found = scores.of_choices(mean, right, listed=cell.kind != "modify") if len(right) else {}
    found["js"] = predictions.js_divergence(mean, retrained[2])
    seconds = sum(record["cost"]["seconds"] for record in records)
    found |= {"seconds": seconds, "seconds_ratio": full / seconds}
    return _row(cell, SISA, records[0], records[0], found)


def _score(
    folder: Path, record: dict[str, Any], before: Sequence[Any], listed: list[str], place: Place, request: Request
) -> scores.Scored:
    """`scores.score`, unless it was kept when the table was killed."""
    adapter, generate = folder_sha256(folder), request.sizes["generate"]
    rows = [[row.name, language_rows.digest(row)] for row in before]
    key = {"adapter": adapter, "record": record, "before": rows, "generate": generate, "where": circumstances(place.compute)}
    kept: Unfinished = request.kept
    return kept.once(key | {"listed": listed}, lambda: scores.score(folder, record, before, place, generate, listed))


def add_undone(rows: list[Row]) -> None:
    """Say how much of the damage each row undoes, by loss and by the divergence from Retrain: of the mean over seeds, for a
    single seed's damage may be nearly nothing."""
    means = {(row["model"], row["dataset"], row["method"]): row["metrics"] for row in rows}
    for row in rows:
        worst, best = (means[row["model"], row["dataset"], name] for name in ("corrupted", "retrain"))
        for key, metric in scores.UNDONE.items():
            if row["task"] != "remove" and metric in row["metrics"]:
                values = (found[metric]["mean"] for found in (row["metrics"], worst, best))
                row["metrics"][key] = statistics.over_seeds([scores.undone(*values)])


ABOUT = "LLMEraser: rows of a language model's training data are removed, modified or corrected."
NONE_OF = ("img_size", "precision", "cache", "recovery", "every_attack", "mia", "retain_subset", "images")
TABLE = Table(
    ABOUT, plan_llmeraser, PRESETS, 3, score, shared=lambda request: Workspace(), estimated=estimated, none_of=NONE_OF
)
