"""What is known of each named data set before its files are read."""

from dataclasses import dataclass

# German road signs come in sides of 15 to 250 pixels. All are resized to 48, as the winner of their competition had them
# (Cireşan et al. 2012): near the usual side, and 0.3 GB in memory, where the 224 of a ViT-B/16 would be 5.9.
GTSRB_SIDE = 48
NEUTRAL = (0.5, 0.5)  # mean and standard deviation for images of no published ones: -1 to 1

Constants = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel, pixels from 0 to 1


@dataclass(frozen=True)
class NamedSet:
    """A data set that has a name here.

    sizes: training and test images. shape: channels and side in pixels. classes: how many. published: Constants, where there
    are any; statistics of the images at hand would carry what is to be forgotten into Retrain. mirrored: whether training
    mirrors images: a mirrored digit is another sign, and a mirrored arrow too.
    """

    sizes: tuple[int, int]
    shape: tuple[int, int]
    classes: int = 10
    published: Constants | None = None
    mirrored: bool = True


_CIFAR100 = ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
NAMED_SETS = {
    "digits": NamedSet((1433, 364), (1, 8), mirrored=False),
    "fashion-mnist": NamedSet((60_000, 10_000), (1, 28), published=((0.2860,), (0.3530,))),
    "mnist": NamedSet((60_000, 10_000), (1, 28), published=((0.1307,), (0.3081,)), mirrored=False),
    "cifar10": NamedSet((50_000, 10_000), (3, 32), published=((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))),
    "cifar100": NamedSet((50_000, 10_000), (3, 32), 100, _CIFAR100),
    "cifar100-coarse": NamedSet((50_000, 10_000), (3, 32), 20, _CIFAR100),
    "svhn": NamedSet(
        (73_257, 26_032), (3, 32), published=((0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)), mirrored=False
    ),
    "gtsrb": NamedSet((26_640, 12_630), (3, GTSRB_SIDE), 43, mirrored=False),  # sizes of torchvision's archives
}


def constants(name: str, channels: int) -> Constants:
    """Mean and standard deviation of each channel: the published ones, or for other images NEUTRAL."""
    mean, std = ((value,) * channels for value in NEUTRAL)
    known = NAMED_SETS.get(name)
    return known.published if known and known.published else (mean, std)
