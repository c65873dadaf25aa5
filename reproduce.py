"""Regenerate a paper's table: train what is missing, unlearn, evaluate, write results/<table>.json and draw it.

    python reproduce.py prunelora                                     the quick table: two cores, minutes
    python reproduce.py prunelora --preset paper --dataset cifar10 --model resnet50 vit_small --seeds 3
    python reproduce.py random --share 0.1                            the same methods, a tenth of the images to forget
    python reproduce.py rfau                                          RFAU and its baselines: a class, a tenth of all images
    python reproduce.py lmeraser                                      what a deletion costs, over numbers of clusters
    python reproduce.py llmeraser                                     a language model: rows removed, modified, corrected
    python reproduce.py audit                                         16 networks of each kind: U-LiRA, KLOM, epsilon
    python reproduce.py tune                                          PruneLoRA's learning rates, on validation images
    python reproduce.py rfau-tune                                     RFAU's and its baselines'
    python reproduce.py draw results/prunelora-quick.json             tables and pictures again, from the file alone

A killed run continues where it stopped; rows of networks and forget sets not asked for stay. Presets: quick (small
networks on a subset of Fashion-MNIST), small (resnet20 and vit_micro, full data), gpu (the paper's networks, fewer epochs),
paper (the paper's everything).
"""

import argparse
import shlex
from collections import namedtuple
from itertools import product
from pathlib import Path

import audit
import badteacher
import cli
import control
import corruptions
import data
import deletions
import evaluate
import finetune
import gradascent
import imagenet
import instructions
import llm
import llmeraser
import lmeraser
import lora
import loraprune
import pretrain
import pruneft
import randomlabel
import report
import retrain
import rfau
import sisa
from errors import UserError

# One line for each row: its label, its script, its flags, and its numbers of epochs if they aren't the preset's (None: the
# script's own); tuned: at how many its rate is chosen (None: the first of them). A new method is one new file and a line.
Method = namedtuple("Method", "script flags epochs tuned", defaults=((), None, None))
METHODS = {
    "original": Method(pretrain),
    "retrain": Method(retrain),
    "mask": Method(control, ("--kind", "mask"), (None,)),
    "zero-row": Method(control, ("--kind", "zero-row"), (None,)),
    "head-only": Method(control, ("--kind", "head-only")),
    "finetune": Method(finetune),
    "pruneft": Method(pruneft),
    "lora": Method(lora),
    "loraprune": Method(loraprune),
    "loraprune --regrow": Method(loraprune, ("--regrow",)),
    "loraprune --prune-head": Method(loraprune, ("--prune-head",)),
    "gradascent": Method(gradascent, (), (1,)),
    "gradascent --retain-weight 0.9": Method(gradascent, ("--retain-weight", "0.9"), (1,)),
    "randomlabel": Method(randomlabel),
    "randomlabel --saliency 0.5": Method(randomlabel, ("--saliency", "0.5")),
    "badteacher": Method(badteacher),
    "rfau": Method(rfau, (), (1, 2, 5, 20), 5),
    "rfau --shift unseen": Method(rfau, ("--shift", "unseen"), (1, 20)),
    "rfau --shift mean": Method(rfau, ("--shift", "mean"), (1,)),
    "rfau --shift head": Method(rfau, ("--shift", "head"), (1,)),
    deletions.ONE: Method(lmeraser, ("--parts", "1")),
    **{f"lmeraser --parts {k}": Method(lmeraser, ("--parts", str(k))) for k in (10, 50, 100, 200)},
    **{
        f"lmeraser --parts {k} --linkage ward": Method(lmeraser, ("--parts", str(k), "--linkage", "ward"))
        for k in (100, 200)
    },
    **{f"sisa --parts {k}": Method(sisa, ("--parts", str(k))) for k in (5, 20, 100)},
}
# The rows of LLMEraser's table, each the flags of a request; the first asks for nothing.
LLMERASER = {
    "corrupted": None,
    "retrain": ("--method", "retrain"),
    "llmeraser": (),
    "llmeraser --curvature gauss-newton": ("--curvature", "gauss-newton"),
    "llmeraser --solver adam": ("--solver", "adam", "--damping", "0.03"),
    "gradascent": ("--method", "gradascent"),
    "finetune": ("--method", "finetune"),
}
# The rows of the tables. PLAIN has neither the controls that edit a class's row nor PruneLoRA's variants.
PLAIN = ("original", "retrain", "head-only", "finetune", "pruneft", "lora", "loraprune")
PRUNELORA = (*PLAIN[:2], "mask", "zero-row", *PLAIN[2:], "loraprune --regrow", "loraprune --prune-head")
AUDIT = (*PLAIN[:2], "mask", *PLAIN[2:])
RFAU = (*PLAIN[:2], "mask", "head-only", "finetune", "loraprune", "gradascent", "gradascent --retain-weight 0.9")
RFAU += tuple(m for m in METHODS if m.startswith(("randomlabel", "badteacher", "rfau")))
LMERASER = tuple(m for m in METHODS if METHODS[m].script in (lmeraser, sisa))
ALWAYS = ("original", "corrupted", "retrain", deletions.ONE)  # rows that others are measured by
ONLY_CLASSES, ONLY_IMAGES = ("mask", "zero-row"), ("rfau --shift unseen",)
GRID = ("0.0003", "0.001", "0.003", "0.01")
TUNED = Path(__file__).parent / "results"  # where the committed tunings lie, wherever --results are written
RFAU_GRID = ("0.0001", *GRID)
# Networks that start from weights of other data: their flags for pretrain and retrain.
START = {imagenet.MODEL: ["--pretrained", "--input-size", "48", "--lr", "0.01"]}
PRESETS = {
    "quick": {"model": ["resnet8", "vit_micro"], "subset": 10_000, "pretrain": [10, 12], "epochs": [5]},
    "small": {"model": ["resnet20", "vit_micro"], "subset": None, "pretrain": [8, 12], "epochs": [3]},
    "gpu": {"model": ["resnet50", "vit_small"], "subset": None, "pretrain": [15, 20], "epochs": [5, 10]},
    "paper": {"model": ["resnet50", "vit_small"], "subset": None, "pretrain": [200, 90], "epochs": [5, 10]},
}
# Sample forgetting shows only in networks that remember samples: fewer images, more epochs.
RANDOM_PRESETS = PRESETS | {
    "quick": {"model": ["resnet8", "vit_micro"], "subset": 1000, "pretrain": [25, 35], "epochs": [5]}
}
AUDIT_PRESETS = {
    "quick": {"model": ["resnet8"], "subset": 600, "pretrain": [20], "epochs": [5]},
    "small": {"model": ["resnet20"], "subset": 10_000, "pretrain": [30], "epochs": [5]},
}
RFAU_PRESETS = {
    "quick": {
        "model": ["resnet20", "vit_micro", imagenet.MODEL],
        "subset": 1000,
        "test": 2000,
        "pretrain": [25, 35, 10],
        "epochs": [5],
        # In batches of 128 these are too few steps.
        "scratch": {model: ["--batch-size", "32"] for model in ("resnet20", imagenet.MODEL)},
    },
    "small": {"model": ["resnet20", "vit_micro", imagenet.MODEL], "subset": 10_000, "pretrain": [15, 25, 4], "epochs": [5]},
    "gpu": {"model": ["resnet18", "vit_small"], "subset": None, "pretrain": [15, 20], "epochs": [5]},
}
# Rates on the ImageNet weights; the scripts' defaults are those of a vit_micro that knows the classes.
RATES = ["--lr", "0.02", "--head-lr", "0.003"]
# Private images: the share that a backbone trained from scratch doesn't see, or all where it has ImageNet weights.
LMERASER_PRESETS = {
    "quick": {"model": ["vit_micro"], "subset": 8000, "test": 1000, "pretrain": [12], "private": 0.25, "flags": []},
    "small": {
        "model": [imagenet.MODEL],
        "subset": 2000,
        "test": 1000,
        "pretrain": [None],
        "flags": ["--anchors", "500", *RATES],
    },
    "gpu": {"model": [imagenet.MODEL], "subset": None, "pretrain": [None], "flags": [*RATES, "--epochs", "50"]},
}
# Here a "model" is a base, "tasks" what it is tuned on; rows to train on, to choose by, to test on.
LLMERASER_PRESETS = {
    "quick": {"model": [llm.SMOLLM2], "tasks": ["genre", "preference"], "sizes": [1000, 300, 700], "flags": []},
    "gpu": {
        "model": [llm.SMOLLM2],
        "tasks": ["genre", "preference"],
        "sizes": [1300, 200, 500],
        "flags": ["--blocks", "30", "--targets", "q_proj", "v_proj"],
    },
}
# Flags of this script that are handed on where they differ from the scripts' default.
HANDED_ON = {
    "data_dir": Path("data"),
    "img_size": 32,
    "test_subset": None,
    "subset": None,
    "validation": 0.0,
    "device": "auto",
    "precision": None,
}
# Figure 1 of arXiv 2411.11907: CIFAR-10, class 3, one run; (network, method, epochs): UA, RA, TA, MIA-Efficacy.
PUBLISHED = {
    ("resnet50", "retrain", None): (100, 98.02, 96.70, 100),
    ("resnet50", "finetune", 5): (100, 92.52, 88.29, 100),
    ("resnet50", "finetune", 10): (100, 96.27, 91.44, 100),
    ("resnet50", "pruneft", 5): (100, 94.92, 90.79, 100),
    ("resnet50", "pruneft", 10): (100, 95.68, 90.72, 100),
    ("resnet50", "lora", 5): (97.22, 96.90, 95.03, 100),
    ("resnet50", "lora", 10): (100, 97.19, 93.49, 100),
    ("resnet50", "loraprune", 5): (99.78, 97.96, 95.18, 97.68),
    ("resnet50", "loraprune", 10): (99.98, 98.00, 95.41, 97.89),
    ("vit_small", "retrain", None): (100, 96.90, 84.92, 100),
    ("vit_small", "finetune", 5): (100, 87.64, 79.79, 100),
    ("vit_small", "finetune", 10): (100, 86.80, 79.94, 100),
    ("vit_small", "pruneft", 5): (100, 84.76, 78.81, 100),
    ("vit_small", "pruneft", 10): (100, 86.14, 79.53, 100),
    ("vit_small", "lora", 5): (87.66, 97.72, 85.33, 98.14),
    ("vit_small", "lora", 10): (95.58, 97.81, 85.16, 99.58),
    ("vit_small", "loraprune", 5): (100, 97.39, 85.53, 100),
    ("vit_small", "loraprune", 10): (100, 97.63, 85.34, 100),
}


def plan(config, methods, forget, rates=lambda network, method: (None,)):
    """The runs of a table, originals first: a list of (script module, argument list for its parser).

    methods: keys of METHODS. forget: the flags that name the forget set. rates: function of a network and a key of METHODS,
    the learning rates to run it with, None for the script's own; with several, only one number of epochs is run, `tuned`.
    """
    preset = config.sizes
    runs = []
    for seed in range(config.seeds):
        for network in config.model or preset["model"]:
            common = ["--model", network, *_handed_on(config, seed)]
            common += ["--cache", str(config.cache)] if config.cache != cli.CACHE_MIB else []
            scratch = _scratch(preset, network)
            for method in methods:
                script, flags, epochs, tuned = METHODS[method]
                if method == "original":
                    runs.append((script, common + scratch))
                elif method == "retrain":
                    runs.append((script, common + forget + scratch))
                else:
                    chosen = [["--lr", rate] if rate else [] for rate in rates(network, method)]
                    lengths_run = epochs or preset["epochs"]
                    if len(chosen) > 1:
                        lengths_run = [tuned or lengths_run[0]]
                    runs += [
                        (script, common + forget + (["--epochs", str(n)] if n else []) + rate + list(flags))
                        for n in lengths_run
                        for rate in chosen
                    ]
    return runs


def _handed_on(config, seed):
    """The flags that all scripts of a table share."""
    flags = ["--dataset", config.dataset, "--seed", str(seed), "--weights", str(weights(config))]
    for flag, default in HANDED_ON.items():
        if getattr(config, flag) != default:
            flags += [f"--{flag.replace('_', '-')}", str(getattr(config, flag))]
    return flags + (["--quiet"] if config.quiet else [])


def _scratch(preset, network):
    """The flags with which a preset trains a network from its start."""
    lengths = dict(zip(preset["model"], preset["pretrain"], strict=True))
    epochs = ["--epochs", str(lengths[network])] if network in lengths else []
    return epochs + START.get(network, []) + preset.get("scratch", {}).get(network, [])


def weights(config):
    """The folder of a table's checkpoints, apart from those that other presets make of the same names."""
    return Path("model_weights") / name(config)


def name(config):
    """The table's name, which is its files' name: prunelora-quick, prunelora-small-cifar10 ..."""
    share = f"-share{config.share:g}" if config.share != 0.1 else ""
    dataset = "" if config.dataset == "fashion-mnist" else "-" + Path(config.dataset).name
    return f"{config.table}-{config.preset}{share}{dataset}"


def carry_out(runs):
    """Run what is missing and return the checkpoints' paths, in order."""
    paths = {}
    for place in thrifty(runs):
        script, arguments = runs[place]
        config = script.parser().parse_args(arguments)
        config.command = shlex.join(["python", f"{script.__name__}.py", *arguments])
        config.reuse = True
        paths[place] = script.run(config)
    return [paths[place] for place in range(len(runs))]


def thrifty(runs):
    """The positions of `runs` in the order to run them: controls after the other methods of their network and seed, for what
    head-only needs is made from what LoRA has kept, but not the other way round."""
    if not any(script is control for script, _ in runs):
        return list(range(len(runs)))
    groups = {}
    for place, (_, arguments) in enumerate(runs):
        key = tuple(arguments[arguments.index(flag) + 1] for flag in ("--model", "--seed"))
        groups.setdefault(key, []).append(place)
    return [place for group in groups.values() for place in sorted(group, key=lambda place: runs[place][0] is control)]


def add_published(rows, dataset):
    """Put the paper's numbers beside rows of the same data set, network and forgotten class."""
    for row in rows:
        key = (row["model"], row["method"], None if row["method"] == "retrain" else row["epochs"])
        if dataset.is_cifar10 and row["forget"] == "class3" and key in PUBLISHED:
            row["published"] = dict(zip(("UA", "RA", "TA", "MIA"), PUBLISHED[key], strict=True))


def prunelora(config):
    """PruneLoRA's table with controls: class forgetting."""
    return plan(config, _chosen(config, PRUNELORA), _class_flags(config))


def random(config):
    """The same methods on a random share of the training images, where accuracy alone doesn't saturate."""
    return plan(config, _chosen(config, PLAIN), ["--forget-random", str(config.share)])


def many(config):
    """Every method with many seeds, for class and for random forgetting, and as many further Retrains to compare with."""
    further = argparse.Namespace(**vars(config) | {"seeds": 2 * config.seeds})
    runs = _both_ways(config, _chosen(config, AUDIT)) + _both_ways(further, ["retrain"])
    return [run for place, run in enumerate(runs) if run not in runs[:place]]


def classes_and_images(config):
    """RFAU and its baselines, forgetting a class and a share of the images, each with its rate in the tuning's result."""
    return _both_ways(config, _chosen(config, RFAU), lambda tag: _tuned(config, tag))


def tune_rfau(config):
    """The trained methods of RFAU's table at each learning rate of RFAU_GRID, scored on a tenth of the training images."""
    config.validation = 0.1
    methods = _chosen(config, [row for row in RFAU if "--shift" not in row and row != "mask"])
    return _both_ways(config, methods, lambda tag: lambda network, method: RFAU_GRID)


def _tuned(config, tag):
    """The rate of a network and method that came closest to Retrain on validation images, forgetting `tag`: a function as
    `plan` wants it. None where the committed result of rfau-tune doesn't have the network or the method."""
    path = TUNED / f"{name(argparse.Namespace(**vars(config) | {'table': 'rfau-tune'}))}.json"
    gaps = {}
    for row in report.read(path)["rows"] if path.exists() else []:
        method, _, rate = row["method"].partition(" --lr ")
        if rate and row["forget"] == tag:
            gaps.setdefault((row["model"], method), {})[rate] = row["metrics"]["gap"]["mean"]

    def rates(network, method):
        found = gaps.get((network, method.partition(" --shift ")[0]))  # a target's ablation has RFAU's rate
        return (min(found, key=found.get) if found else None,)

    return rates


def systems(config):
    """LMEraser over its number of clusters, SISA, and one prompt for all, on a backbone of public images."""
    if len(config.forget_class) > 1:
        raise UserError("lmeraser deletes one class: give --forget-class one number")
    config.request_class = config.forget_class[0]
    runs = []
    for seed in range(config.seeds):
        for network in config.model or config.sizes["model"]:
            common = _handed_on(config, seed)
            backbone = network
            if network not in START:
                backbone = str(weights(config) / f"public_{network}_s{seed}.pth")
                public = ["--forget-random", str(config.sizes["private"]), "--output", backbone]
                runs.append((retrain, ["--model", network, *common, *public, *_scratch(config.sizes, network)]))
            for method in _chosen(config, LMERASER):
                script, flags, *_ = METHODS[method]
                runs.append((script, ["train", "--backbone", backbone, *common, *flags, *config.sizes["flags"]]))
    return runs


def language(config):
    """LLMEraser's three requests at each share, on each of the preset's tasks; config.cells says which run is which."""
    runs, config.cells = [], []
    methods = _chosen(config, LLMERASER)
    where = ["--weights", str(weights(config)), "--data-dir", str(config.data_dir), "--device", config.device]
    where += ["--quiet"] if config.quiet else []
    for base in config.model or config.sizes["model"]:
        for task in config.sizes["tasks"]:
            rows = instructions.load(task, config.data_dir, config.sizes["sizes"])
            for seed, kind, share in product(range(config.seeds), corruptions.KINDS, corruptions.SHARES):
                folder = weights(config) / Path(base).name / Path(task).stem
                wrong, right = corruptions.requests(kind, share, seed, rows, folder)
                adapter = folder / (f"{kind}{share}_s{seed}" if wrong else f"clean_s{seed}")
                sizes = ["--sizes", *map(str, config.sizes["sizes"])]
                tuned = ["finetune", "--base", base, "--task", task, "--seed", str(seed), *sizes, *config.sizes["flags"]]
                tuned += (["--edits", str(wrong)] if wrong else []) + ["--output", str(adapter)]
                for method in methods:
                    asked = [kind, str(adapter), "--request", str(right), *(LLMERASER[method] or ())]
                    asked += ["--output", f"{adapter}_{kind}{share}_{method.replace(' ', '')}"]
                    runs.append((llmeraser, (tuned if method == "corrupted" else asked) + where))
                config.cells.append((seed, task, kind, share, methods))
    return runs


def tune(config):
    """Every trained method at each learning rate of GRID, scored on a tenth of the training images."""
    config.validation = 0.1
    return plan(config, _chosen(config, PLAIN), _class_flags(config), lambda network, method: GRID)


def _chosen(config, methods):
    """Those of the table's `methods` that --methods asks for, with those that they are measured by in any case."""
    wrong = [m for m in config.methods or [] if m not in methods]
    if wrong:
        raise UserError(f"{config.table} has no row {wrong[0]!r}; there are {', '.join(methods)}")
    return [m for m in methods if m in ALWAYS or m in (config.methods or methods)]


def _both_ways(config, methods, rates=None):
    """The runs of `methods` for class and for random forgetting, or what --only says of these; the originals serve both.
    rates: function of the forget set's tag, giving what `plan` wants."""
    runs = []
    for kind, impossible, flags in (
        ("class", ONLY_IMAGES, _class_flags(config)),
        ("images", ONLY_CLASSES, ["--forget-random", str(config.share)]),
    ):
        if config.only not in (None, kind):
            continue
        possible = [method for method in methods if method not in impossible]
        planned = plan(config, possible, flags, *([rates(_tags(config)[kind])] if rates else []))
        runs += [run for run in planned if run not in runs]
    return runs


def _tags(config):
    """The names of the two kinds of forget sets."""
    return {"class": data.tag_of_classes(config.forget_class), "images": data.tag_of_share(config.share)}


def _class_flags(config):
    return ["--forget-class", *map(str, config.forget_class)]


def headline(paths, config):
    """Rows for choosing a learning rate, without what is beneath the head."""
    return evaluate.evaluate(paths, config, beneath=False)


# For each table: its runs, its presets, how many seeds by default, what scores the checkpoints, how many rows from each.
Table = namedtuple("Table", "runs presets seeds score rows", defaults=(1,))
TABLES = {
    "prunelora": Table(prunelora, PRESETS, 3, evaluate.evaluate),
    "random": Table(random, RANDOM_PRESETS, 3, evaluate.evaluate),
    "audit": Table(many, AUDIT_PRESETS, 16, audit.audit),
    "rfau": Table(classes_and_images, RFAU_PRESETS, 3, evaluate.evaluate),
    "lmeraser": Table(systems, LMERASER_PRESETS, 3, deletions.score, 1 + len(deletions.REQUESTS)),
    "llmeraser": Table(language, LLMERASER_PRESETS, 3, corruptions.score),
    "tune": Table(tune, PRESETS, 1, headline),
    "rfau-tune": Table(tune_rfau, RFAU_PRESETS, 1, headline),
}


def refuse_to_lose(stem, config, runs):
    """Raise UserError if results exist that hold more seeds, or more rows of what is asked for, than this would write."""
    path = Path(f"{stem}.json")
    if config.overwrite or not path.exists():
        return
    models = {Path(model).name for model in config.model or config.sizes["model"]}
    rows = [
        row
        for row in report.read(path)["rows"]
        if row["model"].split(",")[0] in models
        and (not config.only or row["forget"] == _tags(config)[config.only])
        and row["method"] != "original"  # one run, but a row for each forget set
    ]
    cells = len(getattr(config, "cells", []))  # each has a row more than runs: the base alone
    written = sum(script is not pretrain for script, _ in runs) + cells
    if (
        len(rows) > written // config.seeds * TABLES[config.table].rows
        or max((row["n"] for row in rows), default=0) > config.seeds
    ):
        raise UserError(f"{path} holds more rows or seeds than this would write: --overwrite, or --results elsewhere")


def run(config):
    if config.table == "draw":
        for path in config.files:
            report.write_all(report.read(path), path.with_suffix(""))
        return
    runs = prepare(config)
    stem = config.results / name(config)
    refuse_to_lose(stem, config, runs)
    paths = carry_out(runs)
    config.weights = weights(config)
    config.forget_class = None  # the checkpoints say themselves what they have forgotten
    rows = TABLES[config.table].score(paths, config)
    if config.table != "llmeraser":
        add_published(rows, cli.load_data(config))
    result = report.joined(evaluate.result(name(config), config.command, rows, config), f"{stem}.json")
    report.write_all(result, stem)
    print(report.terminal(result) + f"written: {stem}.json, .md, .tex, .csv, .png")


def prepare(config):
    """Complete `config` from the table's preset and return the table's runs."""
    table = TABLES[config.table]
    if config.preset not in table.presets:
        raise UserError(f"{config.table} has no preset {config.preset}; there are {', '.join(table.presets)}")
    config.sizes = table.presets[config.preset]
    config.seeds = config.seeds or table.seeds
    config.subset, config.test_subset, config.validation = None, None, 0.0
    if config.table == "llmeraser":  # its data are texts
        return language(config)
    dataset = cli.load_data(config)
    if len(dataset.train) > (config.sizes["subset"] or float("inf")):
        config.subset = config.sizes["subset"]
    if len(dataset.test) > config.sizes.get("test", float("inf")):
        config.test_subset = config.sizes["test"]
    return table.runs(config)


def parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=(*TABLES, "draw"), help="the table to make; draw: from result files")
    parser.add_argument("files", nargs="*", type=Path, help="with draw: the JSON files")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="quick", help="size of the experiment (default: quick)")
    parser.add_argument("--dataset", default="fashion-mnist", help="as for the scripts (default: fashion-mnist)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--img-size", type=cli.positive_int, default=32, help="side of folder: images (default: 32)")
    parser.add_argument("--model", nargs="+", help="networks (default: the preset's)")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=tuple(METHODS | LLMERASER),
        metavar="ROW",
        help=f"of: {', '.join(METHODS | LLMERASER)}",
    )
    parser.add_argument("--forget-class", type=int, nargs="+", default=[3], help="classes to forget (default: 3)")
    parser.add_argument(
        "--share", type=cli.share, default=0.1, help="share of images to forget where images are (default: 0.1)"
    )
    parser.add_argument(
        "--only", choices=("class", "images"), help="of a table that forgets both, one (audit, rfau, rfau-tune)"
    )
    parser.add_argument("--seeds", type=cli.positive_int, help="train with seeds 0 to N-1 (default: 3; audit 16, tunings 1)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of result files (default: results)")
    parser.add_argument("--overwrite", action="store_true", help="replace results that hold more of these networks")
    evaluate.add_scoring_flags(parser)
    return parser


if __name__ == "__main__":
    cli.main(run, parser())
