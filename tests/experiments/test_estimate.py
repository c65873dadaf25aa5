"""What a plan says of hours and memory is its rule's arithmetic, by numbers that are worked out by hand."""

import pytest

import llmeraser as script
import reproduce
from tests.experiments.test_llmeraser import FILES, put
from tests.helpers import call
from unlearning.experiments import estimate, llmeraser
from unlearning.experiments.estimate import How, Rows, Size, Work
from unlearning.language import aim, controls

TINY = Size(1000, 2, 8, 2, 50, {"q": (8, 8), "v": (8, 4)})


def test_hours_and_memory_are_by_the_rule():
    """1,000 parameters, 10 tokens and 360 passes are 2 * 1,000 * 10 * 360 = 7.2e6 FLOPs: 2 hours at 1,000 a second. Of 100
    tokens of a batch, 8 wide, a block's activations are 800 * (34 + 5 * 2 * 10 / 8) = 37,200 bytes, and what two blocks are
    given is 3,200. The base takes 2,000 bytes, 30 trained numbers 4 * 4 * 30 = 480, logits of 6 tokens 3,600."""
    hours, gib = estimate.cost(TINY, Work(360, 100), 10, 30, 6, speed=1000)
    assert hours == pytest.approx(2) and gib * 2**30 == pytest.approx(2000 + 480 + 37_200 + 3_200 + 3_600)
    _, gib = estimate.cost(TINY, Work(360, 100, 2, 5), 10, 30, 6, speed=1000)
    assert gib * 2**30 == pytest.approx(2000 + 480 + 20 + 2 * 2 * 37_200 + 3_600)
    assert TINY.adapted(["q", "v"], 3) == 2 * 3 * (16 + 12)
    assert TINY.squares(["q", "v"], 3) == 2 * (64 + 9 + 9 + 64 + 64 + 9 + 9 + 16)


def test_passes_are_those_of_each_method():
    """Of 100 rows, 10 asked, 20 unseen, 30 to test on with 2 answers: three passes of a gradient, four of a product. 60 are
    for losses before and after a request, 900 for choosing, 330 for the right side and how far the adapter is from rest."""
    found = estimate.works(Rows(100, 10, 20, 30, 2, 7.0), How(3, 8, 40, 4, 500, 6, 9))
    passes = {kind: work.passes for kind, work in found.items()}
    assert passes == {
        "corrupted": 900,
        "retrain": 960,
        "llmeraser": 60 + 330 + 900 + 4 * 40 * 100,
        "llmeraser --solver adam": 60 + 330 + 900 + 4 * 600,
        "llmeraser --solver ekfac": 60 + 330 + 900 + 500,
        "gradascent": 60 + 20 * (30 + 200),
        "graddiff": 60 + 20 * (30 + 200) + 20 * 96,
        "npo": 60 + 20 * (30 + 200) + 20 * 96,
        "finetune": 360,
        "sisa": 225,
        "noadapter": 60,
        "scoring": 30 * 5 + 20,
    }
    assert {kind for kind, work in found.items() if work.batch == 40} == found.keys()  # 8 rows of 7 tokens are more
    assert estimate.works(Rows(100, 10, 20, 30, 2, 2.0), How(3, 8, 40, 4, 500, 6, 9))["retrain"].batch == 16
    assert (found["llmeraser"].beside, found["llmeraser --solver ekfac"].beside) == (240, 18)


def test_the_end_of_runs_on_several_machines_is_as_by_hand():
    """Two originals of 4 and 2 s, a method of 3 s on the first, three of 1 s on the second. Two machines: the first original
    until 4, the second until 2; the method of 3 s is given to the machine that is free at 2, and begins at 4, until 7; those
    of 1 s begin at 4 on the other, until 7. One machine takes the sum; many take the longest chain."""
    seconds, needed, order = [4, 2, 3, 1, 1, 1], [set(), set(), {0}, {1}, {1}, {1}], range(6)
    assert [estimate.makespan(seconds, needed, order, count) for count in (1, 2, 9)] == [12, 7, 7]
    assert estimate.makespan([3, 2, 2, 1], [set()] * 4, [1, 2, 0, 3], 2) == 5
    assert estimate.passes(["--epochs", "7", "--seed", "3"]) == 7 and estimate.passes(["--seed", "3"]) == 1


def test_what_it_counts_is_what_scripts_do():
    assert len(script.DAMPINGS) * len(script.LENGTHS) == estimate.CHOICES and aim.LOOKED_AT == estimate.LOOKED_AT
    assert (controls.STEPS, controls.SIZE) == (estimate.STEPS, estimate.OTHERS)
    assert llmeraser.MINI == script.MINI * llmeraser.STEPS
    size = estimate.SIZES["meta-llama/Llama-2-7b-hf"]
    inner = 11_008  # published, as are the numbers of Size
    block = 4 * size.width**2 + 3 * size.width * inner + 2 * size.width
    assert size.parameters == size.blocks * block + 2 * size.vocabulary * size.width + size.width
    assert size.adapted(["q_proj", "v_proj"], 8) == 4_194_304  # as PEFT says of it


def test_a_dry_run_of_the_papers_preset_ends_with_hours_and_memory(tmp_path, monkeypatch, capsys):
    """As comments, so that all of it is still a shell's; of adapters in one block nothing is said."""
    monkeypatch.chdir(tmp_path)
    for task in FILES:
        put(tmp_path / "data", task, (400, 100, 100))
    call(reproduce, "llmeraser", "--preset", "paper", "--seeds", 1, "--dry-run", "--quiet")
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("# about"))
    assert all(line.startswith(("python llmeraser.py ", "# stage ", "# then ")) for line in lines[:first])
    about, _, *kinds = lines[first:]
    assert about.startswith("# about ") and "an estimate, not measured: 2 N FLOPs" in about
    counts = {line[2:].rsplit(maxsplit=3)[0]: line.split()[-3:] for line in kinds}
    assert counts.keys() == {*llmeraser.ROWS, "scoring"}
    assert {kind: int(some[0]) for kind, some in counts.items()} == {kind: 3 for kind in llmeraser.ROWS} | {
        "sisa": 12,
        "scoring": 3 * 14,
    }
    assert float(counts["llmeraser"][1]) > float(counts["retrain"][1]) > 0
    assert 90 < int(counts["llmeraser"][2]) < 130 and 13 <= int(counts["corrupted"][2]) < 20
    for base in ((), ("--model", "meta-llama/Llama-2-7b-hf")):
        call(reproduce, "llmeraser", "--dataset", "lastfm", *base, "--dry-run", "--quiet")
        assert "# about" not in capsys.readouterr().out
