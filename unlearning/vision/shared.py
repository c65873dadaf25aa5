"""What several runs in one process hand on to each other, so that it is read or computed once."""

import data
from unlearning.core import words
from unlearning.core.flags import CACHE_MIB
from unlearning.vision.feature_cache import FeatureCache


class Shared:
    """The data set read last, and the cached outputs of frozen layers.

    cache_mib: memory for these outputs in MiB; 0 caches nothing.
    """

    def __init__(self, cache_mib: int = CACHE_MIB) -> None:
        self.features = FeatureCache(cache_mib)
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
