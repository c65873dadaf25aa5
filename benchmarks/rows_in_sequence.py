"""What is left of forgotten authors, and of the others, as one request after another is answered on one ledger.

Trains an adapter on `invented` (TOFU's form: questions about authors who don't exist), then removes all rows of one author
after another, by LLMEraser's step and by training again. After each request it lets the adapter answer: the rows of the
authors who were removed so far, as they were trained on, and the other authors' questions in other words. Writes
results/benchmarks/rows_in_sequence.json with losses and ROUGE-L of both.

    python -m benchmarks.rows_in_sequence --requests 5
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.solvers import answered
from unlearning.core.device import Compute
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.core.paths import folder
from unlearning.core.provenance import device_name, provenance
from unlearning.language import generation
from unlearning.language.adapters import read_record
from unlearning.language.rows import Row, read_rows
from unlearning.language.session import Place, Workspace, session_of
from unlearning.language.tasks import task_files
from unlearning.reports import results

ABOUT = "Authors who don't exist are removed one after another: what is still said of them, and of the others."
METHODS = ("influence", "retrain")


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """An entry for each method and number of requests, 0 being the adapter before any."""
    place = Place(args.data_dir, args.weights, Compute("cpu", None, args.weights, quiet=True), Workspace())
    rows = read_rows(task_files("invented", args.data_dir, quiet=True)["train"], "--train", lambda line: None)
    authors = sorted({author_of(row) for row in rows})[: args.requests]
    start = answered(args, place, "finetune", "--task", "invented", *_shape(args), "--output", args.weights / "sequence")
    entries = []
    for method in METHODS:
        adapter = start
        for count in range(len(authors) + 1):
            if count:
                names = [row.name for row in rows if author_of(row) == authors[count - 1]]
                output = args.weights / f"sequence_{method}{count}"
                adapter = answered(args, place, "remove", adapter, "--ids", *names, "--method", method, "--output", output)
            entries.append({"method": method, "requests": count} | _scores(adapter, place, authors[: max(1, count)]))
            print(entries[-1], flush=True)
    return entries


def _shape(args: argparse.Namespace) -> list[object]:
    """The flags of finetune that say where LoRA sits."""
    return ["--blocks", args.blocks, *(["--targets", *args.targets] if args.targets else [])]


def author_of(row: Row) -> str:
    """The author whom a row is about."""
    return row.name.partition("-")[0]


def _scores(adapter: Path, place: Place, gone: Sequence[str]) -> dict[str, float]:
    """Loss and ROUGE-L of the rows of authors `gone` as trained on, and of the others' questions in other words."""
    record = read_record(adapter)
    assert record is not None  # written here
    last = record["ledger"][-1] if record["ledger"] else record
    trained = read_rows(Path(record["files"]["train"]), "--train", lambda line: None)
    with session_of(record, place, adapter) as session, torch.no_grad():
        removed = [row for row in trained if author_of(row) in gone]
        others = [row for row in session.test if author_of(row) not in gone]
        found = {"seconds": last["cost"]["seconds"]}
        for name, some in (("removed", removed), ("others", others)):
            found[f"{name}_loss"] = session.losses_of(some).mean().item()
            found[f"{name}_rouge"] = generation.rouge_l(generation.answers(session, some[:50]), some[:50])
        return found


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure everything and write the file."""
    entries = measure(args)
    found = {"table": "rows_in_sequence", "about": ABOUT, **provenance(command, device_name("cpu")), "rows": entries}
    results.write(args.output, found)


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--requests", type=POSITIVE_INT, default=5, help="authors, one a request (default: 5)")
    parser.add_argument("--blocks", type=POSITIVE_INT, default=1, help="LoRA in so many of the last blocks (default: 1)")
    parser.add_argument("--targets", nargs="+", help="linear layers to adapt, by name (default: the last of a block)")
    parser.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--weights", type=folder, default=Path("model_weights"), help="folder of adapters")
    parser.add_argument(
        "--output",
        type=results.Output("rows_in_sequence"),
        default="results/benchmarks/rows_in_sequence.json",
        help="file to write",
    )
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
