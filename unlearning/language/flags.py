"""The flags of llmeraser.py: of training an adapter, of asking it, of scoring."""

from pathlib import Path

from unlearning.core.flags import (
    LORA_RANK,
    NOT_NEGATIVE_FLOAT,
    POSITIVE_FLOAT,
    POSITIVE_INT,
    QUIET,
    SEED,
    Parser,
)
from unlearning.core.paths import folder, input_file, name_or_path, output_folder
from unlearning.language.base import PRECISIONS, SMOLLM2
from unlearning.language.controls import CONTROLS
from unlearning.language.prompts import FORMS
from unlearning.language.tasks import TASKS

DEFAULT = "genre"  # the task that finetune takes without --train
PROMPT = "how rows are put to the model (default: auto, its chat template if it has one)"
LOSS = "over the whole vocabulary, or a choice among the file's answers (default: tokens)"
MOVED = "the adapter's base, where it lies elsewhere now (default: what it says)"
AGAIN = "compute blocks again in backward passes: the same result in less memory, for up to half more time"
SOLVERS = "adam: the paper's way; ekfac: by factors that are kept beside the adapter (default: cg)"


def parser(doc: str | None) -> Parser:
    """The command line."""
    parser = Parser(doc)
    actions = parser.add_subparsers(dest="action", required=True, help="train an adapter, answer a request, score")
    trainer: Parser = actions.add_parser("finetune", help="train an adapter on a file of rows")
    add_training_flags(trainer)
    writers = [trainer]
    for kind, what in (
        ("remove", "unlearn rows"),
        ("modify", "unlearn rows' queries for others"),
        ("correct", "unlearn rows' responses for others"),
    ):
        writers.append(actions.add_parser(kind, help=what))
        add_request_flags(writers[-1], kind)
    for action in writers:
        action.add_argument("--output", type=output_folder, help="folder to write (default: a telling name)")
        action.add_argument("--overwrite", action="store_true", help="compute again what exists")
        action.add_argument("--checkpointing", action="store_true", identity=False, help=AGAIN)
    scorer: Parser = actions.add_parser("evaluate", help="score adapters on test rows and on what was asked")
    scorer.add_argument("adapters", type=folder, nargs="+", help="folders of adapters")
    scorer.add_argument("--retrain", type=folder, help="the adapter to measure distances from")
    scorer.add_argument(
        "--generate", type=POSITIVE_INT, default=50, help="test rows that are answered in full (default: 50)"
    )
    scorer.add_argument("--base", type=name_or_path, help=MOVED)
    for action in writers[1:]:
        _add_file_flags(action, "where it isn't what the adapter's record says, or it has none")
    _add_file_flags(scorer, "where they have moved since the adapters were made")
    for action in (*writers, scorer):
        action.add_argument("--data-dir", type=folder, default=Path("data"), help="folder of data files (default: data)")
        action.add_argument("--weights", type=folder, default=Path("model_weights"), help="folder of adapters")
        action.add_argument("--device", default="auto", help="auto, cpu, cuda ... (default: a GPU if there is one)")
        action.add_argument("--quiet", action="store_true", help=QUIET)
    return parser


def _add_file_flags(action: Parser, when: str) -> None:
    flag = action.add_argument
    flag("--train", type=input_file, metavar="FILE", help=f"rows that the adapter was trained on, {when}")
    flag("--validation", type=input_file, metavar="FILE", help="rows that it has never seen, by which damping is chosen")
    flag("--test", type=input_file, metavar="FILE", help="rows that it is scored on")


def add_training_flags(trainer: Parser) -> None:
    """The flags that make an adapter; those of its circumstances are added by `parser`."""
    flag = trainer.add_argument
    flag("--train", type=input_file, metavar="FILE", identity="name", help="rows to train on: JSON, JSONL or CSV")
    flag("--validation", type=input_file, metavar="FILE", identity=False, help="rows to choose by, later")
    flag("--test", type=input_file, metavar="FILE", identity=False, help="rows to score on, later")
    told = ", ".join(TASKS)
    flag("--task", choices=TASKS, identity="name", help=f"in place of --train: {told} (default: {DEFAULT})")
    flag("--base", type=name_or_path, default=SMOLLM2, help=f"Hugging Face name or folder (default: {SMOLLM2})")
    flag("--precision", choices=PRECISIONS, default="fp32", help="of the base's weights; LoRA's are fp32 (default: fp32)")
    flag("--prompt", choices=("auto", *FORMS), default="auto", help=PROMPT)
    flag("--loss", choices=("tokens", "choice"), default="tokens", help=LOSS)
    flag("--rank", type=LORA_RANK, default=8, help="rank of LoRA (default: 8, the paper's)")
    flag("--alpha", type=POSITIVE_INT, default=16, help="LoRA's alpha (default: 16, the paper's)")
    flag("--targets", nargs="+", help="linear layers to adapt, by name (default: the last of a block)")
    flag("--blocks", type=POSITIVE_INT, default=1, help="of how many of the last blocks (default: 1)")
    flag("--decay", type=POSITIVE_FLOAT, default=0.05, help="weight of |Theta|^2 / 2 (default: 0.05)")
    flag("--optimizer", choices=("lbfgs", "adamw"), default="lbfgs", help="lbfgs: to rest; adamw: as PEFT (default: lbfgs)")
    text = "of lbfgs, passes at most, but for a line search's last ones (default: 100; it stops at rest)"
    flag("--evaluations", type=POSITIVE_INT, default=100, help=text)
    flag("--epochs", type=POSITIVE_INT, default=3, help="of adamw (default: 3)")
    flag("--lr", type=POSITIVE_FLOAT, default=1e-3, help="of adamw (default: 0.001)")
    flag("--batch-size", type=POSITIVE_INT, default=8, help="of adamw, rows (default: 8)")
    flag("--seed", type=SEED, default=0, identity="seed", help="seed of the adapter's start (default: 0)")


def add_request_flags(action: Parser, kind: str) -> None:
    """The flags of a request, a key of `fields.KINDS`; those of its circumstances are added by `parser`."""
    flag = action.add_argument
    flag("adapter", type=folder, help="folder of an adapter: of finetune, of an earlier request, or of PEFT or TRL")
    if kind == "remove":
        flag("--ids", nargs="+", metavar="NAME", help="rows by name: their own id, else their line in the file")
    becomes = "" if kind == "remove" else ", with what becomes of them"
    flag("--request", type=input_file, metavar="FILE", help=f"rows by name in `id`{becomes}")
    methods = ("influence", *CONTROLS)
    flag("--method", choices=methods, default="influence", help="default: influence; others compare")
    flag("--solver", choices=("cg", "adam", "ekfac"), default="cg", help=SOLVERS)
    flag("--curvature", choices=("hessian", "gauss-newton"), help="default: hessian where it is at rest, else gauss-newton")
    chosen = "by Retrain's objective where an adapter is at rest and H the Hessian, else on validation rows"
    flag("--damping", type=NOT_NEGATIVE_FLOAT, help=f"added to H's diagonal (default: one of six, chosen {chosen})")
    flag("--length", type=POSITIVE_FLOAT, help="of the step, 1 the formula's (default: 1, or chosen on validation rows)")
    flag("--tolerance", type=POSITIVE_FLOAT, default=1e-4, help="estimated relative residual (default: 1e-4)")
    flag("--products", type=POSITIVE_INT, help="of H with a vector at most (default: as many as the tolerance takes)")
    flag("--base", type=name_or_path, help=MOVED)
    flag("--precision", choices=PRECISIONS, help="of an adapter from elsewhere: of its base's weights (default: fp32)")
    flag("--prompt", choices=("auto", *FORMS), help="of an adapter from elsewhere: " + PROMPT)
    flag("--decay", type=NOT_NEGATIVE_FLOAT, help="of an adapter from elsewhere: weight of |Theta|^2 / 2 (default: 0)")
    how = "of an adapter from elsewhere, how it was trained, by AdamW, for --method retrain: "
    flag("--epochs", type=POSITIVE_INT, help=how + "passes")
    flag("--lr", type=POSITIVE_FLOAT, help=how + "the learning rate")
    flag("--batch-size", type=POSITIVE_INT, help=how + "rows a step")
    if kind != "remove":
        action.instead["--ids"] = "what becomes of rows is said in a --request file"
    action.set_defaults(ids=None)
