"""Answers of scored networks on the test images and on the forget set, as reports/answers.py describes them."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import data
from unlearning.core.files import sha256
from unlearning.evaluation.entries import Entry
from unlearning.evaluation.forget_sets import own_positions
from unlearning.images import forgetting
from unlearning.reports.answers import PICTURED, Account, Answers, Asked, File
from unlearning.vision.identity import digest


def of_network(
    entry: Entry,
    logits: Sequence[torch.Tensor],
    dataset: data.Dataset,
    about: data.Dataset,
    forget: torch.Tensor,
    pictures: bool,
) -> dict[str, Any]:
    """What a single network's row keeps: `asked` and `answers`.

    logits: float32 (N, C) of the training and of the test images of `dataset`, on which the file is scored. about: all that
    it could be scored on. forget: int64 positions in all training images. pictures: also keep images of the forget set.
    """
    own = own_positions(entry, forget)
    count = max(len(dataset.classes), logits[0].shape[1])
    classes = [forgetting.class_name(dataset.classes, c) for c in range(len(dataset.classes))]
    classes += [str(c) for c in range(len(classes), count)]
    shown = own[data.first_of_each(dataset.train.labels[own], PICTURED)] if pictures else own[:0]
    asked = _asked(entry, about, forget, classes, dataset.part(shown))
    probability, answered = logits[0][shown].softmax(1).max(1)
    answers = Answers(
        file=_file(entry),
        test=confusion(logits[1], dataset.test.labels, count),
        forgotten=confusion(logits[0][own], dataset.train.labels[own], count),
        examples=[(classes[c], p) for c, p in zip(answered.tolist(), probability.tolist(), strict=True)],
        votes=entry.path.is_dir(),
    )
    return {"asked": asked, "answers": answers}


def account(group: Sequence[dict[str, Any]]) -> Account:
    """The account of a row from its seeds' single rows, ascending; each has `before` and `retrained`, the answers of its
    original and of its Retrain, or None."""
    first, files = group[0], tuple(row["answers"].file for row in group)
    return Account(first["asked"], first["before"], first["answers"], first["retrained"], files)


def confusion(logits: torch.Tensor, labels: torch.Tensor, classes: int) -> np.ndarray:
    """How many images of each true class (row) were answered with each class (column): int64 (classes, classes).

    logits: float32 (N, C), C at most `classes`; labels: int64 (N,).
    """
    pairs = labels * classes + logits.argmax(1)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).numpy()


def _asked(entry: Entry, dataset: data.Dataset, forget: torch.Tensor, classes: list[str], shown: data.Split) -> Asked:
    labels, own = dataset.train.labels, own_positions(replace(entry, drawn=None), forget)
    inside, every = (torch.bincount(y, minlength=len(classes)).tolist() for y in (labels[own], labels))
    return Asked(
        count=len(forget),
        total=len(labels),
        per_class=[(name, part, whole) for name, part, whole in zip(classes, inside, every, strict=True) if part],
        digest=digest(forget),
        fingerprint=dataset.fingerprint,
        classes=classes,
        whole=forgetting.whole_classes(labels, own),
        images=shown.images[:].permute(0, 2, 3, 1).contiguous().numpy(),
        truth=[classes[label] for label in shown.labels.tolist()],
        private=entry.private is not None,
        names=sorted(dataset.whole.called(forget)) if dataset.whole.files else (),
    )


def _file(entry: Entry) -> File:
    folder = entry.path.is_dir()
    return File(
        path=entry.path,
        method=entry.method,
        sha256=sha256_of(entry),
        seed=entry.seed,
        command=entry.command,
        device=entry.device,
        date=entry.date,
        is_folder=folder,
        holds_list=len(entry.forget) > 0 and not folder,
        exact=entry.is_exact,
    )


def sha256_of(entry: Entry) -> str:
    """The SHA-256 of a file, or `folder_sha256`."""
    return folder_sha256(entry.path) if entry.sha256 is None or entry.path.is_dir() else entry.sha256


def folder_sha256(folder: Path) -> str:
    """The digest that `LC_ALL=C sha256sum * | sha256sum` prints in a folder of files."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return hashlib.sha256(os.fsencode("".join(f"{sha256(path)}  {path.name}\n" for path in files))).hexdigest()
