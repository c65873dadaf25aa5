"""What large tables would take on several machines: an estimate by rule, from what was measured.

    python -m benchmarks.plans

Nothing is run. A run passes so often over all training images as its flags say, once where they name no epochs. Images a
second are those of resnet8 on two threads of a CPU, or of the slowest and the fastest run of a ResNet-50 on an H200 that two
to six runs shared, for vit_small too. Scoring is one forward pass over training and test images, which takes a third of
training; it is one process's. A checkpoint holds the network's weights.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import models
import reproduce
from unlearning.core.device import resolve_device
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.core.provenance import device_name, provenance
from unlearning.experiments.estimate import makespan, passes
from unlearning.experiments.request import Request, Run
from unlearning.experiments.resolve import resolved
from unlearning.experiments.stages import dependencies, stages
from unlearning.reports import results

ABOUT = "What large tables would take on several machines, by rule; nothing of it was run."
ON_GPU = Path("results/prunelora-gpu-cifar10/result.json")
CIFAR = ("--preset", "paper", "--dataset", "cifar10")
PLANS = (  # flags, training images, scored images
    (("audit", "--preset", "quick", "--seeds", "512"), 600, 2600),
    (("prunelora", *CIFAR), 50_000, 60_000),
    (("random", *CIFAR), 50_000, 60_000),
    (("tune", *CIFAR), 45_000, 50_000),
)


def on_gpu() -> tuple[float, float]:
    """Images a second of a ResNet-50 in training on a GPU: of the slowest and of the fastest run that there is."""
    rates = [
        row["epochs"] * (50_000 if row["method"] == "original" else 45_000) / row["metrics"]["seconds"]["mean"]
        for row in results.read(ON_GPU)["rows"]
        if row["epochs"] and row["method"] != "delete"  # which passes over the forgotten class
    ]
    return min(rates), max(rates)


def on_cpu() -> tuple[float, float]:
    """Images a second of resnet8 in training, at the faster precision, twice: the slowest and the fastest that is known."""
    rows = results.read_json(Path("results/benchmarks/throughput.json"))["rows"]
    rate = max(row["images_per_s"] for row in rows if row["model"] == "resnet8")
    return rate, rate


def runs_of(flags: tuple[str, ...]) -> list[Run]:
    """The runs that these flags of reproduce.py plan, whose classes are numbers, so that no data are read."""
    args = reproduce.parser().parse_args([*flags])
    request = Request.from_flags(args, reproduce.table_of(args.table))
    source = replace(request.source, subset=request.sizes.get("subset"))
    return reproduce.table_of(args.table).plan(resolved(replace(request, source=source), None)).runs


def planned(flags: tuple[str, ...], images: int, scored: int, machines: int) -> dict[str, Any]:
    """A row: runs, stages, hours in all and on so many machines at once, hours of scoring, GiB of checkpoints."""
    runs = runs_of(flags)
    needed = dependencies(runs)
    found_stages = stages(runs, needed)
    order = [place for stage in found_stages for place in stage]
    networks = [arguments[arguments.index("--model") + 1] for _, arguments in runs]
    work = [passes(arguments) * images for _, arguments in runs]
    rates = on_cpu() if {*networks} == {"resnet8"} else on_gpu()
    shape = {"in_chans": 3, "num_classes": 10, "img_size": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    size = {name: sum(value.nbytes for value in models.create(name, **shape).state_dict().values()) for name in {*networks}}
    found: dict[str, Any] = {"plan": flags[0], "command": f"python reproduce.py {' '.join(flags)} --dry-run"}
    found |= {"runs": len(runs), "stages": len(found_stages), "gib": sum(map(size.__getitem__, networks)) / 2**30}
    for end, rate in zip(("most", "least"), rates, strict=True):
        seconds = [count / rate for count in work]
        found[f"hours_{end}"] = sum(seconds) / 3600
        found[f"at_once_{end}"] = makespan(seconds, needed, order, machines) / 3600
        found[f"scoring_{end}"] = len(runs) * scored / rate / 3 / 3600
    return found


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Estimate everything and write the file."""
    result = {"table": "plans", "about": ABOUT, **provenance(command, device_name(resolve_device("cpu")))}
    result |= {"machines": args.machines, "rows": [planned(*plan, args.machines) for plan in PLANS]}
    results.write(args.output, result)
    print(results.dump(result["rows"]))


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--machines", type=POSITIVE_INT, default=8, help="that take a run each at once (default: 8)")
    file = Path("results/benchmarks/plans.json")
    parser.add_argument("--output", type=results.Output("plans"), default=str(file), help=f"file to write (default: {file})")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
