"""How the published scripts of LoRA-Unlearn (arXiv 2411.11907) unlearn and evaluate: the yardstick of benchmarks.compare.

Images are PIL pictures behind a DataLoader with two workers; everything computes in fp32 and in the contiguous layout; the
whole network runs at each epoch, frozen or not; LoRA is PEFT's; pruning sets rows to zero and forgets which; evaluation
passes over its sets one after the other, six times, and builds the gradient's graph each time. Written from what is known of
those scripts, without their mistakes: a ViT's attention projection gets its gradient here. Favourable to them:
normalisation is a layer of the network, and the workers only make tensors.
"""

import sys

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import ToTensor

import data
from unlearning.vision import adapters, pruning

BATCH = 128
WORKERS = 2
MEMBERS, OTHERS = 0.2, 0.5  # of D_r and of the test images in the attack's passes: 9,000 of 45,000 and 5,000 of 10,000


class Pictures(Dataset):
    """A data.Split as torchvision's data sets hold one: an array, and a PIL image made of it when asked for."""

    def __init__(self, split: data.Split) -> None:
        self.pixels = split.images.permute(0, 2, 3, 1).numpy()
        self.labels = split.labels.tolist()
        self.transform = ToTensor()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index].squeeze())), self.labels[index]


def loader(split: data.Split, shuffle: bool = False) -> DataLoader:
    """Batches of a data.Split out of two workers, forked as on any Linux, whatever process this is; Windows has no fork."""
    start = "spawn" if sys.platform == "win32" else "fork"
    return DataLoader(Pictures(split), BATCH, shuffle, num_workers=WORKERS, multiprocessing_context=start)


def unlearn(model: nn.Module, method: str, retain: data.Split, epochs: int, lr: float, rank: int, alpha: float) -> nn.Module:
    """Train `model` on `retain` for `epochs` epochs of Adam; method: finetune, pruneft, lora or loraprune. The network, not
    merged."""
    if "prune" in method:
        pruning.prune_filters(model, 0.5, whole=False)
    if "lora" in method:
        model = adapters.attach(model, adapters.last_and_head(model), rank, alpha, 0.1)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=lr)
    batches, device = loader(retain, shuffle=True), next(model.parameters()).device
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x.to(device)), y.to(device)).backward()
            optimizer.step()
    return model


def evaluate(model: nn.Module, forget: data.Split, retain: data.Split, test: data.Split) -> list[float]:
    """The accuracies in percent on `forget`, `retain` and `test`, after six passes: these three, then the attack's members,
    its non-members and what it is asked about."""
    members, others = retain.take(slice(round(MEMBERS * len(retain)))), test.take(slice(round(OTHERS * len(test))))
    accuracies, device = [], next(model.parameters()).device
    for split in (forget, retain, test, members, others, forget):
        model.eval()
        right = 0
        for x, y in loader(split):
            right += (model(x.to(device)).argmax(1) == y.to(device)).sum().item()
        accuracies.append(100 * right / len(split))
    return accuracies[:3]
