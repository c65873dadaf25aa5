"""The fields of an adapter's record."""

from typing import Any

from unlearning.core import content
from unlearning.core.content import Misfit, fields, list_of, map_of, number, optional, require, text, whole

KINDS = {"remove": "remove", "modify": "query", "correct": "response"}  # request: the field of its edits
LAYERS, RANK = 10_000, 65_536  # of a base and of LoRA: the most
COST = fields({"seconds": number(0)}, {"memory_mib": number(0), "evaluations": whole()})
ROW = list_of(text(content.TEXT), 2)


def edit(value: Any) -> None:
    """What becomes of a row: it is removed, or has another query, or another response."""
    ways = {"remove": content.one_of(True), "query": text(content.TEXT), "response": text(content.TEXT)}
    fields({"id": whole()}, ways, closed=True)(value)
    require(len(value) == 2, "", "doesn't say one thing that becomes of its row")


def _rows(value: Any) -> None:
    list_of(ROW)(value)
    for place, row in enumerate(value):
        require(len(row) == 2, str(place), "is no query and answer")


ENTRY = fields(
    {"action": content.one_of(*KINDS), "before": _rows, "cost": COST, "command": text(content.TEXT), "hardware": text()},
    {"edits": list_of(edit), "after": _rows, "asked": content.plain, "residual": number(0), "products": whole()}
    | {"damping": optional(number(0)), "tolerance": number(0), "method": text()},
)
RECORD = fields(
    {"base": content.path, "task": content.path, "sizes": list_of(whole(1), 3), "base_sha256": text()}
    | {"rank": whole(1, RANK), "alpha": whole(1), "targets": list_of(text(), 1), "blocks": whole(1, LAYERS)}
    | {"decay": number(above=0), "seed": whole(0, 2**32 - 1), "evaluations": whole(1), "fingerprint": text()}
    | {"edits": list_of(edit), "ledger": list_of(ENTRY), "cost": COST, "command": text(content.TEXT), "hardware": text()},
    {"loss": number(), "date": text(), "versions": map_of(text()), "commit": text()},
)


def record(value: Any) -> None:
    """All of a record's fields, each by itself and together."""
    RECORD(value)
    require(len(value["sizes"]) == 3, "sizes", "aren't three numbers of rows")
    gone: set[int] = set()
    for place, one in enumerate(value["edits"]):
        row, count = one["id"], value["sizes"][0]
        if row >= count or row in gone:
            what = f"is row {row}, of {count}" if row >= count else f"is row {row}, which was removed before"
            raise Misfit(what, f"edits.{place}.id")
        gone |= {row} if "remove" in one else set()
