"""LLMEraser's protocol: spoil a share of the rows, train on them, ask for the damage to be undone, and score the answers.

remove: nothing is spoilt, a share of the rows is to be forgotten. modify: chosen rows get each other's queries. correct:
chosen rows get another answer at random. Rows are chosen by the seed; a larger share has the rows of a smaller one. The
request says what the chosen rows should have been. Corrupted is the adapter before the request, Retrain one that was trained
without what was spoilt.
"""

import sys
from itertools import product
from pathlib import Path

import numpy as np

from unlearning.experiments import plan
from unlearning.language import rows as language_rows
from unlearning.language import scores
from unlearning.language.base import SMOLLM2
from unlearning.language.rows import load_rows, read_record, task_label, write_edits
from unlearning.metrics import statistics

KINDS = tuple(language_rows.KINDS)
SHARES = (10, 20, 40)  # percent of the rows
NONE = "no adapter"  # the control: the base alone


def requests(kind, share, seed, data, folder):
    """Write the edits that spoil the data and those that are asked for; their files, the first None for remove."""
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
    files = []
    for name, edits in (("wrong", wrong), ("right", right)):
        files.append(folder / f"{kind}{share}_s{seed}_{name}.jsonl" if edits else None)
        if edits:
            write_edits(files[-1], edits)
    return files


def score(paths, config):
    """Rows as report.py describes them, with `task` and `share`. paths: of config.cells, one after another, the adapters of
    a cell: Corrupted, Retrain, the others; a cell is (seed, data's name, kind, share, methods)."""
    paths, groups = iter(paths), {}
    for seed, name, kind, share, methods in config.cells:
        folders = dict(zip(methods, paths, strict=False))
        records = {method: read_record(folder) for method, folder in folders.items()}
        before = [tuple(row) for row in records["retrain"]["ledger"][-1]["before"]]
        scored = {method: scores.score(folder, records[method], before, config) for method, folder in folders.items()} | {
            NONE: scores.score(None, records["corrupted"], before, config)
        }
        full = records["retrain"]["ledger"][-1]["cost"]["seconds"]
        for method, result in scored.items():
            scores.compare(result, scored["corrupted"], scored["retrain"])
            found = result[0] | {"seconds": 0.0, "memory_mib": 0.0}
            record = records.get(method, records["corrupted"])
            last = record["ledger"][-1] if record["ledger"] else record
            if method not in ("corrupted", NONE):
                found |= last["cost"] | {"seconds_ratio": full / last["cost"]["seconds"]}
                found |= {key: last[key] for key in ("residual", "products", "damping") if last.get(key) is not None}
            row = {
                "dataset": task_label(name),
                "model": record["base"],
                "forget": f"{kind}{share}",
                "method": method,
                "epochs": None,
                "command": last["command"],
                "device": last["hardware"],
                "task": kind,
                "share": share,
                "metrics": found,
            }
            groups.setdefault((record["base"], name, kind, share, method), []).append(row)
        if not config.quiet:
            print(f"scored {name} {kind}{share} s{seed}", file=sys.stderr, flush=True)
    rows = [group[0] | {"n": len(group), "metrics": statistics.metrics_over_seeds(group)} for group in groups.values()]
    add_undone(rows)
    return rows


def add_undone(rows):
    """Say how much of the damage each row undoes, where there was any: of the mean over seeds, for a single seed's damage
    may be nearly nothing."""
    losses = {(row["model"], row["dataset"], row["forget"], row["method"]): row["metrics"]["loss"]["mean"] for row in rows}
    for row in rows:
        if row["task"] != "remove":
            worst, best = (losses[row["model"], row["dataset"], row["forget"], name] for name in ("corrupted", "retrain"))
            found = scores.undone(row["metrics"]["loss"]["mean"], worst, best)
            row["metrics"]["undone"] = statistics.over_seeds([found])


# The rows of LLMEraser's table, each the flags of a request; the first asks for nothing.
LLMERASER = {
    "corrupted": None,
    "retrain": ("--method", "retrain"),
    "llmeraser": (),
    "llmeraser --curvature gauss-newton": ("--curvature", "gauss-newton"),
    "llmeraser --solver adam": ("--solver", "adam", "--damping", "0.03"),
    "gradascent": ("--method", "gradascent"),
    "finetune": ("--method", "finetune"),
}
# Here a "model" is a base, "tasks" what it is tuned on; rows to train on, to choose by, to test on.
LLMERASER_PRESETS = {
    "quick": {"model": [SMOLLM2], "tasks": ["genre", "preference"], "sizes": [1000, 300, 700], "flags": []},
    "gpu": {
        "model": [SMOLLM2],
        "tasks": ["genre", "preference"],
        "sizes": [1300, 200, 500],
        "flags": ["--blocks", "30", "--targets", "q_proj", "v_proj"],
    },
}


def plan_llmeraser(config):
    """LLMEraser's three requests at each share, on each of the preset's tasks; config.cells says which run is which."""
    runs, config.cells = [], []
    methods = plan.chosen(config, LLMERASER)
    where = ["--weights", str(plan.weights(config)), "--data-dir", str(config.data_dir), "--device", config.device]
    where += ["--quiet"] if config.quiet else []
    for base in config.model or config.sizes["model"]:
        for task in config.sizes["tasks"]:
            rows = load_rows(task, config.data_dir, config.sizes["sizes"])
            for seed, kind, share in product(range(config.seeds), KINDS, SHARES):
                folder = plan.weights(config) / Path(base).name / Path(task).stem
                wrong, right = requests(kind, share, seed, rows, folder)
                adapter = folder / (f"{kind}{share}_s{seed}" if wrong else f"clean_s{seed}")
                sizes = ["--sizes", *map(str, config.sizes["sizes"])]
                tuned = ["finetune", "--base", base, "--task", task, "--seed", str(seed), *sizes, *config.sizes["flags"]]
                tuned += (["--edits", str(wrong)] if wrong else []) + ["--output", str(adapter)]
                for method in methods:
                    asked = [kind, str(adapter), "--request", str(right), *(LLMERASER[method] or ())]
                    asked += ["--output", f"{adapter}_{kind}{share}_{method.replace(' ', '')}"]
                    runs.append(("llmeraser", (tuned if method == "corrupted" else asked) + where))
                config.cells.append((seed, task, kind, share, methods))
    return runs
