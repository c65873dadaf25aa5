"""Whether LMEraser's clusters can cost no accuracy on a backbone that doesn't know the classes.

Tries other starts, heads and numbers of clusters that answer together, on EfficientNet-Lite0 with its ImageNet weights at
48 pixels: 2,000 images of Fashion-MNIST, of which 500 are public anchors, as in `reproduce.py lmeraser --preset small`.
Accuracy is that of all 10,000 test images before any deletion. Settings are chosen by the validation images: 5,000 training
images that no system holds. One image deleted costs `sample_epochs`, the mean over all private images, and `seconds`, the
mean over fifteen that are deleted one by one (of one part: one). Both are set against the paper's learner in one part, and
against the same kind of learner in one part. Systems that are there are taken as they are. Writes
results/benchmarks/without_loss.json, a row a try.

    python -m benchmarks.without_loss
"""

import argparse
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import data
import lmeraser
from unlearning.core.device import Compute, to_float
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.core.paths import folder
from unlearning.core.provenance import device_name, provenance
from unlearning.exact import learners, ridge
from unlearning.exact.backbone import features_of
from unlearning.exact.reading import assemble, read_system
from unlearning.exact.selection import ImageRequest
from unlearning.exact.system import delete_images
from unlearning.experiments.lmeraser import PRESETS
from unlearning.experiments.plan import command as typed
from unlearning.metrics.predictions import accuracy
from unlearning.metrics.statistics import over_seeds
from unlearning.reports import results
from unlearning.vision.shared import Shared

ABOUT = "Whether clusters can cost no accuracy: LMEraser with other starts, heads and numbers of clusters that answer."
SMALL = PRESETS["small"]
LOST, EPOCHS_RATIO, SECONDS_RATIO = 1.0, 100.0, 50.0  # the goal: points lost at most, times less at least
SEEDS, DRAWS = 3, 5  # of a system that a seed changes; images that are deleted for each seed
VALIDATION = 5000
PENALTIES = (0.2, 0.6, 2.0, 6.0, 20.0)  # for each public image
AT_ONCE = 250  # images whose heads are gathered at once


@dataclass(frozen=True)
class Try:
    """A system: flags of lmeraser.py."""

    parts: int
    linkage: str = "average"
    start: str = "random"
    head: str = "sgd"
    nearest: int = 1

    @property
    def seeds(self) -> int:
        """How many of them there are: nothing is drawn for a head in closed form."""
        return 1 if self.head == "ridge" else SEEDS

    @property
    def flags(self) -> list[str]:
        """As a user would type them."""
        named = [("parts", self.parts), ("linkage", self.linkage), ("start", self.start), ("head", self.head)]
        words = [word for name, value in (*named, ("nearest", self.nearest)) for word in (f"--{name}", str(value))]
        return [*words, *([] if self.head == "ridge" else SMALL["rates"])]


def closed(parts: int, linkage: str, *nearest: int) -> list[Try]:
    """Systems of heads in closed form, with so many clusters that answer."""
    return [Try(parts, linkage, "public", "ridge", some) for some in nearest]


TRIES = (
    Try(1),
    Try(200, "ward"),
    Try(1, start="public"),
    *closed(1, "average", 1),
    *closed(200, "ward", 1, 3, 5, 10, 20, 50),
    *closed(200, "average", 1, 10),
    *closed(100, "ward", 1, 5, 10),
    Try(200, "ward", start="public"),
)


class Bench:
    """The data, features and folders that all tries share."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.shared = args, Shared()
        self.compute = Compute("cpu", "fp32", args.weights, quiet=True)
        self.common = ["train", "--dataset", "fashion-mnist", "--subset", str(SMALL["subset"]), *SMALL["flags"], "--quiet"]
        self.common += ["--backbone", SMALL["model"][0], "--device", "cpu", "--jobs", "1"]
        self.common += ["--data-dir", str(args.data_dir), "--weights", str(args.weights)]
        whole = data.load("fashion-mnist", args.data_dir)
        inside = data.load("fashion-mnist", args.data_dir, subset=SMALL["subset"]).whole.positions
        others = torch.randperm(len(whole.train), generator=torch.Generator().manual_seed(0))
        others = others[~torch.isin(others, inside)][:VALIDATION]
        self.images = {"accuracy": whole.test, "validation": whole.train.take(others)}
        self.features: dict[str, torch.Tensor] = {}

    def system(self, some: Try, seed: int) -> Path:
        """The folder of a trained system."""
        words = [*self.common, *some.flags, "--seed", str(seed)]
        return lmeraser.run(lmeraser.parser().parse_args(words), typed("lmeraser", words), self.shared)

    def scores(self, path: Path) -> dict[str, float]:
        """Accuracy in percent on test images; of heads without prompts on validation images too, and what the mean of the
        logits would have. As the system answers, but features without a prompt are computed once for all systems."""
        model: Any = learners.build(assemble(path), path)
        self.features = self.features or {
            name: features_of(model.backbone, split.images, "cpu") for name, split in self.images.items()
        }
        with torch.inference_mode():
            if model.prompted:
                split = self.images["accuracy"]
                nearest = torch.cdist(self.features["accuracy"], model.centres).argmin(1)
                every = torch.arange(len(split)).split(AT_ONCE)
                logits = [model.answer(to_float(split.images[some]), nearest[some]) for some in every]
                return {"accuracy": accuracy(torch.cat(logits), split.labels)}
            model.backbone, found = torch.nn.Identity(), {}
            for name, known in self.features.items():
                logits = torch.cat([model(some) for some in known.split(AT_ONCE)])
                mean = logits + (model.nearest - 1) * model.base(known) if model.base else logits  # times model.nearest
                found[name] = accuracy(logits, self.images[name].labels)
                found[f"{name}_of_mean"] = accuracy(mean, self.images[name].labels)
            return found

    def deletions(self, folders: list[Path], some: Try) -> list[float]:
        """Seconds of deleting images one by one from copies of systems: one from a single part, else DRAWS for each seed."""
        found = []
        for seed in range(1 if some.parts == 1 else SEEDS):
            with tempfile.TemporaryDirectory(dir=self.args.weights) as place:
                copy = shutil.copytree(folders[seed % len(folders)], Path(place) / "copy")
                state = read_system(copy)
                numbers = self.shared.load(data.Source.of(state["data"], self.args.data_dir)).whole.positions
                order = torch.randperm(len(state["private"]), generator=torch.Generator().manual_seed(1000 * seed))
                for image in numbers[state["private"][order[: 1 if some.parts == 1 else DRAWS]]].tolist():
                    what = typed("lmeraser", ["delete", str(copy), "--ids", str(image)])
                    where = (self.compute, self.args.data_dir, what, self.shared)
                    entry = delete_images(copy, "lmeraser", lmeraser.split, ImageRequest((image,)), *where, jobs=1)
                    found.append(entry["seconds"])
        return found


def measure(some: Try, folders: list[Path], bench: Bench) -> dict[str, Any]:
    """A row, without seconds and comparisons."""
    states, found = [read_system(path) for path in folders], [bench.scores(path) for path in folders]
    row = {"parts": some.parts, "linkage": some.linkage, "start": some.start, "head": some.head, "nearest": some.nearest}
    names = [*bench.images, *(f"{name}_of_mean" for name in bench.images)]
    scores = {name: over_seeds([one[name] for one in found]) if name in found[0] else None for name in names}
    costs = {"sample_epochs": over_seeds([expected(state) for state in states])["mean"]}
    return row | {"n": some.seeds} | scores | costs | {"commands": [state["command"] for state in states]}


def expected(state: dict[str, Any]) -> float:
    """Sample-epochs of deleting one private image, the mean over all of them."""
    sizes = state["part"][state["part"] >= 0].bincount().double()
    return (sizes * (sizes - 1)).sum().item() / sizes.sum().item() * state["config"]["epochs"]


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with points lost, and costs as times less, against one part: of the paper's learner, and of the same kind of
    learner ("own_..."); and whether each goal is met."""
    one = {(row["start"], row["head"]): row for row in rows if row["parts"] == 1}
    for row in rows:
        for prefix, whole in (("", one["random", "sgd"]), ("own_", one[row["start"], row["head"]])):
            lost = whole["accuracy"]["mean"] - row["accuracy"]["mean"]
            ratios = {name: whole[name] / row[name] for name in ("sample_epochs", "seconds")}
            met = lost <= LOST and ratios["sample_epochs"] >= EPOCHS_RATIO and ratios["seconds"] >= SECONDS_RATIO
            row |= {f"{prefix}lost": lost} | {f"{prefix}{name}_ratio": value for name, value in ratios.items()}
            row |= {f"{prefix}met": "yes" if met else "no"}
    return rows


def penalties(path: Path, bench: Bench) -> list[dict[str, float]]:
    """Accuracy in percent on validation images of a head for all, and of one for anchors alone, at each penalty."""
    state = read_system(path)
    model: Any = learners.build(assemble(path), path)
    dataset = bench.shared.load(data.Source.of(state["data"], bench.args.data_dir))
    known = features_of(model.backbone, dataset.train.images, "cpu")
    anchors, private = state["anchors"], state["private"]
    rows = []
    for penalty in PENALTIES:
        labels = dataset.train.labels
        start = ridge.public(known[anchors], labels[anchors], state["classes"], penalty)
        row = {"penalty": penalty}
        for name, (weight, bias) in (
            ("anchors", ridge.base(start)),
            ("all", ridge.head(start, known[private], labels[private])),
        ):
            for images, features in bench.features.items():
                row[f"{name}_{images}"] = accuracy(features @ weight.T + bias, bench.images[images].labels)
        rows.append(row)
    return rows


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Train and score all tries, then delete from all of them, one right after the other, and write the file."""
    bench, tries = Bench(args), TRIES[: args.tries]
    folders = {some: [bench.system(some, seed) for seed in range(some.seeds)] for some in tries}
    rows = []
    for some in tries:
        rows.append(measure(some, folders[some], bench))
        print({key: value for key, value in rows[-1].items() if key != "commands"}, flush=True)
    for some, row in zip(tries, rows, strict=True):
        seconds = bench.deletions(folders[some], some)
        row |= {"seconds": sum(seconds) / len(seconds), "deletions": len(seconds)}
    about = {"table": "without_loss", "about": ABOUT, **provenance(command, device_name("cpu"))}
    about |= {"goal": {"lost": LOST, "sample_epochs_ratio": EPOCHS_RATIO, "seconds_ratio": SECONDS_RATIO}}
    about |= {"penalties": penalties(folders[tries[0]][0], bench)}
    results.write(args.output, about | {"rows": compared(rows)})
    print(results.dump(rows))


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--tries", type=POSITIVE_INT, help="the first so many of them (default: all)")
    parser.add_argument("--weights", type=folder, default=Path("model_weights/without_loss"), help="folder of the systems")
    parser.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    output = Path("results/benchmarks/without_loss.json")
    parser.add_argument(
        "--output", type=results.Output("without_loss"), default=str(output), help=f"file to write (default: {output})"
    )
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
