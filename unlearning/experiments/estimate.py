"""What a table's runs would take, by rule: of a large language model hours and GPU memory, and what a plan of any runs takes
on many machines. Of image tables image_estimate.py says the first.

An estimate, not a measurement, before anything is computed. A forward pass takes 2 N FLOPs a token, N being the base's
parameters, and a backward pass through frozen weights as many; attention's share, which grows with a row's length, is left
out. Activations of a block in 16 bits take s b h (34 + 5 a s / h) bytes for b rows of s tokens, h wide, with a heads
(Korthikanti et al. 2022).
"""

import heapq
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

SPEED = 2e14  # FLOP/s that are reached: a fifth of what an H100 has for dense matrices in bf16
CHARACTERS = 3  # of a token: TALLRec's rows have 3.0 (films) and 3.7 (books) by SmolLM2's tokenizer
PRODUCTS = 40  # of H with a vector, until conjugate gradients have solved the table's systems
CHOICES, LOOKED_AT = 30, 100  # dampings times lengths; rows of each kind that each of them is judged by
STEPS, OTHERS = 20, 32  # of controls by gradients; other rows of a step
FACTORS = 5  # passes for EK-FAC's factors: drawing labels, and twice a forward and a backward one
PRODUCT = 4  # passes of a product with Gauss-Newton: one forward, three backward
GRAPHS = 2  # times over that such a product keeps all blocks' activations: measured as 2.1
ADAM = 4  # numbers kept of each one that is trained: itself, its gradient, Adam's two
RULE = (
    f"2 N FLOPs a token and pass at {SPEED:.0e} FLOP/s, {PRODUCTS} products, {CHARACTERS} characters a token"
    " (unlearning/experiments/estimate.py)"
)


class Size(NamedTuple):
    """A language model. layers: inputs and outputs of a block's linear layers, by name."""

    parameters: int
    blocks: int
    width: int
    heads: int
    vocabulary: int
    layers: Mapping[str, tuple[int, int]]

    def squares(self, targets: Sequence[str], rank: int) -> int:
        """Numbers of the covariances of inputs and outputs of both matrices of each adapted layer."""
        both = sum(into**2 + out**2 for into, out in (self.layers[name] for name in targets))
        return self.blocks * (both + 2 * len(targets) * rank**2)

    def adapted(self, targets: Sequence[str], rank: int) -> int:
        """Numbers of LoRA on these layers of each block."""
        return self.blocks * rank * sum(sum(self.layers[name]) for name in targets)


class Work(NamedTuple):
    """A run. passes: rows that it passes through the model, forwards and backwards; batch: tokens of a batch; graphs: how
    many times over it keeps the activations of all blocks, 0 for what checkpointing keeps; beside: other numbers in fp32."""

    passes: float
    batch: int
    graphs: int = 0
    beside: int = 0


class How(NamedTuple):
    """How adapters are trained and asked. step: rows of a training's batch; most: tokens of any other's; shards: of SISA;
    mini: rows that the stochastic solver takes in all of its steps; adapted, squares: as of Size."""

    epochs: int
    step: int
    most: int
    shards: int
    mini: int
    adapted: int
    squares: int


class Rows(NamedTuple):
    """How many rows there are to train on, to ask about, to choose by and to test on; answers: that a test row is compared
    with; tokens of each, mean."""

    train: int
    asked: int
    unseen: int
    test: int
    answers: int
    tokens: float


SIZES = {  # of bases whose plans say what they take
    "meta-llama/Llama-2-7b-hf": Size(6_738_415_616, 32, 4096, 32, 32_000, {"q_proj": (4096, 4096), "v_proj": (4096, 4096)}),
}


def cost(size: Size, work: Work, tokens: float, adapted: int, answered: int, speed: float = SPEED) -> tuple[float, float]:
    """(hours, GiB) of a run with a base in bf16 and adapters in fp32.

    tokens: of a row. adapted: numbers that are trained. answered: tokens of a batch with logits, which are kept three times.
    """
    hours = 2 * size.parameters * tokens * work.passes / speed / 3600
    block = work.batch * size.width * (34 + 5 * size.heads * tokens / size.width)
    given = 2 * work.batch * size.width * size.blocks
    activations = work.graphs * size.blocks * block if work.graphs else block + given
    numbers = 4 * (ADAM * adapted + work.beside)
    return hours, (2 * size.parameters + numbers + activations + 3 * 4 * answered * size.vocabulary) / 2**30


def works(rows: Rows, how: How) -> dict[str, Work]:
    """The runs of LLMEraser's table on one task, by method, with checkpointing and AdamW; "scoring" is of one adapter."""
    slope, most = 3, how.most  # passes of a gradient: forward, again, backward
    training = how.epochs * slope * rows.train
    small = min(most, round(how.step * rows.tokens))
    said = 2 * (rows.asked + rows.unseen)  # losses before and after a request
    looks = CHOICES * (min(rows.asked, LOOKED_AT) + min(rows.unseen, LOOKED_AT))
    begun = said + slope * (rows.asked + rows.train) + looks  # the right side, how far from rest, and the choice
    steps = said + STEPS * (slope * rows.asked + 2 * LOOKED_AT)
    beside = STEPS * slope * OTHERS
    return {
        "corrupted": Work(training, small),
        "retrain": Work(said + training, small),
        "llmeraser": Work(begun + PRODUCT * PRODUCTS * rows.train, most, GRAPHS, PRODUCTS * how.adapted),
        "llmeraser --solver adam": Work(begun + PRODUCT * (how.mini + rows.train), most, GRAPHS),
        "llmeraser --solver ekfac": Work(begun + FACTORS * rows.train, most, 1, 2 * how.squares),
        "gradascent": Work(steps, most),
        "graddiff": Work(steps + beside, most),
        "npo": Work(steps + beside, most),
        "finetune": Work(said + slope * rows.train, small),
        "sisa": Work(training / how.shards, small),
        "noadapter": Work(said, most),
        "scoring": Work(rows.test * (3 + rows.answers) + 2 * rows.asked, most),
    }


def in_lines(found: Mapping[str, Sequence[tuple[float, float]]], rule: str) -> list[str]:
    """(hours, GiB) of runs by kind as lines of a shell's comments, with their rule."""
    total = sum(hours for some in found.values() for hours, _ in some)
    lines = [f"about {total:,.0f} hours of one GPU, an estimate, not measured: {rule}"]
    width = max(map(len, found))
    lines.append(f"{'kind':{width}}  runs  hours each  GiB of GPU memory")
    for kind, some in found.items():
        hours, memory = sum(hours for hours, _ in some) / len(some), max(gib for _, gib in some)
        lines.append(f"{kind:{width}}  {len(some):4}  {hours:10.2f}  {math.ceil(memory):17}")
    return [f"# {line}" for line in lines]


def passes(arguments: Sequence[str]) -> int:
    """How often a run on images passes over them: its --epochs, or once where it names none."""
    return int(arguments[arguments.index("--epochs") + 1]) if "--epochs" in arguments else 1


def makespan(seconds: Sequence[float], needed: Sequence[set[int]], order: Sequence[int], at_once: int) -> float:
    """When the last of some runs ends, of which so many can go on at once. Each is given, in `order`, to the machine that is
    free first, and begins there when all that it needs are done. needed: positions, as of stages.dependencies, which come
    before it in `order`."""
    free, ended = [0.0] * at_once, [0.0] * len(seconds)
    for place in order:
        begun = max([heapq.heappop(free), *(ended[other] for other in needed[place])])
        ended[place] = begun + seconds[place]
        heapq.heappush(free, ended[place])
    return max(ended)
