"""The published way against this project's, side by side: seconds and accuracies of unlearning with evaluation.

Both start from the same original and take turns, on the same images, for as many epochs, with the same settings. A round
begins with nothing kept, so its first LoRA pays for the frozen part, and the next methods find it. The floor is a bare loop:
forward, backward and step of the same network on one batch that stays in place. Memory is the peak of an epoch with its
scoring, above what the process held before, each in a process of its own. Run it on a quiet machine; several networks go
into one file, results/speed.json, one after the other:

    python -m benchmarks.compare --model vit_micro --images 4000
    python -m benchmarks.compare --model vit_small --dataset folder:data/cifar10-jpeg --images 1000 --methods lora loraprune
"""

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

import data
import finetune
import lora
import loraprune
import models
import pretrain
import pruneft
from benchmarks import published_way
from benchmarks.throughput import bare_loop
from unlearning.core.device import peak_memory_mib, reset_peak_memory, resolve_device
from unlearning.core.provenance import device_name, provenance
from unlearning.metrics import predictions, statistics
from unlearning.reports import results, tables
from unlearning.vision import adapters, feature_cache
from unlearning.vision.flags import load_data
from unlearning.vision.predict import predict

ROOT = Path(__file__).parent.parent
SCRIPTS = {"finetune": finetune, "pruneft": pruneft, "lora": lora, "loraprune": loraprune}
TOGETHER = "all of them"
WAYS = {"published": 1, "here": 0}  # and their places in a turn


def flags_of(config, model, seed, folder):
    """The flags that say on what all scripts work."""
    sizes = ["--subset", str(config.images), "--test-subset", str(config.test_images)]
    place = ["--data-dir", str(ROOT / "data"), "--weights", str(folder), "--device", config.device, "--quiet"]
    return ["--dataset", config.dataset, "--model", model, "--seed", str(seed), *sizes, *place]


def run(script, arguments):
    """A script's own run: its configuration, complete, and the checkpoint's path."""
    config = script.parser().parse_args(arguments)
    config.command = f"python {script.__name__}.py"
    return config, script.run(config)


def ours(method, flags, dataset, forget, epochs):
    """Unlearn with the script and score its checkpoint: (seconds, accuracies, seconds of unlearning, configuration)."""
    started = time.perf_counter()
    pruned = ["--regrow"] if "prune" in method else []  # as published
    config, path = run(SCRIPTS[method], [*flags, "--forget-class", "3", "--epochs", str(epochs), *pruned])
    unlearned = time.perf_counter()  # a checkpoint is written, so a GPU has finished too
    model = models.build(models.load_checkpoint(path))
    train, test = (predict(model, split, config) for split in (dataset.train, dataset.test))
    kept, seen = data.retain_indices(len(train), forget), dataset.test.labels != 3
    accuracies = [
        predictions.accuracy(train[forget], dataset.train.labels[forget]),
        predictions.accuracy(train[kept], dataset.train.labels[kept]),
        predictions.accuracy(test[seen], dataset.test.labels[seen]),
    ]
    ended = time.perf_counter()
    return ended - started, accuracies, unlearned - started, config


def theirs(method, original, dataset, forget, epochs, config):
    """The same in the published way: (seconds, accuracies). config: that of our run, for its settings."""
    model = models.build(models.load_checkpoint(original)).to(config.device)
    started = time.perf_counter()
    retain = dataset.train.take(data.retain_indices(len(dataset.train), forget))
    rank, alpha = getattr(config, "rank", 0), getattr(config, "alpha", 0)
    torch.manual_seed(config.seed)
    model = published_way.unlearn(model, method, retain, epochs, config.lr, rank, alpha)
    test = dataset.test.take(dataset.test.labels != 3)
    accuracies = published_way.evaluate(model, dataset.train.take(forget), retain, test)
    return time.perf_counter() - started, accuracies


def floor(method, original, dataset, config):
    """Seconds an image of forward, backward and step on one resident batch."""
    model = models.build(models.load_checkpoint(original))
    if "lora" in method:
        model = adapters.attach(model, adapters.last_and_head(model), config.rank, config.alpha, config.dropout)
    for steps in (1, 4):  # the first is a warm-up
        rate = bare_loop(model, dataset.train, config.precision, torch.device(config.device), steps)
    return 1 / rate


def memory(way, method, flags, original, config):
    """Peak MiB of an epoch and its scoring above Python, its libraries and the images. Call it in a new process.

    config: that of our run, for its settings. The published way's workers are not counted.
    """
    dataset = load_data(config)
    forget, _ = data.forget_indices(dataset.train, [3])
    device = torch.device(config.device)
    reset_peak_memory(device)
    before = peak_memory_mib(device)
    if way == "here":
        ours(method, [*flags, "--overwrite"], dataset, forget, 1)
    else:
        theirs(method, original, dataset, forget, 1, config)
    return peak_memory_mib(device) - before


def compare(name, config, folder):
    """The rows of one network."""
    found, peaks = {method: [] for method in config.methods}, {}
    if torch.device(config.device).type == "cpu":
        fresh = multiprocessing.get_context("forkserver")  # processes that have imported, and nothing else
        fresh.set_forkserver_preload(["torch_pruning", "timm", "peft", "onnxruntime", "sklearn.svm", "matplotlib.pyplot"])
    else:
        fresh = multiprocessing.get_context("spawn")  # what has touched a GPU can't be forked
    for seed in range(config.rounds):
        flags = flags_of(config, name, seed, folder)
        settings, original = run(pretrain, [*flags, "--epochs", str(config.pretrain)])
        dataset = load_data(settings)
        forget, _ = data.forget_indices(dataset.train, [3])
        feature_cache.clear()
        for method in config.methods:
            mine = ours(method, flags, dataset, forget, config.epochs)
            other = theirs(method, original, dataset, forget, config.epochs, mine[-1])
            images = config.epochs * (len(dataset.train) - len(forget))
            bare = 100 * floor(method, original, dataset, mine[-1]) * images / mine[2]
            found[method].append((mine, other, bare))
            for way in WAYS if not seed else ():
                with ProcessPoolExecutor(1, fresh) as process:
                    peaks[method, way] = process.submit(memory, way, method, flags, original, mine[-1]).result()
            print(
                f"{name} {method} seed {seed}: published {other[0]:.1f} s, here {mine[0]:.1f} s,"
                f" {other[0] / mine[0]:.2f} times; TA {other[1][2]:.1f} and {mine[1][2]:.1f}; {bare:.0f} % of the bare loop",
                flush=True,
            )
    rows = [row_of(name, method, turns, peaks, config, dataset) for method, turns in found.items()]
    if len(rows) > 1:
        ratios = [
            sum(turns[seed][1][0] for turns in found.values()) / sum(turns[seed][0][0] for turns in found.values())
            for seed in range(config.rounds)
        ]
        rows.append(rows[0] | {"method": TOGETHER, "metrics": {"ratio": statistics.over_seeds(ratios)}})
    return rows


def row_of(name, method, turns, peaks, config, dataset):
    """The row of a method's turns, and of its peaks of memory."""
    values = {
        "ratio": [other[0] / mine[0] for mine, other, _ in turns],
        "of_bare_loop": [bare for *_, bare in turns],
    }
    for way, place in WAYS.items():
        values[f"{way}_mib"] = [peaks[method, way]]
        values[f"{way}_seconds"] = [turn[place][0] for turn in turns]
        for i, key in enumerate(("UA", "RA", "TA")):
            accuracies = [turn[place][1][i] for turn in turns]
            values[f"{way}_{key}"] = [100 - a for a in accuracies] if key == "UA" else accuracies
    return row(name, method, dataset, config, values, f", {turns[0][0][-1].precision}")


def row(name, method, dataset, config, values, how=""):
    """A row in the form of report.py. values: for each metric a list with one for each seed; how: more of the device."""
    return {
        "dataset": dataset.tag,
        "model": name,
        "forget": "class3",
        "method": method,
        "epochs": config.epochs,
        "n": len(next(iter(values.values()))),
        "command": config.command,
        "device": device_name(config.device) + how,
        "metrics": {key: statistics.over_seeds(series) for key, series in values.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_micro", help="network (default: vit_micro)")
    parser.add_argument("--dataset", default="fashion-mnist", help="as for the scripts (default: fashion-mnist)")
    parser.add_argument("--methods", nargs="+", choices=tuple(SCRIPTS), default=list(SCRIPTS), help="(default: all)")
    parser.add_argument("--images", type=int, default=2000, help="training images (default: 2000)")
    parser.add_argument("--test-images", type=int, default=400, help="test images (default: 400)")
    parser.add_argument("--pretrain", type=int, default=2, help="epochs of the original (default: 2)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of unlearning (default: 5)")
    parser.add_argument("--rounds", type=int, default=3, help="seeds, a round each (default: 3)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "speed", help="STEM of the files to write")
    config = parser.parse_args()
    config.device = resolve_device(config.device)
    config.command = " ".join(["python", "-m", "benchmarks.compare", *sys.argv[1:]])
    folder = Path(tempfile.mkdtemp())
    try:
        rows = compare(config.model, config, folder)
    finally:
        shutil.rmtree(folder)
    result = {"table": "speed", **provenance(config.command, device_name(config.device)), "rows": rows}
    result = results.joined(result, f"{config.output}.json")
    tables.write_all(result, config.output)
    print(tables.terminal(result))


if __name__ == "__main__":
    main()
