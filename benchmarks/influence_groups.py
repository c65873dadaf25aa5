"""Does the influence function predict what removing a few rows does to the test loss?

Takes an adapter of llmeraser.py finetune, leaves out groups of its rows, one after another, and sets the change of the
test loss after the one-step removal against the change after training further without the group, until it is at rest. Writes
results/benchmarks/influence_groups.json with both changes, their Pearson and Spearman correlation and the slope.

    python -m benchmarks.influence_groups model_weights/genre_finetune_s0
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

import llmeraser
from unlearning.core.device import Compute
from unlearning.core.flags import NOT_NEGATIVE_FLOAT, POSITIVE_INT, Parser, main
from unlearning.core.paths import folder
from unlearning.core.provenance import device_name, provenance
from unlearning.language import influence
from unlearning.language.rows import read_record
from unlearning.language.session import Place, Workspace, session_of, train_adapter
from unlearning.reports import results

ABOUT = "Whether the influence function predicts what removing a few rows does to the test loss."


def measure(args: argparse.Namespace) -> list[dict[str, float]]:
    """Predicted and actual changes of the mean test loss, a pair for each group."""
    record, how = read_record(args.adapter), llmeraser.How(damping=args.damping)
    place = Place(args.data_dir, args.weights, Compute("cpu", None, args.weights), Workspace())
    pairs = []
    with session_of(record, place, args.adapter) as session:
        # At rest first: the training that comes after a removal would otherwise do what was left undone before it.
        train_adapter(session, record["evaluations"])
        trained = influence.flat(session.parameters).detach().clone()
        test = session.task.encode(session.data.test)

        def test_loss():
            with torch.no_grad():
                return session.task.losses(session.tail, test).mean().item()

        start = test_loss()
        order = torch.randperm(len(session.rows), generator=torch.Generator().manual_seed(0))
        for group in order[: args.groups * args.rows].view(args.groups, args.rows).tolist():
            found = llmeraser.unlearn(session, [session.rows[i] for i in group], [], how)
            predicted = test_loss() - start
            influence.assign(session.parameters, trained)
            without = [None if i in group else row for i, row in enumerate(session.rows)]
            train_adapter(replace(session, rows=without), record["evaluations"])
            pairs.append({"predicted": predicted, "actual": test_loss() - start, "residual": found["residual"]})
            influence.assign(session.parameters, trained)
            print(pairs[-1], flush=True)
    return pairs


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure everything and write the file."""
    from scipy import stats

    pairs = measure(args)
    predicted, actual = ([pair[key] for pair in pairs] for key in ("predicted", "actual"))
    result = {
        "table": "influence_groups",
        "about": ABOUT,
        **provenance(command, device_name("cpu")),
        "pearson": stats.pearsonr(predicted, actual).statistic,
        "spearman": stats.spearmanr(predicted, actual).statistic,
        "slope": stats.linregress(predicted, actual).slope,
        "rows": pairs,
    }
    print({key: result[key] for key in ("pearson", "spearman", "slope")})
    results.write("results/benchmarks/influence_groups.json", result)


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("adapter", type=folder, help="folder of an adapter")
    parser.add_argument("--groups", type=POSITIVE_INT, default=16, help="groups (default: 16)")
    parser.add_argument("--rows", type=POSITIVE_INT, default=8, help="rows of a group (default: 8)")
    parser.add_argument("--damping", type=NOT_NEGATIVE_FLOAT, default=0.001, help="added to H's diagonal (default: 0.001)")
    parser.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
    parser.add_argument("--weights", type=folder, default=Path("model_weights"), help="folder of adapters")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
