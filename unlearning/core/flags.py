"""Command lines: flags that say whether they make the result, types, and errors in one line."""

import argparse
import contextlib
import difflib
import io
import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn

import torch

from unlearning.core import content, distributed
from unlearning.core.errors import RunFailed, Terminated, UserError

CACHE_MIB = 4096
LONGEST = 60  # characters of what was typed that a message repeats
NO_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch's words, in a RuntimeError
MEANT = "did you mean"
QUIET = "no progress: results and warnings alone"  # the help of --quiet
REQUIRED = "the following arguments are required: "  # argparse's words
TINY = 1e-30  # numbers of arithmetic in 32 bits end at 1e-38
WHOLE = r"[+-]?[0-9]+"
DECIMAL = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?"
GIVEN = "_given"  # where a namespace keeps the flags that were typed, while it is filled
IN_GREY = "in_grey"  # where resolved flags say whether images have one channel, on which some defaults depend
UNSET = object()  # a flag that has been there from the start has no `off` value
Arguments = argparse.Namespace | Mapping[str, Any]


VIT = "other transformers"
GREY = " on grey images"  # behind a network's name


class PerModel(dict):
    """A default that depends on the network: {"resnet8": 3e-3, "paper": 1e-3}, "paper" for every other network, but VIT,
    where there is such, for every other transformer. A name with GREY is for images of one channel."""

    def __str__(self) -> str:
        rest = ", ".join(f"{written(value)} for {name}" for name, value in self.items() if name != "paper")
        return written(self["paper"]) + (f"; {rest}" if rest else "")

    def of(self, network: str, is_vit: bool = False, recipe: str | None = None, grey: bool = False) -> Any:
        """The default for a network of this name. recipe: what --recipe says, for those that depend on it. grey: True for
        images of one channel."""
        default = self.get(network, self.get(VIT, self["paper"]) if is_vit else self["paper"])
        return self.get(network + GREY, default) if grey else default


class PerRecipe(PerModel):
    """A default that depends on --recipe, and on the network: {"paper": PerModel(...), "fast": PerModel(...)}."""

    def __str__(self) -> str:
        return "; ".join(f"by --recipe {recipe} {default}" for recipe, default in self.items())

    def of(self, network: str, is_vit: bool = False, recipe: str | None = None, grey: bool = False) -> Any:
        """The default for a network of this name, trained by this recipe."""
        return self[recipe].of(network, is_vit, grey=grey)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help that names the bounds of numbers."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return f"{action.help} [{action.type}]" if isinstance(action.type, Number) else action.help


class Store(argparse.Action):
    """argparse's own way to keep a flag's value. A list of values can't be given twice, nor another value: the first would
    be lost."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Keep `values` as the flag's."""
        given = vars(namespace).setdefault(GIVEN, {})
        if option and self.dest in given:
            before = given[self.dest]
            if self.nargs == "+":
                way = f"give its values at once: {option} {written([*before, *values])}"
                raise argparse.ArgumentError(self, f"given twice; {way}")
            if before != values:
                way = f"as {shown(written(before))} and as {shown(written(values))}"
                raise argparse.ArgumentError(self, f"given twice, {way}")
        given[self.dest] = values
        setattr(namespace, self.dest, values)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose flags say whether they make the result, and whose errors are one line.

    add_argument takes two keywords more. identity: True (the default) for a flag whose value makes another row of a table;
    False for circumstances such as the device, which are recorded nowhere; a word for what is recorded but identified in
    another way ("data", "forget", "seed", "parent"). off: for a flag added later, the value that means what was done before
    it existed; with it the flag is left out of keys and names, so that older files stay valid. Flags can't be abbreviated:
    a command is to mean the same when there are more of them. several: True where processes may share the work.
    """

    def __init__(self, doc: str | None = None, **options: Any) -> None:
        options.setdefault("formatter_class", Formatter)
        super().__init__(description=doc, allow_abbrev=False, **options)
        self.several = False
        self.instead: dict[str, str] = {}  # of flags that other commands have, what to do here
        self.register("action", None, Store)

    def add_argument(self, *names: str, identity: bool | str = True, off: object = UNSET, **options: Any) -> argparse.Action:
        """As argparse's own, with `identity` and `off`."""
        return mark(super().add_argument(*names, **options), identity, off)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's own; what nobody knows is refused by the part of the command line that it was given to."""
        values, unknown = self.parse_known_args(args, namespace)
        if hasattr(values, GIVEN):
            delattr(values, GIVEN)
        if unknown:
            part: Any = self
            for action in self._actions:
                if isinstance(action, argparse._SubParsersAction):
                    part = action.choices[getattr(values, action.dest)]
            flags = [name for action in part._actions for name in action.option_strings]
            first = unknown[0].split("=")[0]
            way = f"; {part.instead[first]}" if first in part.instead else _meant(first, flags)
            part.error(f"unrecognized arguments: {' '.join(unknown)}{way}")
        return values

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse's own, with the choice that was meant."""
        if action.choices is not None and value not in action.choices:
            names = list(map(str, action.choices))
            text = f"invalid choice: {value!r} (choose from {', '.join(names)}){_meant(str(value), names)}"
            raise argparse.ArgumentError(action, text)

    def error(self, message: str) -> NoReturn:
        """Print one line to stderr and exit with code 2."""
        names = message.removeprefix(REQUIRED).split(", ") if message.startswith(REQUIRED) else []
        for action in self._actions:
            if action.dest in names and action.choices is not None:
                message += f"; {action.dest}: {', '.join(map(str, action.choices))}"
        way = "" if MEANT in message else "; --help explains all flags"
        self.exit(2, f"{self.prog}: {on_one_line(message)}{way}\n")

    def settings(self, args: Arguments) -> dict[str, Any]:
        """The recorded flags as plain JSON values. args: a namespace, or a mapping of flags where defaults are resolved."""
        values = as_mapping(args)
        return {a.dest: plain(values[a.dest]) for a in self._recorded() if a.dest in values and not _is_off(a, values)}

    def own_settings(self, args: Arguments) -> dict[str, Any]:
        """Of `settings` those that make another row of a table."""
        own = {action.dest for action in self._recorded() if _identity(action) is True}
        return {name: value for name, value in self.settings(args).items() if name in own}

    def off_values(self) -> dict[str, Any]:
        """What the flags that were added later mean where settings leave them out."""
        found = {action.dest: getattr(action, "off", UNSET) for action in self._recorded()}
        return {name: off for name, off in found.items() if off is not UNSET}

    def recorded_own(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Of `settings`, as a file of this or an earlier version has them, what compares with `own_settings`."""
        elsewhere = {action.dest for action in self._recorded() if _identity(action) is not True}
        elsewhere.add("lr_given")  # of earlier versions: whether a rate was typed, whatever it was
        return {name: plain(value) for name, value in settings.items() if name not in elsewhere}

    def non_default(self, args: Arguments) -> dict[str, str]:
        """The flags that make another row and differ from their defaults: {"--rank": "2", "--regrow": ""}, as declared.

        Without --epochs and --model, which tables and files name in any case.
        """
        values = as_mapping(args)
        found: dict[str, str] = {}
        for action in self._recorded():
            if _identity(action) is not True or action.dest in ("epochs", "model") or action.dest not in values:
                continue
            value, default = values[action.dest], _default(action, values)
            if plain(value) != default and not isinstance(value, PerModel) and not _is_off(action, values):
                found |= _as_typed(action, value)
        return found

    def unusual_epochs(self, args: Arguments) -> dict[str, str]:
        """{"--epochs": "2"} where they differ from their default, for names that don't say them in any case."""
        values = as_mapping(args)
        action = next(action for action in self._actions if action.dest == "epochs")
        return _as_typed(action, values["epochs"]) if values["epochs"] != _default(action, values) else {}

    def _recorded(self) -> list[argparse.Action]:
        return [action for action in self._actions if _identity(action) and action.dest != "help"]


def _meant(given: str, known: Sequence[str]) -> str:
    """What to say of a word that isn't known: which ones are like it."""
    like = [name for name in known if given and name.startswith(given)] or difflib.get_close_matches(given, known)
    return f"; {MEANT} {' or '.join(like)}?" if like else ""


def mark(action: argparse.Action, identity: bool | str, off: object = UNSET) -> argparse.Action:
    """Say of a flag what `Parser` describes; for flags in a group, which argparse adds itself."""
    action.identity, action.off = identity, off  # type: ignore[attr-defined]
    return action


def written(value: object) -> str:
    """A flag's value as a user would type it."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(written, value))
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def as_words(flags: dict[str, str]) -> list[str]:
    """{"--rank": "2", "--regrow": ""} to ["--rank 2", "--regrow"]."""
    return [f"{name} {value}".strip() for name, value in flags.items()]


def add_device_flags(
    parser: argparse.ArgumentParser, precision: str = "the faster of the two for network and device"
) -> None:
    """--device and --precision. precision: its default, in words."""
    mark(
        parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: a GPU if there is one)"),
        identity=False,
    )
    parser.add_argument("--precision", choices=("fp32", "bf16"), help=f"arithmetic (default: {precision})")


def add_cache_flag(parser: argparse.ArgumentParser) -> None:
    """--cache."""
    flag = parser.add_argument(
        "--cache",
        type=NOT_NEGATIVE,
        default=CACHE_MIB,
        metavar="MIB",
        help="memory for the outputs of what is frozen, so that it runs once; more goes to a file in --weights; 0: run it "
        f"each time (default: {CACHE_MIB})",
    )
    mark(flag, identity=False)


@dataclass(frozen=True)
class Number:
    """argparse type: a number of this kind within bounds, written in ASCII digits.

    least, most: its bounds. above, below: True where the bound itself is left out. What is closer to 0 than TINY, and isn't
    0, is refused, and minus 0 is 0.
    """

    kind: type[int] | type[float]
    least: float
    most: float
    above: bool = False
    below: bool = False

    def __call__(self, text: str) -> Any:
        """The number. Raises ArgumentTypeError, which says what it should be, for anything else."""
        form = WHOLE if self.kind is int else DECIMAL
        if re.fullmatch(form, text):  # int() and float() also take "1_0", other scripts' digits, nan and inf
            with contextlib.suppress(ValueError):  # more digits than int() reads
                value = self.kind(text) + self.kind(0)  # which makes 0 of minus 0
                if abs(value) < TINY and re.search("[1-9]", re.split("[eE]", text)[0]):
                    raise argparse.ArgumentTypeError(f"{shown(text)} is closer to 0 than {TINY:g}: give 0, or more")
                low = value > self.least if self.above else value >= self.least
                if low and (value < self.most if self.below else value <= self.most):
                    return value
        kind = "a whole number" if self.kind is int else "a number"
        raise argparse.ArgumentTypeError(f"{shown(text)} is not {kind} {self}")

    def __str__(self) -> str:
        least, most = (f"{bound:,}" if self.kind is int else f"{bound:g}" for bound in (self.least, self.most))
        if self.above:
            return f"above {least} and {'below' if self.below else 'at most'} {most}"
        return f"from {least} to {'below ' if self.below else ''}{most}"


# What is larger or smaller has no use, and overflows somewhere: a float32, an int64, the machine's memory.
POSITIVE_INT = Number(int, 1, 10**9)
NOT_NEGATIVE = Number(int, 0, 10**9)
PIXELS = Number(int, 1, 4096)  # a side
LORA_RANK = Number(int, 1, 4096)  # no layer of timm's is wider than that by far, and a larger one adds nothing
SEED = Number(int, 0, 2**32 - 1)  # NumPy's largest; torch has 64 bits, for seed * 1_000_003 + epoch
SYSTEM_SEED = Number(int, 0, 10**8)  # of parts, which multiply it by 100_003 before
POSITIVE_FLOAT = Number(float, TINY, 1e6)
NOT_NEGATIVE_FLOAT = Number(float, 0, 1e6)
SHARE = Number(float, 0, 1)
BELOW_ONE = Number(float, 0, 1, below=True)
FRACTION = Number(float, 1e-6, 1 - 1e-6)  # of images, of which no data set has more than some millions


def shown(text: str) -> str:
    """What a user has typed, in quotes, its beginning where it is long."""
    return repr(text if len(text) <= LONGEST else text[:LONGEST] + "...")


def main(run: Callable[[argparse.Namespace, str], object], parser: Parser) -> None:
    """Parse the command line, call run(args, command) and turn its errors into one line and an exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a table's signs, in a file whose encoding lacks them
    signal.signal(signal.SIGTERM, _terminate)
    try:
        distributed.check()
        args = parser.parse_args()
        if distributed.count() > 1 and not parser.several:
            raise UserError("it runs in one process: start it without torchrun or accelerate")
        run(args, typed_command())
        if sys.stdout:  # None where it was closed before the start
            sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has had enough
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    except KeyboardInterrupt as stop:
        if distributed.is_main():
            print(f"{parser.prog}: stopped; the same command continues", file=sys.stderr)
        sys.exit(143 if isinstance(stop, Terminated) else 130)
    except Exception as error:
        if (line := _in_words(error)) is None:
            raise
        if isinstance(error, distributed.Unconnected) or distributed.is_main():
            print(f"{parser.prog}: {on_one_line(line)}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)


def _terminate(*_: object) -> NoReturn:
    raise Terminated


def _in_words(error: Exception) -> str | None:
    """What to say of an error that isn't the program's own; None for one that is, which a traceback explains."""
    if isinstance(error, (UserError, RunFailed)):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or NO_MEMORY in str(error):
        return "there is too little memory: try a smaller --batch-size or network"
    return None


def on_one_line(text: str) -> str:
    """A message whose names may hold line ends and other signs that a terminal obeys, with those escaped."""
    return "".join(sign if sign.isprintable() else repr(sign)[1:-1] for sign in text)


def typed_command() -> str:
    """What the user has typed: `python lora.py ...`, or `python -m baselines.control ...`."""
    spec = sys.modules["__main__"].__spec__  # None for a file, the module's for -m
    script = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    typed = shlex.join(["python", *script, *sys.argv[1:]])
    return typed if len(typed) <= content.TEXT else typed[: content.TEXT - 2] + " …"  # what a file may say


def plain(value: object) -> object:
    """A flag's value as JSON can hold it; a whole number is an int, for --alpha 16 is no other setting than a default of 16.

    What JSON doesn't know is its text.
    """
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(plain, value), key=str)
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, float) and value.is_integer():
        return int(value)
    kinds: tuple[Any, ...] = (bool, int, float, str)
    for kind in kinds:
        if isinstance(value, kind):
            return kind(value)  # NumPy's float is one too, which no reader of checkpoints takes
    if value is None:
        return None
    return f"{value.__module__}.{value.__qualname__}" if isinstance(value, FunctionType) else str(value)


def _default(action: argparse.Action, values: Mapping[str, Any]) -> object:
    """A flag's default as `plain` writes it: of this network, and read as if it were typed."""
    default = action.default
    if isinstance(default, PerModel):
        default = default.of(values["model"], recipe=values.get("recipe"), grey=values.get(IN_GREY, False))
    return plain(action.type(default) if isinstance(default, str) and callable(action.type) else default)


def _as_typed(action: argparse.Action, value: object) -> dict[str, str]:
    """The flag and its value as a user would type them; {} for one of several flags that gives another value."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return {next(name for name in action.option_strings if name.startswith("--no-") != bool(value)): ""}
    name = (action.option_strings or [action.dest])[-1]
    if action.nargs == 0 and action.const is not None:  # store_true and its kind
        return {name: ""} if plain(action.const) == plain(value) else {}
    return {name: written(plain(value))}


def as_mapping(args: Arguments) -> Mapping[str, Any]:
    """The flags by name."""
    return vars(args) if isinstance(args, argparse.Namespace) else args


def _identity(action: argparse.Action) -> bool | str:
    return getattr(action, "identity", True)  # one that was added to a group, by argparse itself, has none


def _is_off(action: argparse.Action, values: Mapping[str, Any]) -> bool:
    off = getattr(action, "off", UNSET)
    return off is not UNSET and values[action.dest] == off
