"""Tables made end to end on digits, and requests as reproduce.py makes them."""

import dataclasses
import json

import reproduce
from tests.helpers import latest
from unlearning.experiments.request import Request
from unlearning.experiments.resolve import resolved

SMALL = {"subset": 300, "test": 100, "pretrain": {"resnet8": 2}, "epochs": [1]}


def make(tmp_path, monkeypatch, *arguments, table="prunelora"):
    """The result file of a table of resnet8 on digits, made in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    network = () if "--model" in arguments else ("--model", "resnet8")
    args = reproduce.parser().parse_args(latest([table, "--dataset", "digits", *network, *arguments, "--quiet"]))
    return json.loads(reproduce.run(args, "python reproduce.py").read_text(encoding="utf-8"))


def request_of(*arguments, data_of=None):
    """What these flags ask for, with as many images as the preset wants, though no data set is read but by `data_of`."""
    args = reproduce.parser().parse_args(latest(arguments))
    request = Request.from_flags(args, reproduce.table_of(args.table))
    sizes = request.sizes.get("subset"), request.sizes.get("test")
    source = dataclasses.replace(request.source, subset=sizes[0], test_subset=sizes[1])
    return resolved(dataclasses.replace(request, source=source), data_of)  # numbers of the named data sets need no data


def planned(*arguments):
    """The runs of the table that these flags ask for."""
    request = request_of(*arguments)
    return reproduce.table_of(request.table).plan(request).runs
