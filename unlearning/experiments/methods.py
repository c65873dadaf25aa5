"""METHODS, the rows of reproduce.py's tables of images. A new method is one new file and one line here."""

from dataclasses import dataclass

# The tables that forget images, and what each forgets: a class, a random share of the images, or one after the other.
FORGETS = {
    "prunelora": ("class",),
    "random": ("images",),
    "audit": ("class", "images"),
    "rfau": ("class", "images"),
    "tune": ("class",),
    "sequence": ("class",),
    "rfau-tune": ("class", "images"),
}
OF_IMAGES = ("prunelora", "random", "audit", "rfau", "tune", "rfau-tune")  # where images may be named: --forget-file
# Tables that a line names where it isn't in all of these.
OF_PRUNELORA = ("prunelora", "random", "audit", "tune", "sequence")
FROM_ORIGINALS = ("prunelora", "random", "rfau", "tune", "rfau-tune", "sequence")  # tables that start from any
OF_RFAU = ("rfau", "rfau-tune")
UNTUNED = ("prunelora", "random", "audit", "rfau", "sequence")


@dataclass(frozen=True)
class Method:
    """How a row's checkpoints are made.

    script: the module's name: "lora", "baselines.control". flags: those of its own. epochs: its numbers of epochs where they
    aren't the preset's; None among them: the script's own. tuned: at how many its rate is chosen (None: the first of them).
    tables: those that it is a row of; None: all in FORGETS. forgets: "class" or "images" where it can't do the other.
    """

    script: str
    flags: tuple[str, ...] = ()
    epochs: tuple[int | None, ...] | None = None
    tuned: int | None = None
    tables: tuple[str, ...] | None = None
    forgets: str | None = None

    def fits(self, table: str) -> bool:
        """True if it is a row of this table."""
        return table in (self.tables or FORGETS) and self.forgets in (None, *FORGETS.get(table, ()))


ONE = "one-prompt"  # the system of one part: no clusters
_SYSTEMS = ("lmeraser",)
METHODS = {
    "original": Method("pretrain"),
    "retrain": Method("retrain"),
    "mask": Method("baselines.control", ("--kind", "mask"), (None,), tables=("prunelora", "audit", "rfau"), forgets="class"),
    "zero-row": Method("baselines.control", ("--kind", "zero-row"), (None,), tables=("prunelora",), forgets="class"),
    "head-only": Method("baselines.control", ("--kind", "head-only")),
    "finetune": Method("finetune"),
    "pruneft": Method("pruneft", tables=OF_PRUNELORA),
    "lora": Method("lora", tables=OF_PRUNELORA),
    "loraprune": Method("loraprune"),
    "loraprune --regrow": Method("loraprune", ("--regrow",), tables=("prunelora",)),
    "loraprune --prune-head": Method("loraprune", ("--prune-head",), tables=("prunelora",)),
    "gradascent": Method("baselines.gradascent", (), (1,), tables=OF_RFAU),
    "gradascent --retain-weight 0.9": Method("baselines.gradascent", ("--retain-weight", "0.9"), (1,), tables=OF_RFAU),
    "randomlabel": Method("baselines.randomlabel", tables=OF_RFAU),
    "randomlabel --saliency 0.5": Method("baselines.randomlabel", ("--saliency", "0.5"), tables=OF_RFAU),
    "badteacher": Method("baselines.badteacher", tables=OF_RFAU),
    "rfau": Method("rfau", (), (1, 2, 5, 20), 5, tables=OF_RFAU),
    "rfau --shift unseen": Method("rfau", ("--shift", "unseen"), (1, 20), tables=("rfau",), forgets="images"),
    "rfau --shift mean": Method("rfau", ("--shift", "mean"), (1,), tables=("rfau",)),
    "rfau --shift head": Method("rfau", ("--shift", "head"), (1,), tables=("rfau",)),
    # Baselines and controls of other papers. What isn't trained has no rate to tune, and no number of epochs.
    "bias": Method("baselines.control", ("--kind", "bias"), (None,), tables=("prunelora", "audit", "rfau"), forgets="class"),
    "scrub": Method("baselines.scrub"),
    "ssd": Method("baselines.ssd", (), (None,), tables=UNTUNED),
    "l1sparse": Method("baselines.l1sparse"),
    "negate": Method("baselines.negate"),
    "randomlabel --saliency 0.5 --random-mask": Method(
        "baselines.randomlabel", ("--saliency", "0.5", "--random-mask"), tables=("rfau",)
    ),
    # Losses on D_f that others have published: alone, by LoRA, and beside PruneLoRA.
    "delete": Method("baselines.delete", (), (20,)),
    "neglora": Method("baselines.neglora", (), (2,)),
    "neglora --prune": Method("baselines.neglora", ("--prune",), (2,)),
    "neglora --bound 5": Method("baselines.neglora", ("--bound", "5"), (5,)),
    "regun": Method("baselines.regun"),
    "loraprune --forget-loss bounded": Method("loraprune", ("--forget-loss", "bounded")),
    "loraprune --forget-loss delete": Method("loraprune", ("--forget-loss", "delete")),
    "loraprune --forget-loss residual": Method("loraprune", ("--forget-loss", "residual")),
    # Systems of parts.
    ONE: Method("lmeraser", ("--parts", "1"), tables=_SYSTEMS),
    **{f"lmeraser --parts {k}": Method("lmeraser", ("--parts", str(k)), tables=_SYSTEMS) for k in (10, 50, 100, 200)},
    **{
        f"lmeraser --parts {k} --linkage ward": Method("lmeraser", ("--parts", str(k), "--linkage", "ward"), tables=_SYSTEMS)
        for k in (100, 200)
    },
    **{f"sisa --parts {k}": Method("baselines.sisa", ("--parts", str(k)), tables=_SYSTEMS) for k in (5, 20, 100)},
}


def rows_of(table: str) -> list[str]:
    """The keys of METHODS that are rows of a table, in its order."""
    return [name for name, method in METHODS.items() if method.fits(table)]
