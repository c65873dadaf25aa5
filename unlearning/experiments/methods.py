"""METHODS, the rows of reproduce.py's tables of images. A new method is one new file and one line here."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unlearning.reports.columns import paper_of

# The tables that forget images, and what each forgets: a class, a random share of the images, or one after the other.
FORGETS = {
    "prunelora": ("class",),
    "random": ("images",),
    "audit": ("class", "images"),
    "rfau": ("class", "images"),
    "tune": ("class", "images"),
    "sequence": ("class",),
}
OF_IMAGES = ("prunelora", "random", "audit", "rfau", "tune")  # where images may be named: --forget-file
ADDED = ("prunelora", "random", "rfau")  # tables that rows can be added to
TUNED = tuple(table for table in FORGETS if table != "tune")  # tables that run their rows as a tuning has chosen
# Tables that a line names where it isn't in all of these.
OF_PRUNELORA = ("prunelora", "random", "audit", "tune", "sequence")
FROM_ORIGINALS = ("prunelora", "random", "rfau", "tune", "sequence")  # tables that start from any
OF_RFAU = ("rfau", "tune")
OF_PAPERS = ("rfau", "prunelora", "random", "tune")
ONE = "one-prompt"  # the system of one part: no clusters
ALWAYS = ("original", "corrupted", "retrain", ONE)  # rows that others are measured by
BUDGET = 8  # points of every grid, whatever the method
EIGHT = "--lr 0.00001 0.00003 0.0001 0.0003 0.001 0.003 0.01 0.03"
LOW = "--lr 0.0000001 0.0000003 0.000001 0.000003 0.00001 0.00003 0.0001 0.0003"  # what climbs the loss on D_f alone
LORA = "--lr 0.0003 0.001 0.003 0.01"
AMOUNTS = "--amount 0.25 0.5"
CLIMB = "--lr 0.000001 0.000003 0.00001 0.00003 0.0001 0.0003 0.001 0.003"  # the same, by LoRA
RANKS = "--rank 8 16"


@dataclass(frozen=True)
class Method:
    """How a row's checkpoints are made.

    script: the module's name: "lora", "baselines.control". flags: those of its own. epochs: its numbers of epochs where they
    aren't the preset's; None among them: the script's own. usual: the only one of them outside of rfau's table and in a
    tuning (None: in a tuning the first of them). tables: those that it is a row of; None: all in FORGETS. forgets: "class"
    or "images" where it can't do the other. grid: where it is a row of tune, learning rates and the values of one flag of
    its own; BUDGET points, the script's defaults among them.
    """

    script: str
    flags: tuple[str, ...] = ()
    epochs: tuple[int | None, ...] | None = None
    usual: int | None = None
    tables: tuple[str, ...] | None = None
    forgets: str | None = None
    grid: str = EIGHT

    @property
    def axes(self) -> dict[str, list[str]]:
        """The values of each flag that its grid varies: {"--lr": ["0.001", ...], "--rank": ["8", "16"]}."""
        parts = [part.split() for part in f" {self.grid}".split(" --")[1:]]
        return {f"--{flag}": values for flag, *values in parts}

    @property
    def knobs(self) -> list[str]:
        """The flags that its grid varies."""
        return list(self.axes)

    @property
    def points(self) -> list[tuple[str, ...]]:
        """The flags of each point of its grid: ("--lr", "0.001", "--rank", "8") ..."""
        pairs = itertools.product(*([(flag, value) for value in values] for flag, values in self.axes.items()))
        return [tuple(itertools.chain(*point)) for point in pairs]

    def fits(self, table: str) -> bool:
        """True if it is a row of this table."""
        return table in (self.tables or FORGETS) and self.forgets in (None, *FORGETS.get(table, ()))


_SYSTEMS = ("lmeraser",)
_CLOSED = "--start public --head ridge"
METHODS = {
    "original": Method("pretrain"),
    "retrain": Method("retrain"),
    "mask": Method("baselines.control", ("--kind", "mask"), (None,), tables=("prunelora", "audit", "rfau"), forgets="class"),
    "zero-row": Method("baselines.control", ("--kind", "zero-row"), (None,), tables=("prunelora",), forgets="class"),
    "head-only": Method(
        "baselines.control", ("--kind", "head-only"), grid="--lr 0.0001 0.0003 0.001 0.003 0.01 0.03 0.1 0.3"
    ),
    "finetune": Method("finetune"),
    "pruneft": Method("pruneft", tables=OF_PRUNELORA, grid=f"{LORA} {AMOUNTS}"),
    "lora": Method("lora", tables=OF_PRUNELORA, grid=f"{LORA} {RANKS}"),
    "loraprune": Method("loraprune", grid=f"{LORA} {AMOUNTS}"),
    "loraprune --regrow": Method("loraprune", ("--regrow",), tables=("prunelora",)),
    "loraprune --prune-head": Method("loraprune", ("--prune-head",), tables=("prunelora",)),
    "gradascent": Method("baselines.gradascent", (), (1,), tables=OF_RFAU, grid=LOW),
    "gradascent --retain-weight 0.9": Method(
        "baselines.gradascent", ("--retain-weight", "0.9"), (1,), tables=OF_PAPERS, grid=LOW
    ),
    "randomlabel": Method("baselines.randomlabel", tables=OF_RFAU),
    "randomlabel --saliency 0.5": Method("baselines.randomlabel", ("--saliency", "0.5"), tables=OF_PAPERS),
    "badteacher": Method(
        "baselines.badteacher", tables=OF_RFAU, grid="--lr 0.00003 0.0001 0.0003 0.001 --retain-share 0.3 0.9"
    ),
    "rfau": Method(
        "rfau", (), (1, 2, 5, 20), 5, tables=OF_PAPERS, grid="--lr 0.0001 0.0003 0.001 0.003 --forget-weight 0.3 1"
    ),
    "rfau --shift unseen": Method("rfau", ("--shift", "unseen"), (1, 20), tables=("rfau",), forgets="images"),
    "rfau --shift mean": Method("rfau", ("--shift", "mean"), (1,), tables=("rfau",)),
    "rfau --shift head": Method("rfau", ("--shift", "head"), (1,), tables=("rfau",)),
    # Baselines and controls of other papers. What isn't trained has no learning rate, and no number of epochs.
    "bias": Method("baselines.control", ("--kind", "bias"), (None,), tables=("prunelora", "audit", "rfau"), forgets="class"),
    "scrub": Method("baselines.scrub", grid="--lr 0.0001 0.0005 0.001 0.003 --msteps 1 3"),
    "ssd": Method("baselines.ssd", (), (None,), grid="--alpha 1 3 5 10 30 100 300 1000"),
    "l1sparse": Method("baselines.l1sparse", grid="--lr 0.001 0.003 0.01 0.03 --gamma 0.0005 0.005"),
    "negate": Method("baselines.negate"),
    "randomlabel --saliency 0.5 --random-mask": Method(
        "baselines.randomlabel", ("--saliency", "0.5", "--random-mask"), tables=("rfau", "prunelora", "random")
    ),
    # Losses on D_f that others have published: alone, by LoRA, and beside PruneLoRA.
    "delete": Method("baselines.delete", (), (20,), grid="--lr 0.000003 0.00001 0.00005 0.0001 0.0003 0.001 0.003 0.01"),
    "neglora": Method("baselines.neglora", (), (2,), grid=CLIMB),
    "neglora --prune": Method("baselines.neglora", ("--prune",), (2,), grid=CLIMB),
    "neglora --bound 5": Method("baselines.neglora", ("--bound", "5"), (5,), grid=f"{LORA} --beta 0.05 0.1"),
    "regun": Method("baselines.regun", grid="--lr 0.001 0.003 0.01 0.03 --forget-weight 0.2 0.5"),
    "loraprune --forget-loss bounded": Method("loraprune", ("--forget-loss", "bounded"), grid=f"{LORA} {AMOUNTS}"),
    "loraprune --forget-loss delete": Method("loraprune", ("--forget-loss", "delete"), grid=f"{LORA} {AMOUNTS}"),
    "loraprune --forget-loss residual": Method("loraprune", ("--forget-loss", "residual"), grid=f"{LORA} {AMOUNTS}"),
    # Pruning costs accuracy, so a tenth of what the paper silences; D_f costs time, so a third of the epochs.
    "loraprune --amount 0.05 --forget-loss delete": Method(
        "loraprune", ("--amount", "0.05", "--forget-loss", "delete"), (1,), grid=f"{LORA} --forget-weight 0.1 1"
    ),
    # Systems of parts.
    ONE: Method("lmeraser", ("--parts", "1"), tables=_SYSTEMS),
    **{f"lmeraser --parts {k}": Method("lmeraser", ("--parts", str(k)), tables=_SYSTEMS) for k in (10, 50, 100, 200)},
    **{
        f"lmeraser --parts {k} --linkage ward": Method("lmeraser", ("--parts", str(k), "--linkage", "ward"), tables=_SYSTEMS)
        for k in (100, 200)
    },
    **{
        f"lmeraser {flags}": Method("lmeraser", tuple(flags.split()), tables=_SYSTEMS)
        for flags in (f"--parts 1 {_CLOSED}", f"--parts 200 --linkage ward {_CLOSED} --nearest 10")
    },
    **{f"sisa --parts {k}": Method("baselines.sisa", ("--parts", str(k)), tables=_SYSTEMS) for k in (5, 20, 100)},
}


def key_of(word: str) -> str:
    """The key of METHODS that a word of --methods means: itself, or what tables call the row, in any case ("DELETE",
    "NegLoRA --prune"); the word as it is where it means none."""
    shown = (key for key in METHODS if _shown(key).lower() == word.lower())
    return word if word in METHODS else next(shown, word)


def _shown(key: str) -> str:
    """A row by its paper's name, without the flag that this stands for."""
    script, *words = key.split()
    name, flag = paper_of(script, words)
    if name == script:
        return key
    place = words.index(flag) if flag else len(words)
    return " ".join([name, *words[:place], *words[place + 2 :]])


def rows_of(table: str) -> list[str]:
    """The keys of METHODS that are rows of a table, in its order."""
    return [name for name, method in METHODS.items() if method.fits(table)]


def row_of(row: Mapping[str, Any]) -> str:
    """The key of METHODS that a row of a result is of, at whatever point of its grid; its method where it is of none."""
    script, flags = row["method"].split(" ")[0], set(row.get("flags", ()))

    def words(key):
        return [f"--{flag}" for flag in key.split(" --")[1:]]

    fitting = [key for key in METHODS if key.split(" --")[0] == script and flags.issuperset(words(key))]
    return max(fitting, key=lambda key: len(words(key)), default=row["method"])


def tuned_as(name: str) -> str | None:
    """The row of tune whose point a row of another table is run at: itself; of an ablation, whose name says more flags, what
    it is an ablation of; None for a control or whatever else has nothing to tune."""
    of = name if METHODS[name].fits("tune") else name.rpartition(" --")[0]
    return of if of in METHODS and METHODS[of].fits("tune") and of not in ALWAYS else None
