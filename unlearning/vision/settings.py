"""The flags of a run, read-only."""

from collections.abc import Iterator, Mapping
from typing import Any


class Settings(Mapping[str, Any]):
    """Flags, defaults resolved for the network: settings.lr or settings["lr"]; nothing can be changed."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        vars(self)["_values"] = dict(values)

    def __getattr__(self, name: str) -> Any:
        try:
            return vars(self)["_values"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name}: settings don't change once they are made")

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
