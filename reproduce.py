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
from pathlib import Path

from unlearning.core.errors import UserError
from unlearning.core.flags import fraction, main, positive_int
from unlearning.evaluation import collect
from unlearning.evaluation.flags import add_scoring_flags
from unlearning.experiments import audit, llmeraser, lmeraser, plan, prunelora, random_share, rfau, tune
from unlearning.reports import results, tables
from unlearning.vision.flags import load_data

TABLES = {
    "prunelora": plan.Table(prunelora.prunelora, prunelora.PRESETS, 3, collect.score_files),
    "random": plan.Table(random_share.random, random_share.RANDOM_PRESETS, 3, collect.score_files),
    "audit": plan.Table(audit.plan_audit, audit.AUDIT_PRESETS, 16, audit.score),
    "rfau": plan.Table(rfau.plan_rfau, rfau.RFAU_PRESETS, 3, collect.score_files),
    "lmeraser": plan.Table(lmeraser.plan_lmeraser, lmeraser.LMERASER_PRESETS, 3, lmeraser.score, 1 + len(lmeraser.REQUESTS)),
    "llmeraser": plan.Table(llmeraser.plan_llmeraser, llmeraser.LLMERASER_PRESETS, 3, llmeraser.score),
    "tune": plan.Table(tune.tune, prunelora.PRESETS, 1, tune.score_without_probe),
    "rfau-tune": plan.Table(tune.tune_rfau, rfau.RFAU_PRESETS, 1, tune.score_without_probe),
}


def run(config):
    if config.table == "draw":
        for path in config.files:
            tables.write_all(results.read(path), path.with_suffix(""))
        return
    runs = prepare(config)
    stem = config.results / plan.name(config)
    plan.check_nothing_is_lost(stem, config, runs, TABLES[config.table].rows)
    paths = plan.run_all(runs)
    config.weights = plan.weights(config)
    config.forget_class = None  # the checkpoints say themselves what they have forgotten
    rows = TABLES[config.table].score(paths, config)
    if config.table != "llmeraser":
        prunelora.add_published(rows, load_data(config))
    result = results.joined(collect.result(plan.name(config), config.command, rows, config), f"{stem}.json")
    tables.write_all(result, stem)
    print(tables.terminal(result) + f"written: {stem}.json, .md, .tex, .csv, .png")


def prepare(config):
    """Complete `config` from the table's preset and return the table's runs."""
    table = TABLES[config.table]
    if config.preset not in table.presets:
        raise UserError(f"{config.table} has no preset {config.preset}; there are {', '.join(table.presets)}")
    config.sizes = table.presets[config.preset]
    config.seeds = config.seeds or table.seeds
    config.subset, config.test_subset, config.validation = None, None, 0.0
    if config.table == "llmeraser":  # its data are texts
        return llmeraser.plan_llmeraser(config)
    dataset = load_data(config)
    if len(dataset.train) > (config.sizes["subset"] or float("inf")):
        config.subset = config.sizes["subset"]
    if len(dataset.test) > config.sizes.get("test", float("inf")):
        config.test_subset = config.sizes["test"]
    return table.runs(config)


def parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=(*TABLES, "draw"), help="the table to make; draw: from result files")
    parser.add_argument("files", nargs="*", type=Path, help="with draw: the JSON files")
    parser.add_argument(
        "--preset", choices=tuple(prunelora.PRESETS), default="quick", help="size of the experiment (default: quick)"
    )
    parser.add_argument("--dataset", default="fashion-mnist", help="as for the scripts (default: fashion-mnist)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--img-size", type=positive_int, default=32, help="side of folder: images (default: 32)")
    parser.add_argument("--model", nargs="+", help="networks (default: the preset's)")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=tuple(plan.METHODS | llmeraser.LLMERASER),
        metavar="ROW",
        help=f"of: {', '.join(plan.METHODS | llmeraser.LLMERASER)}",
    )
    parser.add_argument("--forget-class", type=int, nargs="+", default=[3], help="classes to forget (default: 3)")
    parser.add_argument(
        "--share", type=fraction, default=0.1, help="share of images to forget where images are (default: 0.1)"
    )
    parser.add_argument(
        "--only", choices=("class", "images"), help="of a table that forgets both, one (audit, rfau, rfau-tune)"
    )
    parser.add_argument("--seeds", type=positive_int, help="train with seeds 0 to N-1 (default: 3; audit 16, tunings 1)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of result files (default: results)")
    parser.add_argument("--overwrite", action="store_true", help="replace results that hold more of these networks")
    add_scoring_flags(parser)
    return parser


if __name__ == "__main__":
    main(run, parser())
