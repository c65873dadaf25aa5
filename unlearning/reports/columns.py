"""The columns of all tables: one line for each metric, by its key in result files."""

from collections.abc import Collection
from typing import Any, NamedTuple

from unlearning.metrics import membership, predictions


class Column(NamedTuple):
    """A metric in a table: the table's title, the column's, and digits after the point."""

    group: str
    title: str
    digits: int = 2


HEADLINE = "Forgetting and accuracy"
FOUND = "What an attacker, a probe and relearning still find"
BIAS = "Head bias"
SHOTS = "Learning the forgotten class again from few images"
MANY = "Many models"
DELETIONS = "Accuracy, and how many times less it costs than training again"
SPEED = "Unlearning and scoring in the published way and here"
SOLVED = "Distance from Retrain, and how well the system was solved"
DISTANCES = "Distance from the Retrain of the same seed"
COST = "Cost"
SEVEN = ("UA", "RA", "TA", "MIA", "gap", "probe", "seconds")  # what a terminal shows
PAGE = ("UA", "RA", "TA", "MIA", "MIA_draw_sd", "gap", "probe", "seconds")  # what the HTML page shows, of what its rows have
FOLDED = (DISTANCES, COST)  # shown in Markdown on a click
# In the order in which tables show them; a column that no row has is left out.
COLUMNS = {
    "UA": Column(HEADLINE, "UA %"),
    "UA_test": Column(HEADLINE, "UA-test %"),
    "UA_earlier": Column(HEADLINE, "UA of earlier requests %"),
    "RA": Column(HEADLINE, "RA %"),
    "TA": Column(HEADLINE, "TA %"),
    "MIA": Column(HEADLINE, "MIA-Efficacy %"),
    "MIA_draw_sd": Column(HEADLINE, "MIA sd over draws"),
    "gap": Column(HEADLINE, "average gap"),
    "MIA_AUC": Column(FOUND, "MIA-AUC %"),
    "TPR1": Column(FOUND, "TPR@1%FPR %"),
    "rmia": Column(FOUND, "RMIA AUC %"),
    "rmia_tpr1": Column(FOUND, "RMIA TPR@1%FPR %"),
    "probe": Column(FOUND, "probe %"),
    "probe_gap": Column(FOUND, "probe gap"),
    "ncc": Column(FOUND, "NCC %"),
    "ncc_gap": Column(FOUND, "NCC gap"),
    "bsc": Column(BIAS, "BSC", 3),
    "mbg": Column(BIAS, "MBG", 3),
    "mbs": Column(BIAS, "MBS", 3),
    "relearn_steps": Column(FOUND, "relearn steps", 1),
    **{f"recovered{k}": Column(SHOTS, f"{k} image{'s' * (k > 1)}, accuracy %") for k in (1, 5, 10)},
    **{f"recovery{k}": Column(SHOTS, f"{k} image{'s' * (k > 1)}, recovery") for k in (1, 5, 10)},
    "ulira": Column(MANY, "U-LiRA %"),
    "klom_f": Column(MANY, "KLOM D_f"),
    "klom_r": Column(MANY, "KLOM D_r"),
    "klom_t": Column(MANY, "KLOM test"),
    "epsilon": Column(MANY, "epsilon"),
    "forgetting": Column(MANY, "forgetting score", 3),
    "neurips": Column(MANY, "times RA and TA ratio", 3),
    "validation": Column("Accuracy on validation images", "accuracy %"),
    "accuracy": Column(DELETIONS, "accuracy %"),
    "auc": Column(DELETIONS, "AUC %"),
    "loss": Column(DELETIONS, "loss", 3),
    "hits": Column(DELETIONS, "generated right %"),
    "valid": Column(DELETIONS, "generated valid %"),
    "undone": Column(DELETIONS, "damage undone %", 0),
    "undone_js": Column(SOLVED, "damage undone by JS %", 0),
    "forget_loss": Column(DELETIONS, "loss on the requested rows", 3),
    "membership": Column(DELETIONS, "membership AUC %"),
    "min_k": Column(DELETIONS, "Min-K% AUC %"),
    "forget_rouge": Column(DELETIONS, "ROUGE-L to removed answers %"),
    "rouge": Column(DELETIONS, "ROUGE-L %"),
    "sample_epochs_ratio": Column(DELETIONS, "sample-epochs, times less", 1),
    "seconds_ratio": Column(DELETIONS, "seconds, times less", 1),
    "ratio": Column(SPEED, "times faster"),
    "of_bare_loop": Column(SPEED, "of the bare loop %", 0),
    "published_seconds": Column(SPEED, "s, published", 1),
    "here_seconds": Column(SPEED, "s, here", 1),
    "published_mib": Column(SPEED, "peak MiB, published", 0),
    "here_mib": Column(SPEED, "peak MiB, here", 0),
    "published_RA": Column(SPEED, "RA %, published"),
    "here_RA": Column(SPEED, "RA %, here"),
    "published_TA": Column(SPEED, "TA %, published"),
    "here_TA": Column(SPEED, "TA %, here"),
    "distance": Column(SOLVED, "distance", 3),
    "cosine": Column(SOLVED, "cosine", 3),
    "js": Column(SOLVED, "JS", 4),
    "residual": Column(SOLVED, "residual", 5),
    "dUA": Column(DISTANCES, "ΔUA"),
    "dRA": Column(DISTANCES, "ΔRA"),
    "dTA": Column(DISTANCES, "ΔTA"),
    "dMIA": Column(DISTANCES, "ΔMIA"),
    "ToW": Column(DISTANCES, "ToW", 3),
    "activation_f": Column(DISTANCES, "activation D_f", 3),
    "activation_r": Column(DISTANCES, "activation D_r", 3),
    "js_f": Column(DISTANCES, "JS D_f", 3),
    "js_r": Column(DISTANCES, "JS D_r", 3),
    **{
        f"{key} {attacker} {feature}": Column(f"Every attack: {title}", f"{attacker}, {feature}")
        for key, title in {"MIA": "MIA-Efficacy %", "AUC": "MIA-AUC %", "TPR1": "TPR@1%FPR %"}.items()
        for attacker in membership.ATTACKERS
        for feature in predictions.FEATURES
    },
    "sample_epochs": Column(COST, "sample-epochs", 0),
    "flops": Column(COST, "FLOPs", 0),
    "seconds": Column(COST, "seconds", 1),
    "factors_seconds": Column(COST, "seconds for factors, once", 1),
    "memory_mib": Column(COST, "memory MiB", 0),
    "steps": Column(COST, "steps", 0),
    "trainable": Column(COST, "trainable", 0),
    "moved": Column(COST, "moved", 0),
    "zeros": Column(COST, "zeros %"),
    "bytes": Column(COST, "bytes", 0),
    "parameters": Column(COST, "parameters", 0),
    "macs": Column(COST, "MACs an image", 0),
    "latency_ms": Column(COST, "ms a batch"),
    "onnx_ms": Column(COST, "ms a batch, onnxruntime"),
}

# What papers call the methods of `baselines/`, by the script's name and a flag that it is this method with; the first that
# fits. Result files have the scripts' names.
PAPERS = {
    ("gradascent", "--retain-weight"): "NegGrad+",
    ("randomlabel", "--random-mask"): "randomlabel",  # the control of the next one
    ("randomlabel", "--saliency"): "SalUn",
    ("scrub", ""): "SCRUB",
    ("ssd", ""): "SSD",
    ("l1sparse", ""): "l1-sparse",
    ("negate", ""): "NoT",
    ("delete", ""): "DELETE",
    ("neglora", ""): "NegLoRA",
    ("regun", ""): "ReGUn",
}


def paper_of(script: str, flags: Collection[str]) -> tuple[str, str]:
    """(what papers call a script's method with these flags, the flag that makes it this method or ""); its own name where
    papers have none."""
    fitting = ((name, flag) for (of, flag), name in PAPERS.items() if of == script and (not flag or flag in flags))
    return next(fitting, (script, ""))


def method_name(row: Any) -> str:
    """What a table calls a row's method: its paper's name in the place of the script's, then the flags that its name has."""
    script, *words = row["method"].split(" ")
    flags = {word.split(" ")[0] for word in (*words, *row.get("flags", ()))}
    return " ".join([paper_of(script, flags)[0], *words])
