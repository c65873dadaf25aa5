"""Which runs wait for which: of every table by hand, and by flags alone."""

import subprocess

import pytest

import reproduce
from tests.experiments.tables import planned
from tests.helpers import latest
from unlearning.experiments.stages import dependencies, in_shell, stages
from unlearning.language.rows import Row, write_rows

LORA = ("--preset", "small", "--seeds", "2", "--methods", "lora")
# Each run by its script, in the order of the plan; after a < the positions of those whose outputs it reads.
BY_HAND = {
    "prunelora": ((*LORA, "head-only", "--model", "vit_micro"), "pretrain retrain control<0 lora<0 "
                  "pretrain retrain control<4 lora<4"),
    "random": (LORA, "pretrain retrain lora<0 pretrain retrain lora<3 pretrain retrain lora<6 pretrain retrain lora<9"),
    "sequence": ((*LORA[:2], "--seeds", "1", "--methods", "loraprune", "ssd", "--model", "resnet20"),
                 "pretrain retrain retrain retrain retrain retrain "
                 "loraprune<0 loraprune<6 loraprune<7 loraprune<8 loraprune<9 ssd<0 ssd<11 ssd<12 ssd<13 ssd<14"),
    "audit": (LORA, "pretrain retrain lora<0 pretrain retrain lora<3 retrain lora<0 retrain lora<3 "
              "retrain retrain retrain retrain"),
    "rfau": (("--seeds", "1", "--only", "images", "--methods", "randomlabel", "--model", "resnet20", "vit_micro"),
             "pretrain retrain randomlabel<0 pretrain retrain randomlabel<3"),
    "tune": (("--preset", "rfau-small", "--seeds", "1", "--methods", "badteacher", "--model", "resnet20"),
             "pretrain retrain" + 8 * " badteacher<0" + " retrain" + 8 * " badteacher<0"),
    "lmeraser": (("--seeds", "2", "--methods", "lmeraser --parts 10", "sisa --parts 5"),
                 "retrain lmeraser<0 lmeraser<0 sisa<0 retrain lmeraser<4 lmeraser<4 sisa<4"),
    "lmeraser-tune": (("--preset", "quick",), "retrain" + 18 * " lmeraser<0"),
    "llmeraser": (("--seeds", "1", "--dataset", "lastfm", "--methods", "llmeraser", "llmeraser --solver ekfac", "sisa"),
                  "llmeraser llmeraser<0 llmeraser<0 llmeraser<0 llmeraser llmeraser llmeraser llmeraser"),
}  # fmt: skip


@pytest.fixture
def lastfm(tmp_path, monkeypatch):
    """Files of that data set, in the folder that is the current one."""
    seen = 'This user has watched "A", "B", "C{}" in the previous.'
    rows = [Row(f"n{i}", (("user", seen.format(i)),), answer) for i, answer in enumerate(["Yes", "No"] * 20)]
    monkeypatch.chdir(tmp_path)
    for part in ("train", "validation", "test"):
        write_rows(tmp_path / f"data/llmeraser/lastfm-{part}.jsonl", rows)


def read(text):
    """(scripts, what each reads) of a plan as BY_HAND writes it."""
    words = [word.partition("<") for word in text.split()]
    return [script for script, _, _ in words], [{*map(int, filter(None, [place]))} for _, _, place in words]


@pytest.mark.parametrize("table", reproduce.TABLES)
def test_a_run_waits_for_exactly_those_whose_outputs_it_reads(table, lastfm):
    flags, text = BY_HAND[table]
    runs, (scripts, reads) = planned(table, *flags), read(text)
    assert [script.split(".")[-1] for script, _ in runs] == scripts
    assert dependencies(runs) == reads


def test_what_starts_from_other_weights_waits_for_none(lastfm):
    assert not any(dependencies(planned("lmeraser", "--preset", "small", "--seeds", "1")))
    runs = planned("llmeraser", "--seeds", "2", "--dataset", "lastfm", "--methods", "noadapter")
    assert dependencies(runs) == [set(), {0}, {0}, set(), {3}, {3}]


def test_an_original_is_found_by_network_data_folder_and_seed():
    same = ("--model", "resnet8", "--dataset", "digits", "--weights", "here", "--seed", "1")
    runs = [("pretrain", [*same]), ("lora", [*same, "--epochs", "2", "--device", "cpu"])]
    for flag, value in (
        *(("--seed", "2"), ("--model", "resnet20"), ("--weights", "there"), ("--subset", "500"), ("--validation", "0.1")),
        ("--original", "elsewhere.pth"),
    ):
        runs.append(("lora", latest([*same, flag, value])))
    assert dependencies(runs) == [set(), {0}, *[set()] * 6]


def test_a_file_that_another_run_writes_is_waited_for_under_any_flag():
    first, asked = ("--output", "a/original.pth"), ("--forget-class", "3")
    runs = [
        ("lora", ["--original", "a/original.pth", *asked, "--output", "a/lora.pth"]),
        ("retrain", ["--data-of", "a/lora.pth"]),
        ("pretrain", ["--model", "resnet8", *first]),
        ("retrain", [*asked, "--model", "resnet8"]),
    ]
    assert dependencies(runs) == [{2}, {0}, set(), set()]
    assert stages(runs, dependencies(runs)) == [[2, 3], [0], [1]]


def test_controls_come_last_in_their_stage_as_on_one_machine():
    runs = planned("prunelora", "--preset", "first", "--methods", "lora", "head-only")
    assert [script for script, _ in runs] == ["pretrain", "retrain", "baselines.control", "lora"]
    assert stages(runs, dependencies(runs)) == [[0, 1], [3, 2]]


def test_every_run_is_in_one_stage_after_those_that_it_reads(lastfm):
    for table in reproduce.TABLES:
        runs = planned(table, *BY_HAND[table][0])
        found = stages(runs, dependencies(runs))
        at = {place: number for number, stage in enumerate(found) for place in stage}
        assert sorted(place for stage in found for place in stage) == list(range(len(runs)))
        for place, needed in enumerate(dependencies(runs)):
            assert at[place] == max((at[other] + 1 for other in needed), default=0), (table, place)


def test_the_commands_are_a_script_for_a_shell():
    runs = planned("sequence", "--preset", "first", "--methods", "lora")
    lines = in_shell(runs)
    comments = [line for line in lines if line.startswith("#")]
    assert [line[:14] for line in comments[:-1]] == [f"# stage {n} of 6" for n in range(1, 7)]
    assert comments[1] == "# stage 2 of 6: after all of stage 1"
    assert len(lines) == len(comments) + len(runs) and "reproduce.py again, without --dry-run" in comments[-1]
    assert subprocess.run(["bash", "-n"], input="\n".join(lines), encoding="utf-8").returncode == 0
