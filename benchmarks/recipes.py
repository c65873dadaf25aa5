"""How good the small networks are, and how soon: each original trained as `pretrain.py` trains it, from scratch.

Seconds are those of training alone, as in its checkpoint. Accuracy is that of `evaluate.py`, in the arithmetic of training,
on all 10,000 test images; beside it stands that of the mean of the logits of an image and its mirror image, which published
recipes for few epochs report. Each network has a goal, for two quiet cores, which either may reach. Originals that are there
already are taken as they are. Writes results/benchmarks/recipes.json after each network; rows of others stay.

    python -m benchmarks.recipes
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import data
import models
import pretrain
from unlearning.core.device import Compute, resolve_device
from unlearning.core.flags import POSITIVE_INT, Parser, add_device_flags, main
from unlearning.core.paths import folder
from unlearning.core.provenance import device_name, provenance
from unlearning.experiments.plan import command as typed
from unlearning.metrics.predictions import accuracy
from unlearning.metrics.statistics import over_seeds
from unlearning.reports import results
from unlearning.vision.predict import predict

ABOUT = "How good the small networks are that the fast recipe trains, and how soon."


@dataclass(frozen=True)
class Goal:
    """What a recipe is to reach: TA in percent, minutes on two quiet cores. flags: of pretrain.py, beside its defaults."""

    model: str
    dataset: str
    accuracy: float
    minutes: float
    flags: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Network and data set."""
        return f"{self.model}-{self.dataset}"


GOALS = (
    Goal("resnet8", "fashion-mnist", 93.5, 7),
    Goal("vit_micro", "fashion-mnist", 90.5, 10, ("--epochs", "10")),
    Goal("resnet20", "fashion-mnist", 94.3, 20, ("--epochs", "19")),
    Goal("resnet20", "cifar10", 91, 25, ("--epochs", "24")),
)


def measure(goal: Goal, args: argparse.Namespace) -> dict[str, Any]:
    """A row: what a network reached with each seed, and the mean's half width where there are several."""
    common = ["--model", goal.model, "--dataset", goal.dataset, *goal.flags, "--weights", str(args.weights)]
    common += ["--data-dir", str(args.data_dir), "--device", args.device]
    commands = [[*common, "--seed", str(seed)] for seed in range(args.seeds)]
    paths = [pretrain.run(pretrain.parser().parse_args(words), typed("pretrain", words)) for words in commands]
    checkpoints = {path: models.load_checkpoint(path) for path in paths if path}
    test = data.load(goal.dataset, args.data_dir).test
    known = [reached(path, checkpoint, test, args) for path, checkpoint in checkpoints.items()]
    found = {name: over_seeds([one[name] for one in known]) for name in ("TA", "TA_mirrored", "minutes")}
    config = next(iter(checkpoints.values()))["config"]
    return {
        **{"model": goal.model, "dataset": goal.dataset, "n": len(known)},
        **{key: config[key] for key in ("epochs", "lr", "batch_size", "recipe")},
        **found,
        **{"goal_TA": goal.accuracy, "goal_minutes": goal.minutes, "seeds": known},
    }


def met(row: dict[str, Any]) -> dict[str, str]:
    """Whether a row's accuracy is that of its goal, in its time: "yes" or "no" for each of the two ways to answer."""
    soon = row["minutes"]["mean"] <= row["goal_minutes"]
    ways = {"met": "TA", "met_mirrored": "TA_mirrored"}
    return {key: "yes" if soon and row[way]["mean"] >= row["goal_TA"] else "no" for key, way in ways.items()}


def reached(path: Path, checkpoint: dict[str, Any], test: data.Split, args: argparse.Namespace) -> dict[str, Any]:
    """TA in percent without and with mirror images, minutes, and command, date and machine of an original."""
    model = models.build(checkpoint, path)
    compute = Compute.from_flags(args).placed(model)
    images = torch.as_tensor(test.images)
    logits = [predict(model, data.Split(some, test.labels), compute) for some in (images, images.flip(-1))]
    return {
        "TA": accuracy(logits[0], test.labels),
        "TA_mirrored": accuracy(logits[0] + logits[1], test.labels),
        "minutes": checkpoint["cost"]["seconds"] / 60,
        **{key: checkpoint[key] for key in ("command", "date", "device")},
    }


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    add_device_flags(parser)
    text = "networks and data sets to train on (default: all)"
    parser.add_argument("--goals", nargs="+", choices=[goal.name for goal in GOALS], help=text)
    parser.add_argument("--seeds", type=POSITIVE_INT, default=1, help="seeds 0 to N-1 (default: 1)")
    parser.add_argument("--weights", type=folder, default=Path("model_weights/recipes"), help="folder of the originals")
    parser.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    output = Path("results/benchmarks/recipes.json")
    parser.add_argument("--output", type=results.Output("recipes"), default=str(output), help="JSON file to write")
    return parser


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Train and score one network after another, and write the file after each."""
    rows = results.read_json(args.output)["rows"] if args.output.exists() else []
    found = {(row["model"], row["dataset"]): row for row in rows}
    for goal in GOALS:
        if goal.name not in (args.goals or [goal.name]):
            continue
        row = measure(goal, args)
        row |= met(row)
        print({key: value for key, value in row.items() if key != "seeds"}, flush=True)
        found[row["model"], row["dataset"]] = row
        about = {"table": "recipes", "about": ABOUT, **provenance(command, device_name(resolve_device(args.device)))}
        results.write(args.output, about | {"rows": list(found.values())})


if __name__ == "__main__":
    main(measure_all, parser())
