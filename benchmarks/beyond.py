"""What was tried to bring PruneLoRA nearer to Retrain than the paper does, and whether a baseline is nearer still.

Reads committed tables (prunelora-first, -full and both at tuned points, prunelora-first-cifar10, random-first and its tuned
one), and trains nothing: a row for each PruneLoRA of theirs, also of those that fail. Baselines are all other rows but
controls. The goal: none has a smaller average gap, none a smaller probe gap (both without their signs, as the mean over
seeds), and it takes no more seconds than LoRA. Of images no probe is asked. Writes results/benchmarks/beyond.json.

    python -m benchmarks.beyond
"""

import argparse
from pathlib import Path
from statistics import fmean
from typing import Any

from unlearning.core.errors import UserError
from unlearning.core.flags import Parser, main
from unlearning.core.paths import folder
from unlearning.core.provenance import device_name, provenance
from unlearning.metrics.statistics import over_seeds
from unlearning.reports import folders, results
from unlearning.reports.columns import method_name
from unlearning.reports.results import by_seed

ABOUT = "What was tried to bring PruneLoRA nearer to Retrain, and whether a baseline is nearer still."
TABLES = (
    *("prunelora-first", "prunelora-first-tuned", "prunelora-full", "prunelora-full-tuned", "prunelora-first-cifar10"),
    *("random-first", "random-first-tuned"),
)
CONTROLS = {"original", "retrain", "mask", "zero-row", "head-only", "bias", "randomlabel --random-mask"}
TRIED = "loraprune"
SHOWN = ("UA", "TA", "gap", "probe_gap", "relearn_steps")


def farther(row: dict[str, Any], others: list[dict[str, Any]], metric: str) -> tuple[str, dict[str, Any], int | None]:
    """(the baseline whose metric is nearest to 0 in the mean of its seeds; how much farther the row's is: the difference of
    magnitudes, paired by seed; over how many baselines' that difference is above its 95 % interval). No name and no number
    where the row lacks the metric."""
    mine = by_seed(row, metric)
    scored = [(other, seeds) for other in others if (seeds := by_seed(other, metric))]
    if mine and (odd := [other["method"] for other, seeds in scored if seeds.keys() != mine.keys()]):
        raise UserError(f"{row['method']} has a {metric} of {len(mine)} seeds, {odd[0]} of others: seeds are paired")
    if not mine or not scored:
        return "", {"missing": "not scored"}, None
    scored = sorted(scored, key=lambda pair: fmean(map(abs, pair[1].values())))
    lost = [over_seeds([abs(value) - abs(seeds[seed]) for seed, value in mine.items()]) for _, seeds in scored]
    return method_name(scored[0][0]), lost[0], sum(one["ci95"] is not None and one["mean"] > one["ci95"] for one in lost)


def compared(row: dict[str, Any], rows: list[dict[str, Any]], tuned: bool) -> dict[str, Any]:
    """The try that a row of a table is, beside the baselines of its forget set. tuned: True if all had equal budgets."""
    others = [one for one in rows if one["method"] not in CONTROLS and not one["method"].startswith(TRIED)]
    seconds = [by_seed(one, "seconds") for one in (row, *(one for one in rows if one["method"] == "lora"))]
    if len(seconds) != 2 or seconds[0].keys() != seconds[1].keys() or len(seconds[0]) != row["n"]:
        raise UserError(f"{row['method']}: a row of lora with the same seeds says what it costs")
    cost = over_seeds([value / seconds[1][seed] for seed, value in seconds[0].items()])
    (nearest, gap, ahead), (by_probe, probe, ahead_by_probe) = (farther(row, others, key) for key in ("gap", "probe_gap"))
    return {
        "try": row["method"],
        "forget": row["forget"],
        "epochs": row["epochs"],
        "n": row["n"],
        "flags": " ".join(row.get("flags", [])),
        "tuned": "yes" if tuned else "no",
        **{key: row["metrics"].get(key, {"missing": "not scored"}) for key in SHOWN},
        "nearest": nearest,
        "gap_lost": gap,
        "ahead": ahead,
        "nearest_by_probe": by_probe,
        "probe_lost": probe,
        "ahead_by_probe": ahead_by_probe,
        "cost": cost,
        "met": "yes" if gap.get("mean", 1) <= 0 and probe.get("mean", 0) <= 0 and cost["mean"] <= 1 else "no",
    }


def measure(folders_of_tables: list[Path]) -> list[dict[str, Any]]:
    """A row for each PruneLoRA in these tables."""
    found = []
    for place in folders_of_tables:
        rows = results.read(place / folders.FILES["json"])["rows"]
        tuned = place.name.endswith("-tuned")
        for _, alike in results.by_forget_set(rows):
            tries = [row for row in alike if row["method"].split(" ")[0] == TRIED]
            found += [{"table": place.name} | compared(row, alike, tuned) for row in tries]
    return found


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Compare and write the file."""
    goal = {"gap_lost": 0.0, "probe_lost": 0.0, "cost": 1.0}
    about = {"table": "beyond", "about": ABOUT, **provenance(command, device_name("cpu")), "goal": goal}
    results.write(args.output, about | {"rows": measure([args.results / name for name in TABLES])})
    print(f"written: {args.output}")


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--results", type=folder, default=Path("results"), help="folder of the tables (default: results)")
    output = Path("results/benchmarks/beyond.json")
    parser.add_argument("--output", type=results.Output("beyond"), default=str(output), help="JSON file to write")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
