"""How much of MIA-Efficacy hangs on which samples the attacker was fitted on?

Scores each checkpoint (class forgetting) with the headline attack, an SVC on the true class's confidence, and with logistic
regression on the same feature, for several numbers of samples and draws of them. Writes results/attack_draws.json.

    python -m benchmarks.attack_draws model_weights/prunelora-quick/*_resnet8_class3_retrain10_s?.pth
"""

import argparse
from pathlib import Path

import models
from unlearning.core.files import write_text
from unlearning.core.flags import main, positive_int
from unlearning.core.provenance import device_name, provenance
from unlearning.evaluation import collect, network
from unlearning.metrics import membership, predictions
from unlearning.reports import results
from unlearning.vision.predict import predict


def draws(path, config):
    """MIA-Efficacy of one checkpoint: {attacker: {samples: a value for each draw}}."""
    checkpoint = models.load_checkpoint(path)
    dataset, forget = collect.dataset_of(collect.describe(path, config), config), checkpoint["forget"]
    sets = network.four_sets(dataset, forget)
    model = models.build(checkpoint, path)
    train, test = (
        predictions.confidence(predict(model, split, config), split.labels) for split in (dataset.train, dataset.test)
    )
    groups = train[sets.retain], test[sets.retain_test], train[forget]
    return {
        attacker: {
            str(size): [membership.mia_efficacy(*groups, attacker, seed, size) for seed in range(config.draws)]
            for size in config.sizes
        }
        for attacker in membership.ATTACKERS
    }


def measure_all(config):
    config.device, config.precision = "cpu", "fp32"
    found = {path.name: draws(path, config) for path in config.checkpoints}
    result = {
        **provenance(config.command, device_name("cpu")),
        "efficacy": found,
    }
    write_text("results/attack_draws.json", results.dump(result))
    print(results.dump(found))


def parser():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path, help="checkpoints of this project")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--sizes", nargs="+", type=positive_int, default=[1000, 4000, 10_000], help="samples to fit on")
    parser.add_argument("--draws", type=positive_int, default=5, help="draws of each size (default: 5)")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
