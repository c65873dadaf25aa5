"""Words that name classes: by name before number, in any spelling, and what is said of others."""

import re

import pytest

from unlearning.core.errors import UserError
from unlearning.images.classes import CIFAR100, class_numbers, word_of

FASHION = ("T-shirt/top", "Trouser", "Dress", "Ankle boot", "Bag")
ODD = ("10", "2", "cat", "Cat", "lions, tigers", "id:7")  # as a folder's classes may be called
# The superclass of each class, both in alphabetical order, as CIFAR-100's own files have them.
COARSE = """
4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7
6 13 15 3 15 0 11 1 10 12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10
16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 2 10 0 1 16
12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13
"""
FINE = tuple(sorted(name for names in CIFAR100.values() for name in names))


def numbers(words, classes=FASHION, flag="--forget-class"):
    return class_numbers(words, classes, range(len(classes)), flag)


def test_each_class_of_cifar100_is_in_the_superclass_that_its_files_say():
    assert list(CIFAR100) == sorted(CIFAR100) and len(FINE) == len(set(FINE)) == 100
    places = [list(CIFAR100).index(next(name for name in CIFAR100 if fine in CIFAR100[name])) for fine in FINE]
    assert places == [int(place) for place in COARSE.split()]
    assert not set(FINE) & set(CIFAR100)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["Dress"], [2]),
        (["2"], [2]),
        (["2,4"], [2, 4]),
        (["4", "2", "2"], [2, 4]),
        (["dress,bag"], [2, 4]),
        (["Dress", "bag, 0"], [0, 2, 4]),
        (["ankle boot"], [3]),
        (["ANKLE_BOOT,T-shirt/top"], [0, 3]),
        (["id:3"], [3]),
        ([3], [3]),
    ],
)
def test_names_and_numbers_mean_classes(words, expected):
    assert numbers(words) == expected


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["10"], [0]),  # a name wins
        (["2"], [1]),
        (["id:2"], [2]),
        ([2], [2]),
        (["3"], [3]),  # no class is called so
        (["cat"], [2]),
        (["Cat"], [3]),
        (["lions, tigers"], [4]),
        (["2,lions, tigers,cat"], [1, 2, 4]),
        (["LIONS, tigers"], [4]),
        (["id:5"], [5]),
    ],
)
def test_a_name_wins_over_a_number_and_may_have_commas(words, expected):
    assert numbers(words, ODD) == expected


def test_a_class_has_a_word_that_means_it_whatever_others_are_called():
    words = [word_of(number, ODD) for number in range(6)]
    assert words == ["0", "1", "id:2", "3", "4", "5"] and [numbers([word], ODD) for word in words] == [[i] for i in range(6)]


def test_superclasses_of_cifar100_go_by_name():
    fish = [FINE.index(name) for name in ("aquarium_fish", "flatfish", "ray", "shark", "trout")]
    mammals = [FINE.index(name) for name in ("beaver", "dolphin", "otter", "seal", "whale")]
    assert numbers(["fish"], FINE) == numbers(["super:Fish"], FINE) == sorted(fish)
    assert numbers(["aquatic mammals", "maple tree"], FINE) == sorted([*mammals, FINE.index("maple_tree")])
    assert numbers(["vehicles_1,super:large man-made outdoor things"], FINE) == sorted(
        FINE.index(name) for name in (*CIFAR100["vehicles_1"], *CIFAR100["large_man-made_outdoor_things"])
    )


@pytest.mark.parametrize(
    ("words", "classes", "message"),
    [
        (
            ["5"],
            FASHION,
            "--forget-class 5: the classes are 0 to 4: 0 (T-shirt/top), 1 (Trouser), 2 (Dress)",
        ),
        (["-1", "7", "Bag"], FASHION, "--forget-class -1, 7: the classes are 0 to 4"),
        (["id:10"], ODD[:2], "--forget-class id:10: the classes are 0 to 1: 0 (10), 1 (2)"),
        (["dres", "x"], FASHION, "--forget-class dres, x: did you mean Dress? the classes are 0 to 4: 0 (T-shirt/top)"),
        (["dress,hat"], FASHION, "--forget-class hat: "),
        (["CAT"], ODD, "--forget-class CAT: there are cat and Cat; spell it as one of them"),
        ([","], FASHION, "--forget-class: it names no class"),
        (["super:fish"], FASHION, "--forget-class super:fish: the classes are 0 to 4"),
        (["super:fsih"], FINE, "--forget-class super:fsih: did you mean fish? "),
        (["aquatic mamals"], FINE, "did you mean aquatic_mammals? "),
        (["11"], tuple("0123456789"), "--forget-class 11: the classes are 0 to 9"),
        (["nothing"], FINE, "4 (beaver), 5 (bed), 6 (bee), 7 (beetle), 8 (bicycle), 9 (bottle) and 90 more"),
    ],
)
def test_what_names_no_class_is_said_with_those_that_there_are(words, classes, message):
    with pytest.raises(UserError, match=re.escape(message)):
        numbers(words, classes)


def test_a_class_without_training_images_cannot_be_forgotten():
    with pytest.raises(UserError, match=r"Dress: .*classes are 0 to 4: 0 \(T-shirt/top\), 1 \(Trouser\), 3 \("):
        class_numbers(["Dress"], FASHION, [0, 1, 3, 4], "--forget-class")
