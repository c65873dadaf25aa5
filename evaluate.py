"""Score checkpoints: how much is forgotten, how much is kept, and whether anyone can tell.

Each network sees the training and the test images once, without gradients; a linear probe and a relearning curve then ask
what is left beneath the head. README.md and metrics.py define every column. Seeds of one method are put together: mean
and 95 % confidence interval. Original and Retrain of the same network, forget set and seed are scored along when they lie in
--weights: gaps and distances are from that Retrain.
Files of the published LoRA-Unlearn are scored too; they don't say what they forgot, so give --dataset and --forget-class.

    python evaluate.py model_weights/*.pth
"""

import argparse
from pathlib import Path

from unlearning.core.errors import UserError
from unlearning.core.files import write_text
from unlearning.core.flags import main
from unlearning.evaluation import collect
from unlearning.evaluation.flags import add_scoring_flags
from unlearning.reports import figures, tables
from unlearning.vision.flags import add_data_flags, add_forget_flags


def parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="checkpoints of this project or of LoRA-Unlearn")
    parser.add_argument("--weights", type=Path, default=Path("model_weights"), help="folder to look for Retrain in")
    add_data_flags(parser)
    add_forget_flags(parser)
    add_scoring_flags(parser)
    for form in tables.FORMS:
        parser.add_argument(f"--{form}", type=Path, metavar="FILE", help=f"also write the table as {form} to FILE")
    parser.add_argument("--plots", type=Path, metavar="STEM", help="also draw STEM.png, STEM-roc.png ...")
    parser.add_argument("--overwrite", action="store_true", help="replace those files")
    return parser


def run(config):
    texts = {path: form for name, form in tables.FORMS.items() if (path := getattr(config, name))}
    plots = {figures.path(config.plots, name) for name in figures.PICTURES} if config.plots else set()
    for path in (*texts, *plots):
        if path.exists() and not config.overwrite:
            raise UserError(f"{path} exists; --overwrite replaces it")
    table = collect.result("evaluate", config.command, collect.score_files(config.checkpoints, config), config)
    print(tables.terminal(table), end="")
    for path, form in texts.items():
        write_text(path, form(table))
    if config.plots:
        figures.draw(table["rows"], config.plots)


if __name__ == "__main__":
    main(run, parser())
