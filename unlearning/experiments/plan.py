"""Which runs a table takes: scripts and their flags."""

import itertools
import shlex
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import models
from unlearning.core.errors import UserError
from unlearning.core.flags import CACHE_MIB
from unlearning.experiments.choice import Flags
from unlearning.experiments.methods import ALWAYS, FORGETS, METHODS, rows_of, tuned_as
from unlearning.experiments.request import RETAIN, Plan, Request, Row, Run
from unlearning.reports import results
from unlearning.vision import originals

# Networks that start from weights of other data: their flags for pretrain and retrain.
START = {models.EFFICIENTNET: ["--pretrained", "--input-size", "48", "--lr", "0.01"]}
# The paper's recipe wants its 10,000 steps of warm-up: within 20 epochs the loss rose from the fifth on (CIFAR-10, an H200).
# At a third of its rate 8 epochs of 28,000 images made a network that knew 67.5 % of 4,000 others, by the fast recipe 81.5.
SHORT = {"vit_small": ["--recipe", "fast"]}
Points = Callable[[str, str], Sequence[Flags]]  # of a network and a key of METHODS, the flags to run it with; each a run


def plan(request: Request, methods: Sequence[str], forget: list[str], points: Points) -> list[Run]:
    """The runs of a table, originals first.

    methods: keys of METHODS. forget: the flags that name the forget set. points: where a row has several, only one number of
    epochs is run.
    """
    runs, rows = [], planned(request, methods)
    again = {network: made_again(request, network) for network in request.networks if "retrain" in rows}
    for seed in range(request.seeds):
        for network in request.networks:
            common = [*handed_on(request, seed), *cache_of(request)]
            for name in rows:
                own = ["--model", network, *common]
                if name == "original":
                    runs.append((METHODS[name].script, own + from_scratch(request, network)))
                elif name == "retrain":
                    model, *further = again[network]
                    runs.append((METHODS[name].script, ["--model", model, *common, *forget, *further]))
                else:
                    own += [*forget, *started_from(request, network), *part_of_retained(request)]
                    runs += _trainings(name, own, lengths_of(request, name), points(network, name))
    return runs


def planned(request: Request, methods: Sequence[str]) -> list[str]:
    """Of `methods` those that are run: where others have trained the originals, they aren't, and Retrain is only if asked
    for, because nobody here knows its recipe, or in a tuning, which chooses by it."""
    if not request.originals:
        return [*methods]
    left_out = {"original"} if request.source.validation or "retrain" in (request.methods or ()) else {"original", "retrain"}
    return [name for name in methods if name not in left_out]


def started_from(request: Request, network: str) -> list[str]:
    """The flags that name the original where others have trained it."""
    if network not in request.originals:
        return []
    return ["--original", str(request.originals[network]), *request.told.as_flags()]


def made_again(request: Request, network: str) -> list[str]:
    """What --model names for Retrain, then the flags that say how it is made. Of a network that others have trained, or that
    a checkpoint holds, it has constants, side and head as the command line, the folder or the checkpoint says: else it would
    be another network."""
    scratch = from_scratch(request, network)
    if not (original := request.originals.get(network)):
        return [network, *scratch]
    if "--input-size" in scratch:  # of START, and not of the file
        place = scratch.index("--input-size")
        del scratch[place : place + 2]
    if original.is_file() and originals.checkpoint_in(original):
        return [network, "--data-of", str(original), *scratch]
    told = replace(request.told, entry=None).as_flags()
    return [str(original) if original.is_dir() else network, *told, *scratch]


def part_of_retained(request: Request) -> list[str]:
    """The flags with which methods learn from a part of the images that stay, if they are to."""
    count = request.sizes.get(RETAIN)
    return [f"--{RETAIN}", str(count)] if count else []


def _trainings(name: str, common: list[str], lengths: Sequence[int | None], points: Sequence[Flags]) -> list[Run]:
    """The runs of one row on one network with one seed: at each number of epochs, or at each of several points."""
    method = METHODS[name]
    return [
        (method.script, [*common, *(["--epochs", str(epochs)] if epochs else []), *point, *method.flags])
        for epochs in (lengths[:1] if len(points) > 1 else lengths)
        for point in points
    ]


def lengths_of(request: Request, name: str) -> Sequence[int | None]:
    """A row's numbers of epochs in a table; None: its script's own."""
    method = METHODS[name]
    if method.usual and request.table != "rfau":
        return [method.usual]
    return method.epochs or request.sizes["epochs"]


def handed_on(request: Request, seed: int) -> list[str]:
    """The flags that all scripts of a table share; of reproduce.py's own those that differ from the scripts' defaults."""
    source = request.source
    flags = ["--dataset", source.dataset, "--seed", str(seed), "--weights", str(request.weights)]
    for flag, value, default in (
        ("--data-dir", source.data_dir, Path("data")),
        ("--img-size", source.img_size, 32),
        ("--test-subset", source.test_subset, None),
        ("--subset", source.subset, None),
        ("--validation", source.validation, 0.0),
        ("--device", request.device, "auto"),
        ("--precision", request.precision, None),
    ):
        flags += [flag, str(value)] if value != default else []
    return flags + (["--quiet"] if request.quiet else [])


def cache_of(request: Request) -> list[str]:
    """The flag that says how much memory outputs of frozen layers may take, where it isn't the default."""
    return ["--cache", str(request.cache)] if request.cache != CACHE_MIB else []


def from_scratch(request: Request, network: str) -> list[str]:
    """The flags with which a preset trains a network from its start. Raises UserError for an unknown one."""
    if not Path(network).is_dir():
        models.check_name(network)
    sizes = request.sizes
    length = sizes.get("pretrain", {}).get(network)
    epochs = ["--epochs", str(length)] if length else []
    return epochs + START.get(network, []) + sizes.get("scratch", {}).get(network, [])


def chosen(request: Request, rows: Sequence[str] | None = None) -> list[str]:
    """Of the table's rows those that --methods asks for, or else all but those that the preset leaves out; with those that
    they are measured by in any case.

    rows: where they aren't METHODS'. Raises UserError for a row that the table lacks.
    """
    rows = rows_of(request.table) if rows is None else rows
    wrong = [name for name in request.methods or () if name not in rows]
    if wrong:
        raise UserError(f"{request.table} has no row {wrong[0]!r}; there are {', '.join(rows)}")
    if (lost := _left_out(request)) and not request.only:
        raise UserError(f"{lost[0]} is a row where a class is forgotten: it has none among images that are named")
    usual = [name for name in rows if name not in request.sizes.get("without", ())]
    found = [name for name in rows if name in ALWAYS or name in (request.methods or usual)]
    _check_started(request, found)
    return found


def _check_started(request: Request, rows: Sequence[str]) -> None:
    """Raise UserError where nothing starts from an original that others have trained: it doesn't say of which network and
    data it is, which is known of what starts from it alone."""
    unlearned = [name for name in rows if name not in ALWAYS] if request.originals else []  # of METHODS then
    if any(METHODS[name].forgets in (None, *request.kinds) for name in unlearned):
        return
    for path in request.originals.values():
        if not (path.is_file() and originals.checkpoint_in(path)):
            raise UserError(f"--original {path}: no row of --methods starts from it: name one, as in --methods retrain lora")


def _left_out(request: Request) -> list[str]:
    """The rows of --methods that can't forget what the table is to forget."""
    asked = request.methods or () if request.table in FORGETS else ()
    return [name for name in asked if METHODS[name].forgets not in (None, *request.kinds)]


def both_ways(request: Request, methods: Sequence[str], points: Points | None = None) -> list[Run]:
    """The runs of `methods` for class forgetting, for that of images, or both, as the table does; originals serve both.

    points: as `plan` wants them; None: what --tuned says, else the scripts' defaults.
    """
    runs: list[Run] = []
    for kind, flags in request.forget_flags.items():
        if kind in request.kinds:
            possible = [name for name in methods if METHODS[name].forgets in (None, kind)]
            planned = plan(request, possible, flags, points or partial(tuned_points, request, kind))
            runs += [run for run in planned if run not in runs]
    return runs


def tuned_points(request: Request, kind: str, network: str, name: str) -> Sequence[Flags]:
    """The point that --tuned has for a row on a network; none of the flags where it has none."""
    found = request.tuned and request.tuned.point(network, kind, request.forget_tags[kind], name)
    return (found or (),)


def notes(request: Request) -> list[str]:
    """Lines on what a reader might not expect: a tuning's images, which somebody else's original may know; rows that --only
    leaves out, and that --epochs says nothing to; for each network and kind of forget set the rows that --tuned lacks, which
    are run with their defaults."""
    lines = []
    if request.originals and request.source.validation:
        files = ", ".join(map(str, request.originals.values()))
        lines = [f"note: {files} may have learned the images on which all is scored here, and Retrain hasn't"]
    if lost := _left_out(request):
        lines.append(f"note: --only {request.only} leaves out {', '.join(lost)}")
    if found := _lengths_of_their_own(request):
        lines.append(f"note: --epochs says nothing to {', '.join(found)}")
    rows = [name for name in chosen(request) if tuned_as(name)] if request.tuned else []
    for kind, network in itertools.product(request.kinds, request.networks):
        here = [name for name in rows if METHODS[name].forgets in (None, kind)]
        lacking = [name for name in here if not any(tuned_points(request, kind, network, name))]
        if lacking and request.tuned:
            what = "any row" if lacking == here else ", ".join(lacking)
            where = f"{network}, where {'a class is' if kind == 'class' else 'images are'} forgotten"
            lines.append(f"note: {request.tuned.path} has no point for {what} on {where}: run with the scripts' defaults")
    return lines


def _lengths_of_their_own(request: Request) -> list[str]:
    """The rows that don't take what --epochs asks for, with their numbers of epochs; not those that aren't trained."""
    if not request.asked_epochs or request.table not in FORGETS:
        return []
    lengths = {name: lengths_of(request, name) for name in chosen(request) if METHODS[name].epochs}
    return [f"{name} ({', '.join(map(str, found))})" for name, found in lengths.items() if any(found)]


def command(script: str, arguments: Sequence[str]) -> str:
    """What a user types to run the script of this name: `python lora.py ...`, `python -m baselines.control ...`."""
    return shlex.join(["python", *(["-m", script] if "." in script else [f"{script}.py"]), *arguments])


def check_nothing_is_lost(path: Path, request: Request, plan: Plan, tag: str = "") -> None:
    """Raise UserError if the file `path` holds more seeds, columns or other rows of what is asked for than this would write.
    Of a tuning, methods that aren't asked for stay, and the Original and the Retrain that have more seeds; with --add all
    other rows.

    tag: of the data, where they are the user's own, and may have changed where they lie.
    """
    if request.overwrite or not path.exists():
        return
    asked = chosen(request) if request.table in FORGETS else []
    networks = {called for network in request.networks for called in (network, network_called(network))}
    kinds = request.kinds if request.table in FORGETS else ()
    tags = [request.forget_tags[kind] for kind in kinds]  # rows of other forget sets stay
    tags += request.further_tags
    planned = {_making(command(*run)) for run in plan.runs}
    given = {originals.command_of(file) for file in request.originals.values()}
    there = results.read(path)
    attacks = {run.get("attack", request.attack) for run in (there, *there.get("earlier", []))}
    if request.table != "tune" and (others := sorted(attacks - {request.attack})):
        text = f"scored by --mia {others[0]}: give that, or --overwrite, or --results elsewhere"
        raise UserError(f"{path} holds rows that were {text}")
    for row in there["rows"]:
        called = row["model"]  # also "vit_micro, prompted" and "resnet18 (img_size 32, ...)"
        if networks.isdisjoint((called, called.split(",")[0], called.split(" (")[0])):
            continue
        if tags and row["forget"] not in tags:
            continue
        if "tunes" in row and row["tunes"] not in asked:
            if there.get("attack") != request.attack:
                text = f"scored by --mia {there.get('attack')}: give that, or --overwrite, or --results elsewhere"
                raise UserError(f"{path} holds {row['tunes']} ({row['model']}, {row['forget']}), {text}")
            continue
        stays = request.table == "tune" and row["method"] in ALWAYS
        lost = f"{row['n'] - request.seeds} of its {row['n']} seeds" if row["n"] > request.seeds and not stays else ""
        if request.add and row["method"] in ALWAYS and row["n"] != request.seeds and row["command"] not in given:
            text = f"{row['method']} ({row['model']}, {row['forget']}) of {row['n']} seeds: --add needs --seeds {row['n']}"
            raise UserError(f"{path} holds {text}, by which its rows are measured")
        there_again = row["command"] in given or _is_from_outside(row, planned) or _making(row["command"]) in planned
        lost = (lost or _columns_lost(row, request)) if there_again else "" if request.add else "it"
        lost = lost if row["dataset"].startswith(tag) else f"it, for it is of {row['dataset']}, and these images are {tag}"
        if lost:
            what = f"{row['method']} ({row['model']}, {row['forget']})"
            raise UserError(f"{path} holds {what}; this would lose {lost}: --overwrite, or --results elsewhere")


def network_called(network: str) -> str:
    """What rows call a network of --model: a file of one's own, or a folder, without where it lies; of a checkpoint, from
    which LMEraser's systems may start, the network in it."""
    path = Path(network)
    return originals.network_in(path) if path.suffix == ".pth" else path.name


def _columns_lost(row: Row, request: Request) -> str:
    """The columns of a row that a flag asks for which isn't given now, in words; "" where there are none."""
    asked = {"--recovery": request.recovery, "--every-attack": request.every_attack}
    there = {"--recovery": "recovered1" in row["metrics"], "--every-attack": any(" " in name for name in row["metrics"])}
    lost = [flag for flag in asked if there[flag] and not asked[flag]]
    return f"its columns of {' and '.join(lost)}" if lost else ""


def _is_from_outside(row: Row, planned: Collection[tuple[str, ...]]) -> bool:
    """True for an original or a Retrain that no table's command has made, for these all name a folder: somebody else's,
    whose command is words (originals.py), or one that comes with the project, which a planned run finds by its name, and
    whose command has nothing that the run's hasn't."""
    words = row["command"].split()
    if row["method"] not in ALWAYS or "--weights" in words:
        return False
    made = Counter(_making(row["command"]))
    return words[:1] != ["python"] or any(made and made <= Counter(run) for run in planned)


def _making(typed: str) -> tuple[str, ...]:
    """Of a command the words that make its result, in any order: without those of circumstances and their values; none of
    what is no command."""
    try:
        words = iter(shlex.split(typed))
    except ValueError:  # a quotation without an end
        return ()
    kept = []
    for word in words:
        if word in ("--device", "--cache", "--data-dir", "--data-of"):
            next(words, None)
        elif word not in ("--quiet", "--checkpointing"):
            kept.append(word)
    return tuple(sorted(kept))
