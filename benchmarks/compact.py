"""What --compact saves: the masked network against the same one without its silent channels.

Writes results/benchmarks/compact.json.

Both come from the same run of pruneft.py at --amount 0.5, so they differ by nothing else. Milliseconds are for a batch of
128 images, in turns; MACs count one image. Run it on a quiet machine:

    python -m benchmarks.compact
"""

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from torch.utils.flop_counter import FlopCounterMode

import data
import export
import models
import pretrain
import pruneft
from benchmarks.compare import flags_of, row, run
from unlearning.core.device import memory_format, to_float
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.core.provenance import device_name, provenance
from unlearning.metrics import predictions
from unlearning.reports import results, tables
from unlearning.vision.predict import predict
from unlearning.vision.shared import Shared

ABOUT = "What --compact saves: a masked network against the same one without its silent channels."

ROOT = Path(__file__).parent.parent
BATCH = 128
WAYS = {"masked": [], "compact": ["--compact"]}


def milliseconds(networks: dict[str, Callable], x: torch.Tensor, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of a forward pass over x, in turns: for each of `networks`, functions of x, a list with one a round."""
    spent: dict[str, list[float]] = {name: [] for name in networks}
    for turn in range(rounds + 1):
        for name, network in networks.items():
            started = time.perf_counter()
            network(x)
            if turn:  # the first is a warm-up
                spent[name].append(1000 * (time.perf_counter() - started))
    return spent


def in_torch(model: torch.nn.Module) -> Callable:
    """A function of images that runs `model` as predict does."""
    layout = memory_format(model)
    model.to(memory_format=layout)

    def forward(x):
        with torch.inference_mode():
            return model(x.contiguous(memory_format=layout))

    return forward


def in_onnx(model: torch.nn.Module, x: torch.Tensor) -> Callable:
    """A function of images that runs `model` in onnxruntime, with as many threads as torch has."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(export.export(model, x[:8]), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images.numpy()})


def rows_of(name: str, args: argparse.Namespace, command: str, folder: Path) -> list[dict[str, Any]]:
    """The masked and the compact row of one network."""
    flags, shared = flags_of(args, name, 0, folder), Shared()
    asked = [*flags, "--epochs", str(args.pretrain), "--output", str(folder / f"{name}.pth")]
    original, *_ = run(pretrain, asked, shared)
    dataset = shared.load(data.Source(args.dataset, ROOT / "data", args.images, test_subset=args.test_images))
    seen = dataset.test.take(dataset.test.labels != 3)
    x = to_float(dataset.test.images[:BATCH])
    found: dict[str, dict[str, Any]] = {}
    networks: dict[str, torch.nn.Module] = {}
    for way, more in WAYS.items():
        asked = [*flags, "--original", str(original), "--forget-class", "3", "--epochs", str(args.epochs), *more]
        path, _, compute = run(pruneft, asked, shared)
        model = models.build(models.load_checkpoint(path))
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model(x[:1])
        found[way] = {
            "TA": predictions.accuracy(predict(model, seen, compute), seen.labels),
            "bytes": path.stat().st_size,
            "parameters": sum(p.numel() for p in model.parameters()),
            "macs": counter.get_total_flops() // 2,
        }
        networks[way] = model
    runners = {
        f"{way} onnx_ms": in_onnx(model.to(memory_format=torch.contiguous_format), x) for way, model in networks.items()
    }
    runners |= {f"{way} latency_ms": in_torch(model) for way, model in networks.items()}
    for key, series in milliseconds(runners, x, args.rounds).items():
        way, metric = key.split()
        found[way][metric] = statistics.median(series)
    methods = {"masked": "pruneft", "compact": "pruneft, compact"}
    values = {way: {key: [value] for key, value in found[way].items()} for way in WAYS}
    return [row(name, methods[way], dataset, args, command, values[way]) for way in WAYS]


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    flag = parser.add_argument
    flag("--model", nargs="+", default=["resnet8", "resnet20", "resnet50"], help="networks")
    flag("--dataset", default="fashion-mnist", help="as for the scripts (default: fashion-mnist)")
    flag("--images", type=POSITIVE_INT, default=500, help="training images (default: 500)")
    flag("--test-images", type=POSITIVE_INT, default=500, help="test images (default: 500)")
    flag("--pretrain", type=POSITIVE_INT, default=2, help="epochs of the original (default: 2)")
    flag("--epochs", type=POSITIVE_INT, default=1, help="epochs of unlearning (default: 1)")
    flag("--rounds", type=POSITIVE_INT, default=5, help="turns of each (default: 5)")
    flag(
        "--output",
        type=results.Output("compact"),
        default=str(ROOT / "results" / "benchmarks" / "compact.json"),
        help="JSON file to write",
    )
    parser.set_defaults(device="cpu")
    return parser


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure all networks and write the file."""
    folder = Path(tempfile.mkdtemp())
    try:
        rows = [row for name in args.model for row in rows_of(name, args, command, folder)]
    finally:
        shutil.rmtree(folder)
    result = {"table": "compact", "about": ABOUT, **provenance(command, device_name("cpu")), "rows": rows}
    results.write(args.output, result)
    print(tables.terminal(result))


if __name__ == "__main__":
    main(measure_all, parser())
