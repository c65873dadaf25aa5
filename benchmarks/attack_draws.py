"""How much of MIA-Efficacy hangs on which samples the attacker was fitted on?

Scores each checkpoint (class forgetting) with the headline attack, an SVC on the true class's confidence, and with logistic
regression on the same feature, for several numbers of samples and draws of them. Writes results/attack_draws.json.

    python benchmarks/attack_draws.py model_weights/prunelora-quick/*_resnet8_class3_retrain10_s?.pth
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cli
import evaluate
import metrics
import models
import report
import scoring
import training


def draws(path, config):
    """MIA-Efficacy of one checkpoint: {attacker: {samples: a value for each draw}}."""
    checkpoint = models.load_checkpoint(path)
    dataset, forget = evaluate.dataset_of(evaluate.describe(path, config), config), checkpoint["forget"]
    sets = scoring.four_sets(dataset, forget)
    model = models.build(checkpoint, path)
    train, test = (
        metrics.confidence(training.predict(model, split, config), split.labels) for split in (dataset.train, dataset.test)
    )
    groups = train[sets.retain], test[sets.retain_test], train[forget]
    return {
        attacker: {
            str(size): [metrics.mia_efficacy(*groups, attacker, seed, size) for seed in range(config.draws)]
            for size in config.sizes
        }
        for attacker in metrics.ATTACKERS
    }


def main(config):
    config.device, config.precision = "cpu", "fp32"
    found = {path.name: draws(path, config) for path in config.checkpoints}
    result = {
        **cli.provenance(config.command, cli.device_name("cpu")),
        "efficacy": found,
    }
    report.write("results/attack_draws.json", report.dump(result))
    print(report.dump(found))


def parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="checkpoints of this project")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--sizes", nargs="+", type=cli.positive_int, default=[1000, 4000, 10_000], help="samples to fit on")
    parser.add_argument("--draws", type=cli.positive_int, default=5, help="draws of each size (default: 5)")
    return parser


if __name__ == "__main__":
    cli.main(main, parser())
