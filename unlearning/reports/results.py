"""TODO unlearning.reports.results."""

import json
import re
from itertools import groupby
from pathlib import Path

from unlearning.core.errors import UserError


def by_forget_set(rows):
    """(heading, rows) of each data set, network and forget set."""
    groups = groupby(rows, key=lambda row: (row["dataset"], row["model"], row["forget"]))
    return [(", ".join(key), list(group)) for key, group in groups]


PROVENANCE = ("command", "date", "hardware", "versions")


def dump(result):
    """The result as JSON, lists of numbers on one line."""
    text = json.dumps(result, indent=1)
    return re.sub(r"\[\s+([-\d.,eE\s]+?)\s+\]", lambda found: "[" + re.sub(r"\s+", " ", found[1]) + "]", text) + "\n"


def read(path):
    """The result in the JSON file `path`. Raises UserError if it holds none."""
    try:
        content = json.loads(Path(path).read_text())
        content["rows"][0]["metrics"]
        return content
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} is not a result file ({error})") from None


def joined(result, path):
    """`result` with the rows that the file `path`, if there is one, has of other networks and forget sets, and what made
    those."""
    if not Path(path).exists():
        return result
    before = read(path)
    own = set(map(_subject, result["rows"]))
    kept = [row for row in before["rows"] if _subject(row) not in own]
    left, earlier = list(dict.fromkeys(map(_subject, kept))), []
    for run in [*before.get("earlier", []), before]:
        of = [subject for subject in left if subject in run.get("of", left)]
        left = [subject for subject in left if subject not in of]
        if of:
            earlier.append({"of": of} | {key: run[key] for key in PROVENANCE})
    return result | {"rows": kept + result["rows"]} | ({"earlier": earlier} if earlier else {})


def _subject(row):
    return f"{row['model']}, {row['forget']}"
