"""TODO unlearning.reports.columns."""

from unlearning.metrics import membership, predictions

# The tables of a data set, network and forget set: title, columns. A column that no row has is left out.
GROUPS = {
    "Headline": {
        "UA": "UA %",
        "UA_test": "UA-test %",
        "RA": "RA %",
        "TA": "TA %",
        "MIA": "MIA-Efficacy %",
        "gap": "average gap",
    },
    "What an attacker, a probe and relearning still find": {
        "MIA_AUC": "MIA-AUC %",
        "TPR1": "TPR@1%FPR %",
        "probe": "probe %",
        "relearn_steps": "relearn steps",
    },
    "Many models": {
        "ulira": "U-LiRA %",
        "klom_f": "KLOM D_f",
        "klom_r": "KLOM D_r",
        "klom_t": "KLOM test",
        "epsilon": "epsilon",
        "forgetting": "forgetting score",
        "neurips": "times RA and TA ratio",
    },
    "Accuracy, and how many times less it costs than training again": {
        "accuracy": "accuracy %",
        "auc": "AUC %",
        "loss": "loss",
        "undone": "damage undone %",
        "forget_loss": "loss on the rows asked about",
        "membership": "membership AUC %",
        "sample_epochs_ratio": "sample-epochs, times less",
        "seconds_ratio": "seconds, times less",
    },
    "Unlearning and scoring in the published way and here": {
        "ratio": "times faster",
        "of_bare_loop": "of the bare loop %",
        "published_seconds": "s, published",
        "here_seconds": "s, here",
        "published_mib": "peak MiB, published",
        "here_mib": "peak MiB, here",
        "published_RA": "RA %, published",
        "here_RA": "RA %, here",
        "published_TA": "TA %, published",
        "here_TA": "TA %, here",
    },
    "Distance from Retrain, and how well the system was solved": {
        "distance": "distance",
        "cosine": "cosine",
        "js": "JS",
        "residual": "residual",
    },
    "Distance from the Retrain of the same seed": {
        "dUA": "ΔUA",
        "dRA": "ΔRA",
        "dTA": "ΔTA",
        "dMIA": "ΔMIA",
        "ToW": "ToW",
        "activation_f": "activation D_f",
        "activation_r": "activation D_r",
        "js_f": "JS D_f",
        "js_r": "JS D_r",
    },
    **{
        f"Every attack: {title}": {
            f"{key} {attacker} {feature}": f"{attacker}, {feature}"
            for attacker in membership.ATTACKERS
            for feature in predictions.FEATURES
        }
        for key, title in {"MIA": "MIA-Efficacy %", "AUC": "MIA-AUC %", "TPR1": "TPR@1%FPR %"}.items()
    },
    "Cost": {
        "sample_epochs": "sample-epochs",
        "flops": "FLOPs",
        "seconds": "seconds",
        "memory_mib": "memory MiB",
        "steps": "steps",
        "trainable": "trainable",
        "moved": "moved",
        "zeros": "zeros %",
        "bytes": "bytes",
        "parameters": "parameters",
        "macs": "MACs an image",
        "latency_ms": "ms a batch",
        "onnx_ms": "ms a batch, onnxruntime",
    },
}
FOLDED = ("Distance from the Retrain of the same seed", "Cost")  # shown in Markdown on a click
DIGITS = {"seconds": 1, "relearn_steps": 1}  # digits after the point, two elsewhere
DIGITS |= {"sample_epochs_ratio": 1, "seconds_ratio": 1, "loss": 3, "forget_loss": 3, "residual": 5}
DIGITS |= {"of_bare_loop": 0, "published_seconds": 1, "here_seconds": 1, "published_mib": 0, "here_mib": 0}
DIGITS |= {"undone": 0, "distance": 3, "cosine": 3, "js": 4}
DIGITS |= dict.fromkeys(
    ("sample_epochs", "flops", "memory_mib", "steps", "trainable", "moved", "bytes", "parameters", "macs"), 0
)
DIGITS |= dict.fromkeys(("ToW", "activation_f", "activation_r", "js_f", "js_r", "forgetting", "neurips"), 3)
