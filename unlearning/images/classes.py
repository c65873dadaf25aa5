"""Names of classes: which numbers the words of a request mean, and what people call a number."""

import difflib
from collections.abc import Iterable, Mapping, Sequence

from unlearning.core.errors import UserError
from unlearning.core.words import listed

# CIFAR-100's superclasses and the five classes of each, as the files of Krizhevsky (2009) spell them.
CIFAR100 = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}


def class_numbers(words: Iterable[str | int], classes: Sequence[str], known: Sequence[int], flag: str) -> list[int]:
    """The class numbers, ascending, that the words of a request mean; all as of `in_order`."""
    return sorted(set(in_order(words, classes, known, flag)))


def in_order(words: Iterable[str | int], classes: Sequence[str], known: Sequence[int], flag: str) -> list[int]:
    """The class numbers that the words of a request mean, in their order, a class as often as it is named.

    words: numbers, names, several of these with commas between them, `id:3` for a number and nothing else, `super:fish` for
    a superclass of CIFAR-100; an int is a number. A name wins over a number, and where all names are numbers there is no
    other way to say one than `id:3`; upper and lower case, `_` and blanks are alike
    where no two classes differ in them alone. classes: names by number. known: ascending, the numbers that there are
    images of. flag: what errors begin with. Raises UserError for words that name no class, or several.
    """
    found: list[int] = []
    unknown = []
    for word in words:
        for part, numbers in _parts(word, classes, flag):
            found += numbers
            if not numbers or not set(numbers) <= set(known):
                unknown.append(part)
    if unknown:
        raise UserError(f"{flag} {listed(unknown)}: {_what_there_is(unknown, classes, known)}")
    if not found:
        raise UserError(f"{flag}: it names no class")
    return found


def class_name(classes: Sequence[str], number: int) -> str:
    """A class by its number and, where it has one, its name: "3 (Dress)"."""
    return str(number) if classes[number] == str(number) else f"{number} ({classes[number]})"


def word_of(number: int, classes: Sequence[str]) -> str:
    """The word that means this class to `class_numbers`: its number, as "id:3" where another class is called 3."""
    return str(number) if _numbers(str(number), classes, "") == [number] else f"id:{number}"


def _parts(word: str | int, classes: Sequence[str], flag: str) -> Iterable[tuple[str, list[int]]]:
    """The parts of a word that commas divide, each as long as names a class, with the numbers it means; [] for none."""
    if isinstance(word, int):
        yield str(word), [word]
        return
    pieces = word.split(",")
    while pieces:
        for end in range(len(pieces), 0, -1):  # names may have commas themselves
            part = ",".join(pieces[:end]).strip()
            numbers = _numbers(part, classes, flag)
            if numbers or end == 1:
                break
        if part:
            yield part, numbers
        pieces = pieces[end:]


def _numbers(word: str, classes: Sequence[str], flag: str) -> list[int]:
    """The class numbers that a word means, which needn't be there; [] for none."""
    kind, _, rest = word.partition(":")
    if kind == "id" and _is_number(rest):
        return [int(rest)]
    supers = _superclasses(classes)
    return (
        _named(word, {name: [number] for number, name in enumerate(classes)}, flag)
        or (_named(rest, supers, flag) if kind == "super" else [])
        or ([int(word)] if _is_number(word) and not _are_called_otherwise(classes) else [])
        or _named(word, supers, flag)
    )


def _named(word: str, names: Mapping[str, list[int]], flag: str) -> list[int]:
    """What a name stands for, itself or, where one alone is like it, in other letters. Raises UserError for several."""
    if word in names:
        return names[word]
    like = [name for name in names if _plainly(name) == _plainly(word)]
    if len(like) > 1:
        raise UserError(f"{flag} {word}: there are {' and '.join(like)}; spell it as one of them")
    return names[like[0]] if like else []


def _superclasses(classes: Sequence[str]) -> dict[str, list[int]]:
    """The superclasses of these classes, with their numbers; {} where they aren't CIFAR-100's."""
    if set(classes) != {name for names in CIFAR100.values() for name in names}:
        return {}
    return {name: [classes.index(one) for one in names] for name, names in CIFAR100.items()}


def _plainly(name: str) -> str:
    return name.casefold().replace("_", " ").strip()


def _are_called_otherwise(classes: Sequence[str]) -> bool:
    """True where all names are whole numbers and not the classes' own: a number that isn't among them is a mistake."""
    return all(map(_is_number, classes)) and any(name != str(number) for number, name in enumerate(classes))


def _is_number(word: str) -> bool:
    digits = word.strip().removeprefix("-")
    return digits.isascii() and digits.isdigit()


def _what_there_is(unknown: Sequence[str], classes: Sequence[str], known: Sequence[int]) -> str:
    """What to say of words that name no class: which names are like them, and which classes there are."""
    names = {_plainly(name): name for name in (*_superclasses(classes), *(classes[c] for c in known))}
    words = [_plainly(word.removeprefix("super:")) for word in unknown if not _is_number(word)]
    like = [names[one] for word in words for one in difflib.get_close_matches(word, names)]
    meant = f"did you mean {listed(dict.fromkeys(like))}? " if like else ""
    if set(classes) == set(CIFAR100):
        within = {_plainly(one): f"{one} is a subclass of {name}; " for name, kinds in CIFAR100.items() for one in kinds}
        meant = "".join(within[word] for word in words if word in within) or meant
    if all(classes[c] == str(c) for c in known):
        return f"{meant}the classes are {known[0]} to {known[-1]}"
    return f"{meant}the classes are {known[0]} to {known[-1]}: {listed(class_name(classes, c) for c in known)}"
