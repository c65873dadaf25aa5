"""How much of MIA-Efficacy hangs on which samples the attacker was fitted on?

Scores each checkpoint (class forgetting) with the default attack, an SVC on the true class's confidence, and with logistic
regression on the same feature: by single draws of several numbers of samples, and, as tables do, by the mean over the
twenty draws of a training seed, for several such seeds. The spread of the means is what averaging leaves. Writes
results/benchmarks/attack_draws.json.

    python -m benchmarks.attack_draws model_weights/prunelora-quick/*_resnet8_class3_retrain10_s?.pth
"""

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import models
from unlearning.core.device import Compute
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.core.paths import folder, input_path
from unlearning.core.provenance import device_name, provenance
from unlearning.evaluation import network
from unlearning.evaluation.entries import dataset_of, describe
from unlearning.evaluation.flags import Scoring
from unlearning.metrics import membership, predictions
from unlearning.reports import results
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared

ABOUT = "How much of MIA-Efficacy hangs on which samples the attacker was fitted on."


def draws(path: Path, args: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """MIA-Efficacy of one checkpoint, for each attacker: `single`, {samples: a value for each draw}, and `means`, that over
    the draws of each of the training seeds from 0 on."""
    checkpoint = models.load_checkpoint(path)
    compute, shared = Compute("cpu", "fp32", path.parent, quiet=True), Shared()
    scoring = Scoring(compute, path.parent, args.data_dir)
    dataset, forget = dataset_of(describe(path, scoring, shared), scoring, shared), checkpoint["forget"]
    sets = network.four_sets(dataset, forget)
    model = models.build(checkpoint, path)
    train, test = (
        predictions.confidence(predict(model, split, compute), split.labels) for split in (dataset.train, dataset.test)
    )
    groups = train[sets.retain], test[sets.retain_test], train[forget]
    found = {}
    for attacker in membership.ATTACKERS:
        attack = partial(membership.mia_efficacy, attacker=attacker)
        found[attacker] = {
            "single": {
                str(size): [attack(*groups, seed=seed, limit=size) for seed in range(args.draws)] for size in args.sizes
            },
            "means": [membership.over_draws(attack, *groups, seed)[0] for seed in range(args.means)],
        }
    return found


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure everything and write the file."""
    found = {path.name: draws(path, args) for path in args.checkpoints}
    result = {
        "table": "attack_draws",
        "about": ABOUT,
        **provenance(command, device_name("cpu")),
        "efficacy": found,
    }
    results.write(args.output, result)
    print(results.dump(found))


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("checkpoints", nargs="+", type=input_path, help="checkpoints of this project")
    parser.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--sizes", nargs="+", type=POSITIVE_INT, default=[2000, 10_000], help="samples of one draw")
    parser.add_argument("--draws", type=POSITIVE_INT, default=20, help="single draws of each size (default: 20)")
    parser.add_argument("--means", type=POSITIVE_INT, default=5, help="means over twenty draws (default: 5)")
    output = "results/benchmarks/attack_draws.json"
    parser.add_argument("--output", type=results.Output("attack_draws"), default=output, help="JSON file to write")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
