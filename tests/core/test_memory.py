"""How much memory there is, and lower bounds of what is needed."""

import io
import math
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from unlearning.core import memory
from unlearning.core.errors import UserError
from unlearning.core.files import read_torch

GIB = 2**30


def system(root, files):
    """A file system below `root` with files of these texts."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


MACHINE = {"proc/meminfo": f"MemTotal: 9 kB\nMemAvailable:   {8 * 2**20} kB\n"}
SECOND = {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": f"{5 * GIB}\n"}
SECOND |= {"sys/fs/cgroup/a/memory.current": f"{4 * GIB}\n", "sys/fs/cgroup/a/memory.stat": f"x 1\ninactive_file {GIB}\n"}
FIRST = {"proc/self/cgroup": "5:cpu:/x\n4:memory:/a\n", "sys/fs/cgroup/memory/a/memory.limit_in_bytes": f"{3 * GIB}"}
FIRST |= {"sys/fs/cgroup/memory/a/memory.usage_in_bytes": f"{2 * GIB}"}
NO_LIMIT = {"sys/fs/cgroup/a/b/memory.max": "max\n", "sys/fs/cgroup/a/b/memory.current": "1\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        (MACHINE, 8 * GIB),
        (MACHINE | SECOND, 2 * GIB),  # cached files can be let go; the limit is that of an outer group
        (MACHINE | SECOND | NO_LIMIT, 2 * GIB),
        (MACHINE | FIRST, GIB),
        (SECOND | {"sys/fs/cgroup/a/memory.current": str(9 * GIB)}, 0),
    ],
    ids=["nobody says", "machine", "version 2", "no limit within", "version 1", "too much"],
)
def test_what_is_free_is_the_least_that_anyone_says(tmp_path, files, expected):
    assert memory.available(system(tmp_path, files)) == expected


def test_what_is_needed_is_said_beside_what_is_free(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2.0 * GIB)
    memory.check(2 * GIB, "it")
    with pytest.raises(UserError, match=r"^it needs at least 3\.5 GiB of memory, of which 2\.0 GiB are free: shrink it$"):
        memory.check(3.5 * GIB, "it", ": shrink it")


class Mean(nn.Module):
    """The mean of each of eight channels."""

    def forward(self, x):
        return x.view(len(x), 8, -1).mean(2)


def network():
    """Of 224 weights, 16 weights with 16 statistics and a counter of eight bytes, and 18 weights."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), Mean(), nn.Linear(8, 2))


def test_the_size_of_a_network_is_known_before_it_is_made():
    before = torch.get_rng_state()
    assert memory.network_bytes(network) == memory.weight_bytes(network()) == 4 * (224 + 16 + 16 + 18) + 8
    torch.set_rng_state(before)
    memory.network_bytes(lambda: nn.Linear(10**7, 10**7))  # 364 TiB
    assert torch.equal(torch.get_rng_state(), before)

    def fails():
        raise ValueError("no")

    assert memory.network_bytes(fails) == 0


def test_the_largest_layer_counts_what_goes_in_and_out():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Dropout(), Mean(), nn.Linear(8, 2))
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert memory.layer_bytes(model, (5, 3, 10, 10)) == 5 * 100 * 4 * (3 + 8)
    assert memory.layer_bytes(model, (10**6, 3, 1000, 1000)) == 10**12 * 4 * (3 + 8)
    assert [module.training for module in model] == [True, False, True, True] and model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model[0]._forward_hooks
    assert memory.layer_bytes(model, (5, 4, 10, 10)) == 0  # it takes no such images


def bomb(path, name, content, size):
    """A zip file whose one member says that it unpacks to so many bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, content)
        archive.infolist()[0].file_size = size
    return path


@pytest.mark.parametrize("kind", ["pth", "npz"])
def test_an_archive_that_unpacks_to_more_than_there_is_is_refused(tmp_path, kind):
    content = io.BytesIO()
    np.save(content, np.zeros(3))
    path = bomb(tmp_path / f"a.{kind}", "x.npy", content.getvalue(), 2**50)
    with pytest.raises(
        UserError, match=rf"a\.{kind}: what it unpacks to needs at least 1,048,576\.0 GiB of memory, of which"
    ):
        read_torch(path) if kind == "pth" else memory.check_archive(path)


def test_what_is_no_archive_passes(tmp_path):
    (tmp_path / "a").write_text("PK", encoding="utf-8")
    memory.check_archive(tmp_path / "a")
    memory.check_archive(tmp_path / "nothing")
    memory.check_archive(bomb(tmp_path / "small.npz", "x", b"", 10))
