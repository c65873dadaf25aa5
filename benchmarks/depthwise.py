"""Which layers of a network with depthwise convolutions can PruneLoRA silence, and still recover?

EfficientNet-Lite0's blocks widen the channels by a 1x1 convolution (the expansion), filter each channel alone (the depthwise
one), and narrow them again (the projection). Half of the filters of some of these layers are silenced, then LoRA learns, as
`loraprune.py` does with --prune-targets, on the images and originals of `reproduce.py rfau`. A row for each try, also of
those that fail. Writes results/benchmarks/depthwise.json.

    python -m benchmarks.depthwise
"""

import argparse
from pathlib import Path
from typing import Any

import lora
import loraprune
import pretrain
import retrain
from models import EFFICIENTNET
from unlearning.core.device import Compute
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.core.paths import folder
from unlearning.core.provenance import device_name, provenance
from unlearning.evaluation.collect import score_files
from unlearning.evaluation.flags import Scoring
from unlearning.experiments import rfau
from unlearning.experiments.plan import START
from unlearning.experiments.plan import command as typed
from unlearning.reports import results
from unlearning.vision.shared import Shared

ABOUT = "Which layers of a network with depthwise convolutions PruneLoRA can silence, and still recover."
QUICK = rfau.PRESETS["quick"]
IMAGES = ("--dataset", "fashion-mnist", "--subset", str(QUICK["subset"]), "--test-subset", str(QUICK["test"]), "--quiet")
NETWORK = (
    "--model",
    EFFICIENTNET,
    "--epochs",
    str(QUICK["pretrain"][EFFICIENTNET]),
    *START[EFFICIENTNET],
    *QUICK["scratch"][EFFICIENTNET],
)
STEM, EXPANSIONS, DEPTHWISE, HEAD = "conv_stem", "blocks.[1-6].*.conv_pw", "*conv_dw", "conv_head"
PROJECTIONS = ("*conv_pwl", "blocks.0.0.conv_pw")  # the first block has no expansion
EVERY = (STEM, EXPANSIONS, DEPTHWISE, *PROJECTIONS, HEAD)
TRIES: dict[str, tuple[str, ...]] = {
    "every convolution": EVERY,
    "all but depthwise": (STEM, EXPANSIONS, *PROJECTIONS, HEAD),
    "expansions and projections": (EXPANSIONS, *PROJECTIONS),
    "expansions": (EXPANSIONS,),
    "depthwise": (DEPTHWISE,),
    "projections": PROJECTIONS,
    "projections and last 1x1": (*PROJECTIONS, HEAD),
    "stem": (STEM,),
}
LONG = {"every convolution", "expansions and projections", "projections"}  # tried with more epochs too
EPOCHS, MORE = 5, 20


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for Original, Retrain, LoRA without pruning, and each try."""
    paths, tries = [], {}
    place = ["--weights", str(args.weights), "--data-dir", str(args.data_dir), "--device", args.device]

    def run(script: Any, words: list[str], name: str, layers: tuple[str, ...] = ()) -> Path:
        words = [*words, *(["--prune-targets", *layers] if layers else [])]
        made = typed(script.__name__, words)
        tries[made] = {"try": name, "layers": " ".join(layers)}
        paths.append(script.run(script.parser().parse_args(words), made))
        return paths[-1]

    for seed in range(args.seeds):
        common = [*IMAGES, *place, "--seed", str(seed)]
        forget = [*common, "--forget-class", "3"]
        original = run(pretrain, [*common, *NETWORK], "original")
        run(retrain, [*forget, *NETWORK], "retrain")
        forget += ["--original", str(original)]
        run(lora, [*forget, "--epochs", str(EPOCHS)], "LoRA alone")
        for name, layers in TRIES.items():
            for epochs in (EPOCHS, MORE) if name in LONG else (EPOCHS,):
                run(loraprune, [*forget, "--epochs", str(epochs)], name, layers)
    scoring = Scoring(Compute(args.device, None, args.weights, quiet=True), args.weights, args.data_dir)
    rows = []
    for row in score_files(paths, scoring, Shared()):
        found = {key: row["metrics"].get(key) for key in ("UA", "RA", "TA", "MIA", "gap", "probe", "seconds")}
        rows.append(tries[row["command"]] | {"epochs": row["epochs"], "n": row["n"], **found, "command": row["command"]})
    return rows


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Train, score and write the file."""
    rows = measure(args)
    about = {"table": "depthwise", "about": ABOUT, **provenance(command, device_name(args.device))}
    results.write(args.output, about | {"rows": rows})


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--seeds", type=POSITIVE_INT, default=3, help="seeds 0 to N-1 (default: 3)")
    parser.add_argument("--weights", type=folder, default=Path("model_weights/depthwise"), help="folder of checkpoints")
    parser.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda ... (default: cpu)")
    output = Path("results/benchmarks/depthwise.json")
    parser.add_argument("--output", type=results.Output("depthwise"), default=str(output), help="JSON file to write")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
