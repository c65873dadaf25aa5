"""The lines of docs/scale.md that make arrays of a dry run, by a queue that carries out what it is given."""

import os
import re
import subprocess

from tests.experiments.tables import planned
from tests.helpers import ROOT
from unlearning.experiments.plan import command
from unlearning.experiments.stages import dependencies, in_shell, stages

# Notes its options in queue.txt, carries out what it wraps for each task of the array, and prints the job's number.
SBATCH = """#!/bin/bash
last=1 job=$(($(wc -l < queue.txt) + 1))
for word; do
    case $word in --array=1-*) last=${word#--array=1-};; esac
done
echo "${*:1:$#-1}" >> queue.txt
for task in $(seq $last); do SLURM_ARRAY_TASK_ID=$task bash -c "${*: -1}" >> ran$job.txt; done
echo $job
"""
PYTHON = """#!/bin/bash
if [[ $* == *--dry-run ]]; then cat dry.txt; else echo "python $*"; fi
"""


def test_a_queue_gets_each_stage_as_an_array_after_the_one_before(tmp_path):
    runs = planned("sequence", "--preset", "first", "--methods", "lora", "ssd")
    (tmp_path / "dry.txt").write_text("\n".join(in_shell(runs)) + "\n", encoding="utf-8")
    (tmp_path / "queue.txt").touch()
    for name, text in (("sbatch", SBATCH), ("python", PYTHON)):
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    (script,) = re.findall(r"```bash\n(.+?)```", (ROOT / "docs/scale.md").read_text(encoding="utf-8"), re.DOTALL)
    way = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, env=way, check=True, timeout=60)
    found = stages(runs, dependencies(runs))
    queued = (tmp_path / "queue.txt").read_text(encoding="utf-8").splitlines()
    assert len(queued) == len(found) + 1 == 7
    for number, stage in enumerate(found, 1):
        ran = (tmp_path / f"ran{number}.txt").read_text(encoding="utf-8").splitlines()
        assert ran == [command(*runs[place]) for place in stage]
        assert ("--dependency" in queued[number - 1]) == (number > 1)
        assert f"--array=1-{len(stage)} " in queued[number - 1]
        assert f"--dependency=afterok:{number} " in queued[number]
    last = tmp_path / f"ran{len(queued)}.txt"
    assert last.read_text(encoding="utf-8") == "python reproduce.py prunelora\n" and "--array" not in queued[-1]
