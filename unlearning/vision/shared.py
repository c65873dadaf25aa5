"""What several runs in one process hand on to each other, so that it is read or computed once."""

from pathlib import Path
from typing import Any

import data
from unlearning.core import words
from unlearning.core.files import read_and_digest
from unlearning.core.flags import CACHE_MIB
from unlearning.core.paths import stamp
from unlearning.vision.feature_cache import FeatureCache

KEPT = 2**30  # bytes of files, at most, whose content is kept


class Files:
    """What files of `torch.save` hold, and their SHA-256: each is read once, as long as it stays as it is and KEPT has room.

    Of those that don't fit any more the oldest go, and are read again where they are asked for.
    """

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[tuple[int, ...], Any, str]] = {}

    def read(self, path: Path) -> tuple[Any, str]:
        """(The content, the digest) of a file. Raises UserError as `read_torch` does."""
        now = stamp(path)
        if path in self._kept and self._kept[path][0] == now:
            return self._kept[path][1:]
        found = read_and_digest(path)
        self._kept.pop(path, None)
        if now and now[1] <= KEPT:
            self._kept[path] = now, *found
            while sum(size for (_, size, *_), *_ in self._kept.values()) > KEPT:
                del self._kept[next(iter(self._kept))]
        return found


class Shared:
    """The data set read last, the cached outputs of frozen layers, and what checkpoints hold.

    cache_mib: memory for these outputs in MiB; 0 caches nothing.
    """

    def __init__(self, cache_mib: int = CACHE_MIB) -> None:
        self.features, self.files = FeatureCache(cache_mib), Files()
        self._read: tuple[data.Source, data.Dataset] | None = None
        self._said: set[str] = set()

    def load(self, source: data.Source) -> data.Dataset:
        """The data set; read again only if another one was read in between."""
        if self._read is None or self._read[0] != source:
            self._read = None  # before the next one is read, so that only one at a time takes memory
            self._read = source, source.load(self._say)
        return self._read[1]

    def _say(self, line: str) -> None:
        """Say a line about data once, however often they are read."""
        if line not in self._said:
            self._said.add(line)
            words.say(line)
