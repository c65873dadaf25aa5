"""Deletions: what a request costs a system of parts, and how accurate the system is afterwards.

Each system that reproduce.py lmeraser has trained is copied, images are deleted from the copy by the script that trained it,
and its ledger and its accuracy on test images are read. Costs are set against the system of one part of the same seed, whose
deletion is training again without clusters: sample-epochs and FLOPs count exactly, seconds are those of training alone.
"""

import importlib
import shutil
import sys

import torch

import data
import models
from unlearning.core.device import placed
from unlearning.core.errors import UserError
from unlearning.exact import learners
from unlearning.exact.system import assemble, read_system
from unlearning.experiments import plan
from unlearning.metrics import predictions, statistics
from unlearning.vision.flags import data_arguments, load_data_by
from unlearning.vision.predict import predict
from unlearning.vision.run import variant

SCRIPTS = {"lmeraser": "lmeraser", "sisa": "baselines.sisa"}
REQUESTS = {1: 5, 10: 2, 100: 1}  # images at random: how many draws are averaged


def score(paths, config):
    """Rows as report.py describes them, with `clusters` and `request`, for the systems among `paths`; all seeds together."""
    scored = [row for path in paths if path.is_dir() for row in _requests(path, config)]
    whole = {_pair(row): row["metrics"] for row in scored if row["method"] == plan.ONE}
    for row in scored:
        full, found = whole[_pair(row)], row["metrics"]
        for key in ("sample_epochs", "seconds"):
            found[f"{key}_ratio"] = full[key] / found[key]
    groups = {}
    for row in scored:
        groups.setdefault((row["model"], row["forget"], row["method"]), []).append(row)
    ordered = sorted(groups.values(), key=lambda group: [group[0]["model"], _order(group[0]["forget"])])
    return [group[0] | {"n": len(group), "metrics": statistics.metrics_over_seeds(group)} for group in ordered]


def _requests(folder, config):
    """A row for each request to the system in `folder`."""
    state = read_system(folder)
    rows = []
    for request in (*REQUESTS, "class"):
        draws = 1 if len(state["files"]) == 1 else REQUESTS.get(request, 1)  # without clusters all draws cost alike
        copies = [_deleted_from(folder, state, request, draw, config) for draw in range(draws)]
        costs = [read_system(copy)["ledger"][-1] for copy in copies]
        found = {
            key: sum(cost[key] for cost in costs) / len(costs) for key in ("sample_epochs", "flops", "seconds", "memory_mib")
        }
        flags = " ".join(variant(state["config"]))
        rows.append(
            {
                "dataset": state["data"]["tag"],
                "model": learners.label(state["backbone"]["network"]),
                "forget": data.tag_of_classes([config.request_class]) if request == "class" else f"delete{request}",
                "method": plan.ONE if state["config"]["parts"] == 1 else f"{state['method']} {flags}",
                "epochs": state["config"]["epochs"],
                "seed": state["seed"],
                "command": state["command"],
                "device": state["device"],
                "clusters": len(state["files"]),
                "request": request,
                "metrics": {"accuracy": _accuracy(copies[0], config)} | found,
            }
        )
    if not config.quiet:
        print(f"scored {folder}", file=sys.stderr, flush=True)
    return rows


def _deleted_from(folder, state, request, draw, config):
    """A copy of the system with the request's images deleted: its folder. One of an earlier run is taken as it is."""
    copy = folder.with_name(f"{folder.name}_deleted-{request}-{draw}")
    if copy.exists():
        return copy
    part = copy.with_name(f".{copy.name}.partial")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(folder, part)
    if request == "class":
        flags = ["--class", str(config.request_class)]
    else:
        generator = torch.Generator().manual_seed(1000 * state["seed"] + draw)  # the same images for every system
        chosen = state["private"][torch.randperm(len(state["private"]), generator=generator)[:request]]
        flags = ["--ids", *map(str, chosen.tolist())]
    name = SCRIPTS[state["method"]]
    script = importlib.import_module(name)
    arguments = ["delete", str(part), *flags, "--data-dir", str(config.data_dir), "--device", str(config.device), "--quiet"]
    deletion = script.parser().parse_args(arguments)
    deletion.command = plan.command(name, ["delete"])
    script.run(deletion)
    part.rename(copy)
    return copy


def _accuracy(folder, config):
    """Accuracy in percent on the test images."""
    content = assemble(folder)
    model = learners.build(content, folder)
    test = load_data_by(*data_arguments(content["data"], config.data_dir)).test
    return predictions.accuracy(predict(model, test, placed(model, config)), test.labels)


def _pair(row):
    return row["model"], row["forget"], row["seed"]


def _order(tag):
    """Requests from the smallest number of images to a whole class."""
    return int(tag.removeprefix("delete")) if tag.startswith("delete") else float("inf")


LMERASER = tuple(m for m in plan.METHODS if plan.METHODS[m].script in SCRIPTS.values())
# Rates on the ImageNet weights; the scripts' defaults are those of a vit_micro that knows the classes.
RATES = ["--lr", "0.02", "--head-lr", "0.003"]
# Private images: the share that a backbone trained from scratch doesn't see, or all where it has ImageNet weights.
LMERASER_PRESETS = {
    "quick": {"model": ["vit_micro"], "subset": 8000, "test": 1000, "pretrain": [12], "private": 0.25, "flags": []},
    "small": {
        "model": [models.EFFICIENTNET],
        "subset": 2000,
        "test": 1000,
        "pretrain": [None],
        "flags": ["--anchors", "500", *RATES],
    },
    "gpu": {"model": [models.EFFICIENTNET], "subset": None, "pretrain": [None], "flags": [*RATES, "--epochs", "50"]},
}


def plan_lmeraser(config):
    """LMEraser over its number of clusters, SISA, and one prompt for all, on a backbone of public images."""
    if len(config.forget_class) > 1:
        raise UserError("lmeraser deletes one class: give --forget-class one number")
    config.request_class = config.forget_class[0]
    runs = []
    for seed in range(config.seeds):
        for network in config.model or config.sizes["model"]:
            common = plan.handed_on(config, seed)
            backbone = network
            if network not in plan.START:
                backbone = str(plan.weights(config) / f"public_{network}_s{seed}.pth")
                public = ["--forget-random", str(config.sizes["private"]), "--output", backbone]
                runs.append(("retrain", ["--model", network, *common, *public, *plan.scratch(config.sizes, network)]))
            for method in plan.chosen(config, LMERASER):
                script, flags, *_ = plan.METHODS[method]
                runs.append((script, ["train", "--backbone", backbone, *common, *flags, *config.sizes["flags"]]))
    return runs
