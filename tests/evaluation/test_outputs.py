"""The files that evaluate.py writes: none of anyone's is lost."""

import copy

import pytest

import evaluate
import retrain
from tests.helpers import call, files, full_disk, one_line
from unlearning.core.errors import RunFailed
from unlearning.evaluation import collect
from unlearning.reports import style, tables


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A Retrain, hardly trained."""
    flags = ("--dataset", "digits", "--subset", 120, "--model", "resnet8", "--epochs", 1, "--forget-class", 3, "--quiet")
    return call(retrain, *flags, "--output", tmp_path_factory.mktemp("weights") / "x.pth")


def test_plots_overwrite_no_picture_unasked(path, tmp_path, capsys):
    """Also where none has a name that would be written."""
    for name in ("metrics.png", "mine.png"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).write_bytes(b"mine")
        before = files(tmp_path)
        code, line = one_line(evaluate, capsys, path, "--plots", folder)  # without --quiet: a scored file would be said
        assert code == 2 and "holds pictures; --overwrite" in line and files(tmp_path) == before


def test_a_full_disk_leaves_the_old_file_of_every_form(path, tmp_path, monkeypatch):
    kept, score = [], collect.score_files

    def scored_once(*arguments, keep, **how):
        kept.extend([] if kept else score(*arguments, beneath=False, keep="answers", **how))
        return [{key: row[key] for key in row if keep or key != "account"} for row in copy.deepcopy(kept)]

    monkeypatch.setattr(collect, "score_files", scored_once)
    for flag in (*tables.FORMS, "html", "plots"):
        old = tmp_path / flag / ("metrics.png" if flag == "plots" else "x.txt")
        old.parent.mkdir()
        old.write_bytes(b"Comment\0" + style.DRAWN_HERE.encode() if flag == "plots" else b"old")
        before = files(tmp_path)
        again = (evaluate, path, f"--{flag}", old.parent if flag == "plots" else old, "--overwrite", "--quiet")
        with full_disk(), pytest.raises(RunFailed, match=f"cannot write .*{old.name}: No space left"):
            call(*again)
        assert files(tmp_path) == before
        call(*again)
        assert files(tmp_path)[f"{flag}/{old.name}"] != before[f"{flag}/{old.name}"]
