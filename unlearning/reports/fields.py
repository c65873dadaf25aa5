"""The fields of a result file. Those of earlier versions lack what is optional here."""

from collections.abc import Mapping
from typing import Any

from unlearning.core import content
from unlearning.core.content import Misfit, fields, list_of, map_of, number, optional, require, text, whole
from unlearning.metrics import membership, predictions

METRICS = 1_000  # of a row, at most
MADE = {"command": text(content.TEXT), "date": text(), "hardware": text(content.TEXT), "versions": map_of(text())}
MORE = {"commit": text(), "attack": text()}


def _metric(value: Any) -> None:
    if isinstance(value, dict) and "missing" in value:
        return fields({"missing": text(content.TEXT)}, {"cell": text(100, empty=True)})(value)
    return fields({"mean": number(), "ci95": optional(number(0))}, {"values": list_of(number())})(value)


def _metrics(value: Any) -> None:
    map_of(_metric)(value)
    require(len(value) <= METRICS, "", f"holds {len(value):,} metrics, and may hold {METRICS:,}")


def _numbers(count: int) -> content.Rule:
    def rule(value: Any) -> None:
        list_of(number())(value)
        require(len(value) == count, "", f"has {len(value)} numbers, and needs {count}")

    return rule


def _curves(value: Any) -> None:
    losses = map_of(_numbers(len(predictions.LOSS_BINS) - 1))
    point = _numbers(2)
    plane = fields({"D_f": list_of(point), "D_r": list_of(point)})  # of few images of many a sample may have none
    steps = value.get("relearn_steps") if isinstance(value, dict) else None
    relearn = list_of(_numbers(len(steps) if isinstance(steps, list) else 0))
    needed = {"losses": losses, "roc": optional(_numbers(len(membership.FPR_GRID)))}
    needed |= {"relearn": optional(relearn), "features": optional(plane)}
    fields(needed, {"relearn_steps": list_of(number(0), 1)})(value)
    require(value["relearn"] is None or steps is not None, "relearn_steps", "is missing")


ROW = fields(
    {"dataset": text(), "model": text(), "forget": text(), "method": text(), "command": text(content.TEXT)}
    | {"n": whole(1), "epochs": optional(whole()), "metrics": _metrics},
    {"forgotten": text(content.TEXT), "device": text(), "flags": list_of(text(content.TEXT)), "curves": _curves}
    | {"seeds": list_of(whole(), 1), "precision": text(empty=True)}
    | {"published": map_of(number()), "fingerprint": optional(text()), "request": content.either(text(), whole())}
    | {"clusters": whole(), "task": text(), "share": number(0, 100), "seed": whole()}
    | {"tunes": text(), "point": text(empty=True), "points": whole(1), "chosen": content.yes_or_no},
)
RESULT = fields(
    {"table": text(), "rows": list_of(ROW, 1)} | MADE,
    {"about": text(content.TEXT), "pictures": content.yes_or_no}
    | MORE
    | {"earlier": list_of(fields({"of": list_of(text())} | MADE, MORE))},
)
PICTURED = {"clusters": ("sample_epochs", "accuracy")}  # field of a row: metrics that its picture shows


def result(value: Any) -> None:
    """All of a result file's fields, each by itself and together."""
    RESULT(value)
    for place, row in enumerate(value["rows"]):
        try:
            _over_seeds(row)
            _pictured(row)
        except Misfit as misfit:
            raise misfit.within(f"rows.{place}") from None


def _over_seeds(row: Mapping[str, Any]) -> None:
    """Raise Misfit where a row that names its seeds has not a value for each, or a seed twice."""
    if (seeds := row.get("seeds")) is None:
        return
    require(len(set(seeds)) == len(seeds) == row["n"], "seeds", f"aren't {row['n']} different ones")
    for name, metric in row["metrics"].items():
        values = metric.get("values", seeds)
        require(len(values) in (0, row["n"]), f"metrics.{name}.values", f"aren't {row['n']}, one for each seed")


def _pictured(row: Mapping[str, Any]) -> None:
    """Raise Misfit where a picture of a row lacks a number, or shows one on an axis that can't have it."""
    metrics, there = row["metrics"], {name for name, metric in row["metrics"].items() if "mean" in metric}
    needed = [name for field, names in PICTURED.items() if field in row for name in names]
    require("task" not in row or "share" in row, "share", "is missing")
    needed += ["dTA"] if "dUA" in there and "dTA" not in metrics else []
    needed += ["ratio"] if "ratio" in metrics else []
    for name in needed:
        require(name in there, f"metrics.{name}", "is missing")
    for name in ("ratio", *(("sample_epochs",) if "clusters" in row else ())):
        if name in there:  # on a logarithmic axis
            require(metrics[name]["mean"] > 0, f"metrics.{name}", "is not above 0")
