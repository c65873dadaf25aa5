"""TODO unlearning.core.flags."""

import argparse
import shlex
import sys
from pathlib import Path

from unlearning.core import distributed
from unlearning.core.errors import RunFailed, UserError

CACHE_MIB = 4096


class PerModel(dict):
    """A default that depends on the network: {"resnet8": 3e-3, "paper": 1e-3}, "paper" for every other network."""

    def __str__(self):
        rest = ", ".join(f"{value:g} for {name}" for name, value in self.items() if name != "paper")
        return f"{self['paper']:g}" + (f"; {rest}" if rest else "")


def add_device_flags(parser):
    """--device and --precision."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="arithmetic (default: the faster of the two for network and device)"
    )


def add_cache_flag(parser):
    """--cache."""
    parser.add_argument(
        "--cache",
        type=not_negative,
        default=CACHE_MIB,
        metavar="MIB",
        help="memory for the outputs of what is frozen, so that it runs once; more goes to a file in --weights; 0: run it "
        f"each time (default: {CACHE_MIB})",
    )


def positive_int(text):
    """argparse type: an integer above 0."""
    if (value := int(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def not_negative(text):
    """argparse type: an integer from 0 on."""
    if (value := int(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def positive_float(text):
    """argparse type: a finite number above 0."""
    if not 0 < (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def fraction(text):
    """argparse type: a number above 0 and below 1."""
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _command():
    """What the user has typed: `python lora.py ...`, or `python -m baselines.control ...`."""
    spec = sys.modules["__main__"].__spec__  # None for a file, the module's for -m
    script = ["-m", spec.name] if spec else [Path(sys.argv[0]).name]
    return shlex.join(["python", *script, *sys.argv[1:]])


def main(run, parser):
    """Parse the command line, call run(config) and turn its errors into one line and an exit code."""
    try:
        config = parser.parse_args()
        config.command = _command()
        run(config)
    except (UserError, RunFailed) as error:
        if distributed.is_main():
            print(f"{parser.prog}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UserError) else 1)
    except KeyboardInterrupt:
        print(f"{parser.prog}: stopped; the same command continues", file=sys.stderr)
        sys.exit(130)
