"""One HTML page about a request to be forgotten: what was asked, what was measured, and what the numbers don't say.

The page needs no other file and no script, and nothing in it is fetched. Every text from outside is escaped.
"""

import base64
import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from unlearning.reports import results, tables
from unlearning.reports.answers import Account, Answers, Asked, Reported, unlearned
from unlearning.reports.columns import COLUMNS, PAGE
from unlearning.reports.results import row_names

MEANING = {  # of each column of PAGE in one sentence
    "UA": "The share of the forgotten training images that the network no longer answers with their own class.",
    "RA": "The accuracy on the training images that were to be kept.",
    "TA": "The accuracy on test images, without those of classes that are forgotten as a whole.",
    "MIA": "The share of the forgotten training images that a membership attack takes for images never trained on.",
    "MIA_draw_sd": "MIA-Efficacy is a mean over draws of the images that the attack is fitted on. This is the draws' "
    "standard deviation in percentage points, the mean over seeds.",
    "gap": "The mean absolute difference from Retrain in UA, RA, TA and MIA-Efficacy, in percentage points.",
    "probe": "The accuracy on the forgotten class's test images of a new linear layer that reads the network's features: "
    "what is left beneath the last layer.",
    "seconds": "The time that making the network took: training for Original and Retrain, unlearning alone for the others.",
}
FOLDED_FROM, NAMED = 20, 12  # a matrix of more classes than the first shows as many as the second and puts the rest together
TOGETHER = 4  # true classes of a forget set up to which one matrix shows all networks
LISTED = 20  # classes of a forget set that are named with their counts, and images that are named


@dataclass(frozen=True)
class Cell:
    """A count in a matrix. share: of its row, from 0 to 1. kind: "right", "wrong", or "" for neither."""

    count: int
    share: float
    kind: str


@dataclass(frozen=True)
class Line:
    """A row of a matrix.

    name: of the true class. network: whose answers, "" where the caption says it. forgotten: true for a class that is
    forgotten as a whole.
    """

    name: str
    network: str
    forgotten: bool
    cells: list[Cell]


def html(result: dict[str, Any], accounts: Sequence[Account]) -> str:
    """The page for a result of evaluate.py and the accounts of its rows, in the same order."""
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    rows = [row | {"account": account} for row, account in zip(result["rows"], accounts, strict=True)]
    sections = [
        _section(
            heading, [(row | {"method": name}, row["account"]) for row, name in zip(group, row_names(group), strict=True)]
        )
        for heading, group in results.by_forget_set(rows)
    ]
    page = environment.get_template("page.html.jinja").render(
        result=result,
        sections=sections,
        has_pictures=any(section["pictures"] for section in sections),
        general=_general_limits(accounts),
    )
    return page.encode(errors="backslashreplace").decode()  # a file's name need not be text


def _section(heading: str, reported: list[Reported]) -> dict[str, Any]:
    """What the template needs of one data set, network and forget set."""
    asked = reported[0][1].asked
    rows = [row for row, _ in reported]
    keys = [key for key in PAGE if any(key in row["metrics"] for row in rows)]
    there = {account.method: (row, account) for row, account in reported}
    retrain = there.get("retrain")
    return {
        "heading": heading,
        "asked": asked,
        "names": asked.names[:LISTED],
        "names_digest": hashlib.sha256(b"".join(os.fsencode(f"{name}\n") for name in asked.names)).hexdigest(),
        "classes": asked.per_class[:LISTED],
        "more_classes": len(asked.per_class) - LISTED,
        "share": f"{100 * asked.count / asked.total:.3g}",
        "files": _files(reported),
        "has_list": any(file.holds_list for _, account in reported for file in account.files),
        "has_folder": any(file.is_folder for _, account in reported for file in account.files),
        "summary": [_summary(row, account) for row, account in unlearned(reported)],
        "missing": [f"No {name} was found: {what}" for name, what in _ABSENT.items() if name.lower() not in there]
        if not _is_exact(reported)
        else [EXACT],
        "columns": _columns(keys, retrain and retrain[0]),
        "rows": [_row(row, keys) for row in rows],
        "reasons": tables.reasons(rows, keys),
        "methods": [_method(row, account) for row, account in unlearned(reported)],
        "pictures": _pictures(reported),
        "limits": _limits(reported, retrain and retrain[0]),
    }


_ABSENT = {
    "Original": "what the network answered before is not on this page.",
    "Retrain": "how a network that never saw these images would answer is not known here.",
}


EXACT = (
    "The images were deleted exactly: each part that had seen one was trained again from its start without it, and neither "
    "another part nor the backbone has seen it. Training everything again without them (Retrain) would give this system."
)


def _is_exact(reported: list[Reported]) -> bool:
    """True where every row is a system that the images were deleted from."""
    return all(file.exact for _, account in reported for file in account.files)


def _files(reported: list[Reported]) -> list[dict[str, Any]]:
    return [{"method": row["method"], "file": file} for row, account in reported for file in account.files]


def _summary(row: dict[str, Any], account: Account) -> dict[str, Any]:
    """A few sentences about one row."""
    count, scored = account.asked.count, account.after.forgotten.sum()
    which = f"{scored:,} forgotten training images that were scored, of {count:,}," if scored < count else ""
    which = which or f"{count:,} forgotten training images"
    said = [f"{_right(account.after)} of the {which} are still answered with their own class."]
    if account.before:
        said.append(f"Of the original's answers {_right(account.before)} were.")
    if account.retrained and account.method != "retrain":
        said.append(f"Of the answers of Retrain, which never saw them, {_right(account.retrained)} are.")
    if account.method != "retrain" and "mean" in row["metrics"].get("gap", {}):
        said.append(f"The average gap from Retrain is {tables.cell(row, 'gap')} points.")
    if row["n"] > 1:
        said.append("The counts are those of the first seed.")
    return {"method": row["method"], "sentences": said}


def _right(answers: Answers) -> str:
    return f"{np.trace(answers.forgotten):,}"


def _columns(keys: Sequence[str], retrain: dict[str, Any] | None) -> list[dict[str, str]]:
    """Title, meaning and ideal of each column."""
    found = []
    for key in keys:
        known = tables.cell(retrain, key) if retrain else ""
        if key == "gap":
            ideal = "0, as Retrain has by definition"
        elif key == "MIA_draw_sd":
            ideal = "0: all draws say the same"
        elif key == "seconds":
            ideal = "much less than Retrain's" + (f" {known}" if known else "")
        else:
            found_there = retrain["metrics"].get(key, {}) if retrain else {}
            if "mean" in found_there:
                ideal = f"Retrain's, {known}" + ("" if known.startswith("100.00") else ", not 100")
            else:
                ideal = (
                    f"none: {found_there['missing']}" if "missing" in found_there else "Retrain's, which is not known here"
                )
        found.append({"title": COLUMNS[key].title, "meaning": MEANING[key], "ideal": ideal})
    return found


def _row(row: dict[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {
        "method": row["method"],
        "epochs": row["epochs"],
        "n": row["n"],
        "cells": [tables.cell(row, key) for key in keys],
    }


def _method(row: dict[str, Any], account: Account) -> dict[str, Any]:
    """The matrices of one row: the forget set's, and the test images' before and after."""
    asked = account.asked
    networks = {"original": account.before} if account.before else {}
    networks[row["method"]] = account.after
    beside = {"retrain": account.retrained} if account.retrained and account.method != "retrain" else {}
    tests = [answers.test for answers in networks.values()]
    kept = _shown(tests, np.flatnonzero(account.after.forgotten.sum(1)).tolist())
    rest = len(asked.classes) - len(kept)
    return {
        "name": row["method"],
        "file": account.after.file,
        "several": row["n"] > 1,
        "votes": account.after.votes,
        "heads": [str(c) for c in kept] + (["other"] if rest else []),
        "rest": rest,
        "networks": len(networks | beside),
        "forgotten": _forgotten(networks | beside, asked, kept),
        "tests": [_matrix("Test images", name, answers.test, asked, kept) for name, answers in networks.items()],
    }


def _forgotten(networks: dict[str, Answers], asked: Asked, kept: list[int]) -> list[dict[str, Any]]:
    """The forget set's matrices: of few true classes one for all networks, a row for each class and network."""
    scored = next(iter(networks.values())).forgotten.sum()
    title = "Forgotten training images" + (f", {scored:,} of {asked.count:,}" if scored < asked.count else "")
    if len(asked.per_class) > TOGETHER:
        return [_matrix(title, name, answers.forgotten, asked, kept) for name, answers in networks.items()]
    each = [_lines(answers.forgotten, asked, kept, name) for name, answers in networks.items()]
    together = [line for same in zip(*each, strict=True) for line in same]
    true = [line for line in together if any(cell.count for cell in line.cells)]
    return [{"caption": title, "lines": true}]


def _matrix(title: str, name: str, counts: np.ndarray, asked: Asked, kept: list[int]) -> dict[str, Any]:
    """One network's matrix and its caption. name: "original", "retrain", or what is between them."""
    when = {"original": "before: ", "retrain": ""}.get(name, "after: ")
    right = f"{np.trace(counts):,} of {counts.sum():,} answered with their own class"
    return {"caption": f"{title}, {when}{name} ({right})", "lines": _lines(counts, asked, kept)}


def _shown(matrices: list[np.ndarray], forgotten: list[int]) -> list[int]:
    """The classes that have a row and a column of their own: all, or those of the forget set and those that changed most."""
    count = len(matrices[0])
    if count <= FOLDED_FROM:
        return list(range(count))
    change = np.abs(matrices[-1] - matrices[0])
    weight = change.sum(0) + change.sum(1)
    order = sorted(range(count), key=lambda c: (c not in forgotten, -weight[c], c))
    return sorted(order[:NAMED])


def _lines(counts: np.ndarray, asked: Asked, kept: list[int], network: str = "") -> list[Line]:
    """A matrix as lines; all classes that are not in `kept` are one row and one column, the last."""
    size = len(kept)
    place = np.full(len(counts), size)
    place[kept] = np.arange(size)
    folded = np.zeros((size + 1, size + 1), dtype=np.int64)
    np.add.at(folded, (place[:, None], place[None, :]), counts)
    if size == len(counts):
        folded = folded[:-1, :-1]
    lines = []
    for row, found in enumerate(folded.tolist()):
        other, total = row == size, max(sum(found), 1)
        cells = [Cell(n, n / total, _kind(row, column, other)) for column, n in enumerate(found)]
        name, forgotten = ("other", False) if other else (asked.classes[kept[row]], kept[row] in asked.whole)
        lines.append(Line(name, network, forgotten, cells))
    return lines


def _kind(row: int, column: int, other: bool) -> str:
    if row != column:
        return "wrong"
    return "" if other else "right"  # one of the rest answered with another of the rest may be either


def _pictures(reported: list[Reported]) -> list[dict[str, Any]]:
    """Images of the forget set, each with what the networks answered: the originals first, each once."""
    networks: dict[Path, tuple[str, Answers]] = {}
    for _, account in reported:
        if account.before:
            networks.setdefault(account.before.file.path, ("original", account.before))
    several = len(networks) > 1
    networks = {
        path: (f"{name}, seed {answers.file.seed}" if several else name, answers)
        for path, (name, answers) in networks.items()
    }
    for row, account in reported:
        networks.setdefault(account.after.file.path, (row["method"], account.after))
    asked = reported[0][1].asked
    return [
        {
            "source": _as_png(image),
            "truth": truth,
            "answered": [(name, *answers.examples[i]) for name, answers in networks.values()],
        }
        for i, (image, truth) in enumerate(zip(asked.images, asked.truth, strict=True))
    ]


def _as_png(image: np.ndarray) -> str:
    """An image uint8 (H, W, C) as the address of a picture that holds it."""
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _limits(reported: list[Reported], retrain: dict[str, Any] | None) -> list[str]:
    """What the numbers of one forget set don't say."""
    if retrain:
        found = [
            "The numbers compare with a network that was trained again without these images (Retrain). "
            "Answers that are alike don't prove that the weights hold nothing."
        ]
    elif _is_exact(reported):
        found = ["That the deletion is exact is a property of the method, which this page doesn't measure."]
    else:
        found = ["There is no Retrain to compare with: a high UA alone is no proof of forgetting, and nor is a low one."]
    whole = reported[0][1].asked.whole
    probed = [(row, account) for row, account in reported if "mean" in row["metrics"].get("probe", {})]
    for row, account in probed:
        if account.method in ("original", "retrain"):
            continue
        beside = f", from Retrain's {tables.cell(retrain, 'probe')} %" if retrain else ""
        found.append(
            f"From the features of {row['method']} a probe still reads {tables.cell(row, 'probe')} % of the forgotten "
            f"{'class' if whole else 'subclass'}'s test images right{beside}."
        )
    if not whole and not probed:  # a subclass that is forgotten has a probe
        found.append("No class is forgotten as a whole, so no probe can tell what is left beneath the last layer.")
    fewest = min(row["n"] for row, _ in reported)
    if fewest == 1:
        found.append("A row with n = 1 rests on one network: another seed gives other numbers, and there is no interval.")
    else:
        found.append(f"Each row rests on {fewest} networks or more; matrices and images are those of the first seed alone.")
    return found


def _general_limits(accounts: Sequence[Account]) -> list[str]:
    """What no page of this kind says."""
    found = [
        "The membership attack looks at one network. What it finds is a lower bound: an attacker who trains many networks "
        "of the same kind may find more.",
        "Only the files named here were measured. Copies of the images or of the weights elsewhere, backups, and networks "
        "trained from the original are not touched.",
        "Images that show the same person or thing and are not in the forget set were not looked for.",
        "This page is not signed. The digests say which files and which images it is about; the command, run again on those "
        "files, has to give the same numbers, up to the rounding of other hardware.",
    ]
    if any(account.asked.private for account in accounts):
        found.append("A system of several learners is scored on its private images alone; its public ones are not measured.")
    return found
