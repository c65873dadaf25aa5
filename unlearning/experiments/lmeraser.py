"""LMEraser's table (arXiv 2404.11056): what a request costs a system of parts, and how accurate the system is afterwards.

Each system that has been trained is copied, images are deleted from the copy, and its ledger and its accuracy on test images
are read. Costs are set against the system of one part of the same seed, whose deletion is training again without clusters:
sample-epochs and FLOPs count exactly, seconds are those of training alone.
"""

import importlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

import data
import models
from unlearning.core.errors import UserError
from unlearning.core.files import replacing
from unlearning.core.locks import locked
from unlearning.evaluation.answers import folder_sha256
from unlearning.evaluation.collect import report_scored
from unlearning.evaluation.unfinished import circumstances
from unlearning.exact import learners, ridge, storage
from unlearning.exact.reading import assemble, read_system
from unlearning.exact.selection import ImageRequest
from unlearning.exact.storage import made_from
from unlearning.exact.system import delete_images
from unlearning.experiments import image_estimate
from unlearning.experiments.estimate import in_lines
from unlearning.experiments.methods import METHODS, ONE, Method
from unlearning.experiments.plan import START, chosen, command, from_scratch, handed_on
from unlearning.experiments.request import Plan, Request, Row, Run, Table
from unlearning.images import forgetting
from unlearning.images.named import NAMED_SETS
from unlearning.metrics import predictions, statistics
from unlearning.vision.originals import network_in
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared

SCRIPTS = {"lmeraser": "lmeraser", "sisa": "baselines.sisa"}  # by the method that a system names
REQUESTS = {1: 5, 10: 2, 100: 1}  # images at random: how many draws are averaged
# How many clusters the paper's threshold makes of its data sets, by features of a ViT-B/16 of ImageNet-22k.
CLUSTERS = {"cifar10": 194, "cifar100": 347, "svhn": 30, "gtsrb": 90}
# A ratio where the deleted images were all that their parts held.
ALONE = {"missing": "nothing was trained again, for no other image was in these parts", "cell": "all"}
CLUSTERED = "lmeraser --parts"  # of a preset's rows the one with so many
TUNED = (ONE, "lmeraser --parts 100")  # rows of the tuning: the extremes of how many images share a learner
# Rates on the ImageNet weights; the scripts' defaults are those of a vit_micro that knows the classes.
RATES = ["--lr", "0.02", "--head-lr", "0.003"]
GRID = (("0.004", "0.02", "0.1"), ("0.001", "0.003", "0.01"))  # the tuning's --lr and --head-lr there
ON_GPUS = ("--precision", "bf16")  # systems compute in fp32 unless told
# Private images: the share that a backbone trained from scratch doesn't see, or all where it has ImageNet weights.
PRESETS: dict[str, dict[str, Any]] = {
    "quick": {
        "subset": 8000,
        "test": 1000,
        "pretrain": {"vit_micro": 12},
        "private": 0.25,
        "flags": [],
        "rates": [],
        "grid": (("0.1", "0.5", "2.5"), ("0.003", "0.01", "0.03")),
    },
    "small": {
        "model": [models.EFFICIENTNET],
        "subset": 2000,
        "test": 1000,
        "flags": ["--anchors", "500"],
        "rates": RATES,
        "grid": GRID,
    },
    "gpu": {
        "model": [models.EFFICIENTNET],
        "subset": None,
        "flags": ["--epochs", "50", *ON_GPUS],
        "rates": RATES,
        "grid": GRID,
    },
    # At this side the frame is 30 wide, as the paper's. The prompt's rate is the paper's too; that of heads and the batches
    # are its public code's.
    "paper": {
        "dataset": "cifar10",
        "model": ["timm:vit_base_patch16_224.augreg_in21k"],
        "subset": None,
        "rows": [ONE, CLUSTERED, "sisa --parts 5", "sisa --parts 20"],
        "flags": ["--input-size", "224", "--anchors", "1000", "--epochs", "50", "--batch-size", "128", *ON_GPUS],
        "rates": ["--lr", "0.5", "--head-lr", "0.1"],
        "grid": (("0.1", "0.5", "2.5"), ("0.02", "0.1", "0.5")),
    },
}


def plan_lmeraser(request: Request) -> Plan:
    """LMEraser over its number of clusters, SISA, and one prompt for all, on a backbone of public images."""
    if len(request.forget_classes) > 1:
        raise UserError("lmeraser deletes one class: give --forget-class one of them")
    _check_enough(request)
    return _plan(request, systems_of(request, request.sizes.get("rows")), [request.sizes["rates"]])


def plan_tune(request: Request) -> Plan:
    """Rows of TUNED at each pair of the preset's rates, scored on a tenth of the training images that no part holds."""
    pairs = product(*request.sizes["grid"])
    rows = (ONE, CLUSTERED) if "rows" in request.sizes else TUNED
    return _plan(request, systems_of(request, rows), [["--lr", lr, "--head-lr", head] for lr, head in pairs])


def systems_of(request: Request, rows: Sequence[str] | None) -> dict[str, Method]:
    """Of `rows`, None for the table's, those that --methods asks for, and how each is made. Raises UserError where CLUSTERED
    is among them, and the paper has no number of clusters for the data set."""
    known, dataset = METHODS, request.source.dataset
    if CLUSTERED in (rows or ()):
        if dataset not in CLUSTERS:
            there = ", ".join(CLUSTERS)
            raise UserError(f"{request.table} --preset {request.preset} has a number of clusters for {there}, not {dataset}")
        name = f"{CLUSTERED} {CLUSTERS[dataset]}"
        known = known | {name: Method("lmeraser", tuple(name.split()[1:]))}
        rows = [name if row == CLUSTERED else row for row in rows or ()]
    return {name: known[name] for name in chosen(request, rows)}


def _plan(request: Request, rows: Mapping[str, Method], rates: Sequence[list[str]]) -> Plan:
    """The backbones of a table, and each of its rows at each of several rates."""
    _check_backbones(request)
    runs: list[Run] = []
    for seed in range(request.seeds):
        for network in request.networks:
            backbone = network
            if "private" in request.sizes and network not in START:
                backbone = str(request.weights / f"public_{network}_s{seed}.pth")
                public = ["--forget-random", str(request.sizes["private"]), "--output", backbone]
                public += [*handed_on(request, seed), *from_scratch(request, network)]
                runs.append(("retrain", ["--model", network, *public]))
            for row, pair in product(rows.values(), rates):
                words = _of_a_kind([*request.sizes["flags"], *pair], row, backbone, request, seed)
                runs.append((row.script, ["train", "--backbone", backbone, *words]))
    return Plan(runs)


def _check_enough(request: Request) -> None:
    """Raise UserError where the largest request would delete all private images of a data set whose size is known."""
    known, sizes = NAMED_SETS.get(request.source.dataset), request.sizes
    count = request.source.subset or (known.sizes[0] if known else None)
    flags = dict(zip(sizes["flags"][::2], sizes["flags"][1::2], strict=True))
    if count is None or any(Path(network).suffix == ".pth" for network in request.networks):
        return  # what is private is found where the data or the backbone are read
    private = round(sizes["private"] * count) if "private" in sizes else count - int(flags.get("--anchors", 1000))
    if private <= max(REQUESTS):
        what = f"{max(private, 0)} of {count:,} training images are private"
        raise UserError(f"--subset: {what}, and the table deletes {max(REQUESTS)} of them: give a larger one")


def _check_backbones(request: Request) -> None:
    """Raise UserError where two backbones would have one name in the table, which would pool them as one row's seeds."""
    found: dict[str, str] = {}
    for backbone in request.networks:
        name = network_in(Path(backbone)) if Path(backbone).suffix == ".pth" else backbone
        if name in found:
            raise UserError(f"--model: {found[name]} and {backbone} are both a {name}: a table takes one")
        found[name] = backbone


def _of_a_kind(preset: Sequence[str], row: Method, backbone: str, request: Request, seed: int) -> list[str]:
    """The flags of a row's systems. preset: of the preset, each with a value: those of a training aren't for heads in closed
    form, a checkpoint says its side itself, and the user's precision goes before the preset's."""
    closed = "ridge" in row.flags
    gone = {f"--{name.replace('_', '-')}" for name in ridge.WITHOUT} if closed else set()
    gone |= {"--input-size"} if Path(backbone).suffix == ".pth" else set()
    gone |= {"--precision"} if request.precision else set()
    common = handed_on(replace(request, precision=None) if closed else request, seed)
    pairs = zip(preset[::2], preset[1::2], strict=True)
    return [*common, *row.flags, *(word for pair in pairs if pair[0] not in gone for word in pair)]


def score_tune(paths: list[Path], request: Request, plan: Plan, shared: Shared) -> list[Row]:
    """A row for each system among `paths`, all seeds together: its accuracy on validation images, and its cost."""
    scored = []
    for path in paths:
        if path.is_dir():
            state = read_system(path)
            rates = f"--lr {state['config']['lr']:g} --head-lr {state['config']['head_lr']:g}"
            found = {"validation": _accuracy(path, request, shared), "seconds": state["cost"]["seconds"]}
            row = _described(state, f"{label(state)} {rates}", "none") | {"forgotten": "nothing deleted"}
            scored.append(row | {"metrics": found})
            report_scored(path, request.scoring.compute)
    groups = statistics.grouped(scored, lambda row: (row["model"], row["method"]))
    return statistics.rows_over_seeds(groups.values())


def score(paths: list[Path], request: Request, plan: Plan, shared: Shared) -> list[Row]:
    """The rows, with `clusters` and `request`, of the systems among `paths`; all seeds together."""
    scored = [row for path in paths if path.is_dir() for row in _rows_of(path, request, shared)]
    whole = {_pair(row): row["metrics"] for row in scored if row["method"] == ONE}
    for row in scored:
        full, found = whole[_pair(row)], row["metrics"]
        for key in ("sample_epochs", "seconds"):
            found[f"{key}_ratio"] = full[key] / found[key] if found["sample_epochs"] else ALONE
    groups = statistics.grouped(scored, lambda row: (row["model"], row["forget"], row["method"]))
    ordered = sorted(groups.values(), key=lambda group: (group[0]["model"], _order(group[0]["forget"])))
    return statistics.rows_over_seeds(ordered)


def estimated(request: Request, plan: Plan) -> list[str]:
    """What the runs, and the deletions that scoring makes, would take by rule, as lines; none where not all is known."""
    if not image_estimate.known(request):
        return []
    there, test = NAMED_SETS[request.source.dataset].sizes
    found: dict[str, list[tuple[float, float]]] = {}
    counts: dict[str, image_estimate.Count] = {}
    for script, words in plan.runs:
        args = importlib.import_module(script).parser().parse_args(words)
        name, size = args.backbone, args.input_size
        counts[name] = counts.get(name) or image_estimate.made(request, name, size)
        private = max(0, (request.source.subset or there) - args.anchors)
        epochs = 1 if ridge.is_asked_for(vars(args)) else args.epochs
        system = image_estimate.System(args.parts, script == SCRIPTS["sisa"], epochs, private)
        row = label({"method": script.removeprefix("baselines."), "config": vars(args)})
        for kind, images in image_estimate.works(system, REQUESTS, test).items():
            some = [image_estimate.cost(counts[name], number, True, args.precision or "fp32") for number in images]
            found.setdefault(row + kind, []).extend(some)
    return in_lines(found, image_estimate.RULE)


def label(state: dict[str, Any]) -> str:
    """What the table calls a system: its key in METHODS."""
    config = state["config"]
    further = {"linkage": "average", "start": "random", "head": "sgd", "nearest": 1}  # and their defaults; SISA has not all
    own = "".join(f" --{name} {config[name]}" for name, usual in further.items() if config.get(name, usual) != usual)
    return ONE if config["parts"] == 1 and not own else f"{state['method']} --parts {config['parts']}{own}"


def _rows_of(folder: Path, request: Request, shared: Shared) -> list[Row]:
    """A row for each request to the system in `folder`."""
    state = read_system(folder)
    rows = []
    every: list[Any] = [*REQUESTS, "class"]
    for asked in every:
        draws = 1 if len(state["files"]) == 1 else REQUESTS.get(asked, 1)  # without clusters all draws cost alike
        copies = [_deleted_from(folder, state, asked, draw, request, shared) for draw in range(draws)]
        costs = [read_system(copy)["ledger"][-1] for copy in copies]
        found = {
            key: sum(cost[key] for cost in costs) / len(costs) for key in ("sample_epochs", "flops", "seconds", "memory_mib")
        }
        tag = forgetting.tag_of_classes(request.forget_classes) if asked == "class" else f"delete{asked}"
        found["accuracy"] = _accuracy(copies[0], request, shared)
        row = _described(state, label(state), tag) | {"forgotten": _in_words(asked, request, shared)}
        rows.append(row | {"clusters": len(state["files"]), "request": asked, "metrics": found})
    report_scored(folder, request.scoring.compute)
    return rows


def _in_words(asked: int | str, request: Request, shared: Shared) -> str:
    """A request as people call it: "10 images", "class 3 (Dress)"."""
    if asked != "class":
        return f"{asked} image{'' if asked == 1 else 's'}"
    dataset, classes = shared.load(request.source), forgetting.ForgetRequest(request.forget_classes)
    return dataset.in_words(dataset.forgotten(classes).positions, "")


def _described(state: dict[str, Any], method: str, forget: str) -> Row:
    """What a row says of the system that it was made from."""
    return {
        "dataset": state["data"]["tag"],
        "model": learners.label(state["backbone"]["network"]),
        "forget": forget,
        "method": method,
        "epochs": state["config"]["epochs"],
        "seed": state["seed"],
        "command": state["command"],
        "device": state["device"],
    }


def _deleted_from(
    folder: Path, state: dict[str, Any], asked: int | str, draw: int, request: Request, shared: Shared
) -> Path:
    """A copy of the system with the images deleted that are asked for: its folder. One of an earlier run is taken as it is.

    asked: a number of images, or "class". draw: which of the draws of so many images.
    """
    what = forgetting.tag_of_classes(request.forget_classes) if asked == "class" else asked
    copy = folder.with_name(f"{folder.name}_deleted-{what}-{draw}")
    name = SCRIPTS[state["method"]]
    deleting = command(name, ["delete"])
    if copy.exists():
        there = read_system(copy)
        if _is_of(there, state):
            return copy
        _check_replaced(copy, there, deleting)
    if asked == "class":
        images = ImageRequest(classes=request.forget_classes)
    else:
        generator = torch.Generator().manual_seed(1000 * state["seed"] + draw)  # the same images for every system
        drawn = state["private"][torch.randperm(len(state["private"]), generator=generator)]
        some = drawn[~torch.isin(drawn, state["deleted"])][:asked]
        dataset = shared.load(data.Source.of(state["data"], request.source.data_dir))
        images = ImageRequest(tuple(dataset.whole.positions[some].tolist()))
    split = importlib.import_module(name).split
    compute = replace(request.scoring.compute, quiet=True)
    with locked(copy), replacing(copy) as part:
        shutil.copytree(folder, part)
        where = request.source.data_dir, deleting, shared
        delete_images(part, state["method"], split, images, compute, *where)
    return copy


def _check_replaced(copy: Path, there: dict[str, Any], deleting: str) -> None:
    """Raise UserError where a copy of a system before this one, whose state is `there`, holds what this table hasn't made.
    deleting: the command that its own deletion is said to be of."""
    last = there["ledger"][-1]["command"] if there["ledger"] else None
    if last != deleting or storage.stranger(copy, there):
        raise UserError(f"{copy} isn't replaced: it has been changed since a table made it; move it away")


def _is_of(copy: dict[str, Any], state: dict[str, Any]) -> bool:
    """True if a copy, from which images have been deleted once, was this system, and not one of the same name before it."""
    same = made_from(copy) == made_from(state) and copy["config"] == state["config"]
    return same and copy["ledger"][:-1] == state["ledger"]


def _accuracy(folder: Path, request: Request, shared: Shared) -> float:
    """Accuracy in percent on the test images."""
    where = {"images": repr(request.source), "where": circumstances(request.scoring.compute)}
    return request.kept.once({"system": folder_sha256(folder), **where}, lambda: _accuracy_now(folder, request, shared))


def _accuracy_now(folder: Path, request: Request, shared: Shared) -> float:
    """`_accuracy`, computed."""
    content = assemble(folder)
    model = learners.build(content, folder)
    test = shared.load(data.Source.of(content["data"], request.source.data_dir)).test
    return predictions.accuracy(predict(model, test, request.scoring.compute.placed(model)), test.labels)


def _pair(row: Row) -> tuple:
    return row["model"], row["forget"], row["seed"]


def _order(tag: str) -> float:
    """Requests from the smallest number of images to a whole class."""
    return int(tag.removeprefix("delete")) if tag.startswith("delete") else float("inf")


ABOUT = "LMEraser and SISA: what an exact deletion costs, and how accurate the system is afterwards."
NONE_OF = ("mia", "every_attack", "recovery", "retain_subset", "images", "cache")
TABLE = Table(ABOUT, plan_lmeraser, PRESETS, 3, score, estimated=estimated, none_of=NONE_OF)
TUNE = Table(
    "LMEraser's learning rates, on a tenth of the training images that neither its backbone nor a part was trained on.",
    plan_tune,
    PRESETS,
    1,
    score_tune,
    pictures=False,
    validation=True,
    none_of=NONE_OF,
)
