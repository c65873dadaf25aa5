"""What a table calls its rows: the method's name, and the flags in which rows of that method differ."""

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from unlearning.core.flags import as_words, written
from unlearning.evaluation.entries import ELSEWHERE, Entry
from unlearning.vision.identity import first_parent


def labels(entries: Iterable[Entry]) -> dict[tuple[str, str], str]:
    """What a table calls each row: the method's name plus the flags in which rows of that method differ.

    Keys: an entry's `key` and the tag of a forget set. Rates are named only where rows are otherwise called alike, for each
    row has a rate of its own.
    """
    entries = list(entries)
    files = _files_elsewhere(entries)
    tables: dict[tuple, dict[str, Entry]] = {}
    for entry in entries:
        for _, tag in entry.forgets:
            tables.setdefault((*entry.network, tag, entry.method), {})[entry.key] = entry
    found: dict[tuple[str, str], str] = {}
    for (*_, tag, method), rows in tables.items():
        same = _same_networks(rows.values())
        own = {key: {name: value for name, value in entry.flags.items() if name not in same} for key, entry in rows.items()}
        flags = {key: {**words, "--lr": ""} for key, words in own.items()}
        shown = {key: _differing(flags[key], flags.values()) for key in rows}
        names = {key: " ".join([method, *as_words(words)]) for key, words in shown.items()}
        alike: dict[tuple, list[str]] = {}
        for key, entry in rows.items():
            alike.setdefault((names[key], entry.epochs), []).append(key)
        for keys in alike.values():
            column = {name.removeprefix("--").replace("-", "_") for name in same}
            column |= {"epochs"} if rows[keys[0]].epochs else set()
            extra = _told_apart([_with_files(rows[key].identity, files) for key in keys], column)
            found |= {(key, tag): f"{names[key]} {words}".strip() for key, words in zip(keys, extra, strict=True)}
    return found


def _same_networks(entries: Collection[Entry]) -> set[str]:
    """Of the flags that say what a network from elsewhere is those in which the networks of all entries are the same,
    whether it was typed, or a checkpoint said it."""
    networks = [entry.built.get("arguments", {}).get("backbone", entry.built) for entry in entries]
    said = [{**one.get("arguments", {}), **one.get("layers", {})} for one in networks]
    alike = {name for name in ELSEWHERE if all(one.get(name) == said[0].get(name) for one in said)}
    return {f"--{name.replace('_', '-')}" for name in alike}


def _files_elsewhere(entries: Iterable[Entry]) -> dict[str, str]:
    """What tables call the originals that others have trained, by the digits of a SHA-256 in their identities: the file's
    name, of two of one name the path."""
    paths = {
        first_parent(entry.identity)["settings"].get("original"): Path(e) for entry in entries if (e := entry.elsewhere)
    }
    names = [path.name for path in paths.values()]
    return {str(one): path.name if names.count(path.name) == 1 else str(path) for one, path in paths.items()}


def _with_files(known: dict[str, Any], files: dict[str, str]) -> dict[str, Any]:
    """An identity, and those that it descends from, with files' names in the place of digits of their SHA-256."""
    settings, parent = known.get("settings", {}), known.get("parent")
    named = {"original": files[settings["original"]]} if settings.get("original") in files else {}
    return known | {"settings": settings | named} | ({"parent": _with_files(parent, files)} if parent else {})


def _told_apart(identities: list[dict[str, Any]], without: set[str]) -> list[str]:
    """The words that tell each of several identities from the others: settings, else those of its origin, else a number."""
    if len(identities) == 1:
        return [""]
    every = [_as_flags(identity["settings"], without) for identity in identities]
    words = [" ".join(as_words(_differing(flags, every))) for flags in every]
    if len(set(words)) < len(words):
        parents = [identity["parent"] or {"method": "scratch", "settings": {}, "forget": None} for identity in identities]
        origins = [_as_flags(parent["settings"]) | _forgotten(parent["forget"]) for parent in parents]
        begun = [f"{text} from {parent['method']}" for text, parent in zip(words, parents, strict=True)]
        for place, (text, flags) in enumerate(zip(begun, origins, strict=True)):
            alike = [other for other, like in zip(origins, begun, strict=True) if like == text]
            words[place] = " ".join([text, *as_words(_differing(flags, alike))])
    if len(set(words)) < len(words):
        words = [f"{text} ({place})" for place, text in enumerate(words, 1)]
    return [text.strip() for text in words]


def _forgotten(forget: dict[str, Any] | None) -> dict[str, str]:
    """What an identity says of a forget set, as the flag that would name it."""
    if not forget:
        return {}
    drawn = {f"--forget-{how}": written(forget[how]) for how in ("random", "count") if how in forget}
    return drawn or {"forgotten": forget["positions"][:8]}


def _as_flags(settings: dict[str, Any], without: Iterable[str] = ()) -> dict[str, str]:
    """Settings as flags that a user would type."""
    return {
        f"--{name.replace('_', '-')}": "" if value is True else written(value)
        for name, value in settings.items()
        if name not in without and value is not None and value is not False
    }


def _differing(flags: dict[str, str], others: Iterable[dict[str, str]]) -> dict[str, str]:
    """Of `flags` those that don't have one value in all `others`."""
    others = list(others)
    return {name: value for name, value in flags.items() if any(other.get(name) != value for other in others)}
