"""What is said of a training that can't go on."""

from torch import nn


def if_not_finite(model: nn.Module) -> str:
    """What to do if the loss of `model`, about to be trained, isn't finite: its weights may say so beforehand."""
    for name, weight in model.named_parameters():
        if not weight.isfinite().all():
            return f"{name} is not finite from the start, as in the control mask: give another --original"
    return "try a smaller --lr or --precision fp32"
