"""Which way trains many small networks fastest: one after another, in two processes, or together under vmap?

The audit needs hundreds of resnet8. All three ways train the same 16 networks from the same seeds on the same batches of
real images, plain SGD, fp32; what vmap and one-after-another end with is compared, so that the race is a fair one. Writes
results/benchmarks/many_models.json: images x networks a second of each way, over --rounds rounds in turn, and the ratios.

    python -m benchmarks.many_models
"""

import argparse
import concurrent.futures
import multiprocessing
import time
from collections.abc import Sequence

import torch
from torch import nn

import data
import models
from unlearning.core.device import to_float
from unlearning.core.flags import POSITIVE_INT, Parser, main
from unlearning.core.provenance import device_name, provenance
from unlearning.reports import results

ABOUT = "Which way trains many small networks fastest: one by one, in two processes, or under vmap."

COUNT, STEPS, BATCH, LR = 16, 2, 128, 0.05


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The same STEPS batches for every network."""
    train = data.load("fashion-mnist", subset=1000).train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[: STEPS * BATCH].split(BATCH)
    return [(to_float(train.images[index]), train.labels[index]) for index in order[:STEPS]]


def fresh(seed: int) -> nn.Module:
    """A fresh resnet8 in training mode."""
    torch.manual_seed(seed)
    return models.create_for("resnet8", data.load("fashion-mnist", subset=1000))[0].train()


def one_by_one(seeds: Sequence[int]) -> tuple[float, list[dict[str, torch.Tensor]]]:
    """Seconds, and the trained states."""
    networks, seen = [fresh(seed).to(memory_format=torch.channels_last) for seed in seeds], batches()
    started = time.perf_counter()
    for network in networks:
        for x, y in seen:
            network.zero_grad()
            nn.functional.cross_entropy(network(x.contiguous(memory_format=torch.channels_last)), y).backward()
            with torch.no_grad():
                for parameter in network.parameters():
                    parameter -= LR * parameter.grad
    return time.perf_counter() - started, [network.state_dict() for network in networks]


def in_one_thread(seeds: Sequence[int]) -> float:
    """Seconds of `one_by_one` as half of a pair of processes."""
    torch.set_num_threads(1)
    return one_by_one(seeds)[0]


def together(seeds: Sequence[int]) -> tuple[float, list[dict[str, torch.Tensor]]]:
    """Seconds, and the trained states, as one stacked network under vmap."""
    networks, seen = [fresh(seed) for seed in seeds], batches()
    parameters, buffers = torch.func.stack_module_state(networks)
    base = fresh(0).to("meta")

    def loss(parameters, buffers, x, y):
        return nn.functional.cross_entropy(torch.func.functional_call(base, (parameters, buffers), (x,)), y)

    step = torch.vmap(torch.func.grad(loss), in_dims=(0, 0, None, None))
    started = time.perf_counter()
    for x, y in seen:
        gradients = step(parameters, buffers, x, y)
        with torch.no_grad():
            parameters = {name: value - LR * gradients[name] for name, value in parameters.items()}
    spent = time.perf_counter() - started
    return spent, [{name: value[i] for name, value in parameters.items()} for i in range(len(seeds))]


def measure_all(args: argparse.Namespace, command: str) -> None:
    """Measure everything and write the file."""
    seeds, images = range(COUNT), COUNT * STEPS * BATCH
    found = {"one by one, 2 threads": [], "two processes, 1 thread each": [], "vmap": []}
    torch.set_num_threads(2)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=spawn) as pool:
        halves = ([*seeds][: COUNT // 2], [*seeds][COUNT // 2 :])
        list(pool.map(in_one_thread, halves))  # imports and warm-up
        one_by_one([0])
        together([0, 1])
        for _ in range(args.rounds):
            spent, alone = one_by_one(seeds)
            found["one by one, 2 threads"].append(images / spent)
            found["two processes, 1 thread each"].append(images / max(pool.map(in_one_thread, halves)))
            spent, stacked = together(seeds)
            found["vmap"].append(images / spent)
    apart = max((a[name] - b[name]).abs().max().item() for a, b in zip(alone, stacked, strict=True) for name in b)
    base = found["one by one, 2 threads"]
    result = {
        "table": "many_models",
        "about": ABOUT,
        **provenance(command, device_name("cpu")),
        "what": f"{COUNT} resnet8, {STEPS} steps of {BATCH} images of Fashion-MNIST, fp32",
        "images_per_second": found,
        "ratio": {way: [a / b for a, b in zip(rates, base, strict=True)] for way, rates in found.items()},
        "largest_difference_of_weights": apart,
    }
    results.write(args.output, result)
    print(results.dump(result))


def parser() -> Parser:
    """The command line."""
    parser = Parser(__doc__)
    parser.add_argument("--rounds", type=POSITIVE_INT, default=3, help="rounds, the ways in turn (default: 3)")
    output = "results/benchmarks/many_models.json"
    parser.add_argument("--output", type=results.Output("many_models"), default=output, help="JSON file to write")
    return parser


if __name__ == "__main__":
    main(measure_all, parser())
