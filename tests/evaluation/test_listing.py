"""What lies in a folder of weights."""

import evaluate
import finetune
from tests.helpers import call, one_line
from unlearning.evaluation.listing import listing


def test_every_checkpoint_has_a_line_that_says_what_it_is(weights, capsys):
    call(evaluate, "--list", "--weights", weights)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["file", "method", "data", "forget", "set", "seed", "command"]
    assert len(lines) == 1 + len(list(weights.glob("*.pth")))
    line = next(line for line in lines if line.startswith("digits_resnet8_class3_lora2_s0.pth "))
    assert line.split()[1:5] == ["lora", "digits", "class3", "0"] and line.endswith("python lora.py")
    assert next(line for line in lines if "resnet8_original" in line).split()[1:5] == ["original", "digits", "–", "0"]


def test_a_list_is_called_by_its_file_and_by_the_digits_in_files_names(weights, tmp_path):
    (tmp_path / "some.txt").write_text("3 4 5", encoding="utf-8")
    flags = ("--dataset", "digits", "--original", weights / "digits_resnet8_original_s0.pth", "--epochs", 1, "--quiet")
    path = call(finetune, *flags, "--forget-file", tmp_path / "some.txt", "--weights", tmp_path)
    tag = path.name.split("_")[2]
    assert tag.startswith("file") and f" some.txt ({tag})  0 " in listing(tmp_path)


def test_what_is_none_is_said_or_passed_over(tmp_path, capsys):
    code, line = one_line(evaluate, capsys, "--list", "--weights", tmp_path)
    assert code == 2 and "no checkpoints in" in line
    (tmp_path / "strange.pth").write_text("no", encoding="utf-8")
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    assert [line.split()[:2] for line in listing(tmp_path).splitlines()[1:]] == [["strange.pth", "?"]]
    code, line = one_line(evaluate, capsys)
    assert code == 2 and "name the checkpoints" in line
