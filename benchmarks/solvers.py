"""What the ways of solving LLMEraser's system cost, and how much of a correction's damage they undo.

Trains an adapter on the first rows of `genre`, two fifths of them with another answer at random, and Retrain on the right
ones. Then it asks for the right answers with 5, 15 and 60 products: of conjugate gradients, which take all rows each, and of
the paper's stochastic steps, which take a mini-batch (240 too). The same numbers for EK-FAC, its factors counted apart, and
for conjugate gradients to the end. All solve one system: Gauss-Newton's, with one damping.
Writes results/benchmarks/solvers.{json,png}.

    python -m benchmarks.solvers
"""

import argparse
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import llmeraser
from unlearning.core.device import Compute
from unlearning.core.flags import POSITIVE_INT, SEED, Parser, main, typed_command
from unlearning.core.paths import folder
from unlearning.core.provenance import device_name, provenance
from unlearning.experiments.llmeraser import spoilt
from unlearning.language import scores
from unlearning.language.adapters import read_record
from unlearning.language.rows import read_rows, write_rows
from unlearning.language.session import Place, Workspace
from unlearning.language.tasks import task_files
from unlearning.reports import results
from unlearning.reports.style import WIDTH, save, series

ABOUT = "What the ways of solving LLMEraser's system cost, and how much of a correction's damage they undo."
PRODUCTS = (5, 15, 60)
# One system for all, which is never negative: a choice of dampings would take products of its own, and at this damping the
# Hessian has a direction of negative curvature, at which conjugate gradients end.
SYSTEM = ("--curvature", "gauss-newton", "--damping", "0.03")
WAYS: dict[str, tuple[str, ...]] = {
    **{f"cg {count}": ("--products", str(count), *SYSTEM) for count in PRODUCTS},
    **{f"adam {count}": ("--solver", "adam", "--products", str(count), *SYSTEM) for count in (*PRODUCTS, 240)},
    "cg": SYSTEM,
    "ekfac": ("--solver", "ekfac", *SYSTEM),
    "finetune": ("--method", "finetune"),
    "retrain": ("--method", "retrain"),
}


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """An entry for the adapter before the request and for each of WAYS: seconds, products, residual, losses, undone."""
    place = Place(args.data_dir, args.weights, Compute("cpu", None, args.weights, quiet=True), Workspace())
    adapter, request = _adapter(args, place)
    entries = []
    for way, flags in {"corrupted": (), **WAYS}.items():
        output = args.weights / f"solvers_{way.replace(' ', '')}_s{args.seed}"
        if flags:
            answered(args, place, "correct", adapter, "--request", request, *flags, "--output", output)
        else:
            output = adapter
        record: Any = read_record(output)
        last = record["ledger"][-1] if record["ledger"] else {"cost": {}, "found": {}}
        found, _, _, _ = scores.score(output, record, [], place)
        kept = {key: last["found"][key] for key in ("products", "residual", "factors_seconds") if key in last["found"]}
        entries.append({"way": way, "seconds": last["cost"].get("seconds", 0.0), **kept, "loss": found["loss"]})
        print(entries[-1], flush=True)
    worst, best = (next(entry["loss"] for entry in entries if entry["way"] == name) for name in ("corrupted", "retrain"))
    return [entry | {"undone": scores.undone(entry["loss"], worst, best)} for entry in entries]


def _adapter(args: argparse.Namespace, place: Place) -> tuple[Path, Path]:
    """(the adapter that was trained on spoilt rows, the request that puts them right)."""
    given = task_files("genre", args.data_dir, quiet=True)
    parts = {part: read_rows(file, f"--{part}", lambda line: None) for part, file in given.items()}
    rows, asked = spoilt("correct", parts["train"][: args.rows], args.seed)
    files = {part: args.weights / f"solvers_{part}_s{args.seed}.jsonl" for part in (*given, "request")}
    right = {row.name: row for row in parts["train"]}
    contents = {"train": rows, "validation": parts["validation"][:100], "test": parts["test"][: args.rows]}
    for part, some in (contents | {"request": [right[edit["id"]] for edit in asked]}).items():
        write_rows(files[part], some)
    words = [word for part in given for word in (f"--{part}", files[part])]
    made = answered(args, place, "finetune", *words, "--seed", args.seed, "--output", args.weights / f"solvers_s{args.seed}")
    return made, files["request"]


def answered(args: argparse.Namespace, place: Place, *words: object) -> Path:
    """The adapter that a command of llmeraser.py makes; the base and its frozen part are handed on in `place`."""
    where = ["--weights", args.weights, "--data-dir", args.data_dir, "--device", "cpu", "--quiet"]
    parsed = llmeraser.parser().parse_args([str(word) for word in (*words, *where)])
    made = llmeraser.run(parsed, typed_command(), place.workspace)
    assert made is not None  # an action that writes an adapter
    return made


def draw(entries: list[dict[str, Any]], file: Path) -> None:
    """Damage undone over seconds: a line for each solver over its numbers of products."""
    figure = Figure(figsize=(WIDTH * 0.6, 3), layout="constrained")
    axis = figure.subplots()
    names = dict.fromkeys(entry["way"].split()[0] for entry in entries if entry["way"] != "corrupted")
    for place, name in enumerate(names):
        some = [entry for entry in entries if entry["way"].split()[0] == name]
        some.sort(key=lambda entry: entry["seconds"])
        points = ([entry[key] for entry in some] for key in ("seconds", "undone"))
        axis.plot(*points, label=name, **series(place))
    axis.set(xscale="log", xlabel="seconds", ylabel="damage undone %")
    axis.set_ylim(bottom=min(0, *axis.get_ylim()))
    axis.legend(fontsize=7)
    save(figure, file)


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure everything; write the file and draw it."""
    entries = measure(args)
    found = {"table": "solvers", "about": ABOUT, **provenance(command, device_name("cpu")), "rows": entries}
    results.write(args.output, found)
    draw(entries, args.output.with_suffix(".png"))


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--rows", type=POSITIVE_INT, default=300, help="training rows, and test rows at most (default: 300)")
    flag("--seed", type=SEED, default=0, help="of the adapter's start and of the rows that are spoilt (default: 0)")
    flag("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    flag("--weights", type=folder, default=Path("model_weights"), help="folder of adapters")
    flag("--output", type=results.Output("solvers"), default="results/benchmarks/solvers.json", help="file to write")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
