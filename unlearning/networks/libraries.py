"""Networks of torchvision and of Hugging Face, by names that begin with the library's."""

from typing import Any

from torch import nn

from unlearning.core.errors import UserError
from unlearning.core.words import first_line

TORCHVISION, HUGGING_FACE, TIMM = "torchvision:", "hf:", "timm:"
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation with which torchvision's were trained


def torchvision_names() -> list[str]:
    """The names of torchvision's networks that classify images."""
    from torchvision import models

    return models.list_models(models)


def check_torchvision(name: str) -> None:
    """Raise UserError for a name that isn't of `torchvision_names`."""
    known = torchvision_names()
    if name not in known:
        raise UserError(f"torchvision has no network {name!r}; it has {', '.join(known[:5])} ...")


def from_torchvision(name: str, num_classes: int, small_stem: bool = False, **size: Any) -> nn.Module:
    """torchvision's network `name`, freshly initialised.

    small_stem: a ResNet whose first convolution is 3x3 of stride 1, without the pooling behind it, as people change it for
    CIFAR's images. size: image_size for a transformer. Raises UserError for an unknown name or
    a size that it can't be made for.
    """
    from torchvision import models

    check_torchvision(name)
    own: dict[str, Any] = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    own |= size if name.startswith("vit_") else {}
    try:
        net: Any = models.get_model(name, weights=None, num_classes=num_classes, **own)
    except (AssertionError, ValueError) as error:  # a size that isn't made of whole patches
        why = f"{size.get('image_size')} pixels: give another --input-size ({first_line(error)})"
        raise UserError(f"torchvision's {name} can't be made for images of {why}") from None
    if small_stem:
        first = net.conv1
        net.conv1 = nn.Conv2d(first.in_channels, first.out_channels, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
    return net


def from_hugging_face(config: dict[str, Any]) -> nn.Module:
    """A network for image classification of transformers, freshly initialised, that returns its logits alone.

    config: what the model's config.json holds. Raises UserError for one that transformers doesn't know.
    """
    from transformers import AutoConfig, AutoModelForImageClassification

    try:
        known = {name: value for name, value in config.items() if name != "model_type"}
        net = AutoModelForImageClassification.from_config(AutoConfig.for_model(config["model_type"], **known))
    except Exception as error:  # each configuration fails in a way of its own
        raise UserError(f"transformers makes no image classifier of this configuration ({first_line(error)})") from None
    return returning_logits(net.float())  # the configuration of weights kept in half precision asks for that


def returning_logits(net: nn.Module) -> nn.Module:
    """`net`, a classifier of transformers, whose calls return the logits in the place of an object that holds them."""
    net.register_forward_hook(_logits)
    return net


def _logits(module, inputs, output):
    return output.logits
