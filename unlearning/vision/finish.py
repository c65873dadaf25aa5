"""How a run ends: its checkpoint, and the adapter beside it, take their places, and its snapshot goes."""

from typing import Any

from unlearning.core import distributed
from unlearning.core.files import Staged, save_torch, writing
from unlearning.vision import adapter_files
from unlearning.vision.snapshots import Snapshot


def stage(staged: Staged, checkpoint: dict[str, Any], snapshot: Snapshot) -> None:
    """Write what takes its place when `staged` is committed; on rank 0 alone. Raises RunFailed on a full disk."""
    if not distributed.is_main():
        return
    beside = adapter_files.beside(staged)
    with writing(staged.main):
        save_torch(staged.part(staged.main), checkpoint | beside)
    if snapshot.path.is_file():
        staged.without(snapshot.path)
