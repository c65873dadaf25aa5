"""Dropout with cheap masks."""

import numpy as np
import torch
from torch import nn

from unlearning.core.distributed import on_whole_batch


class Dropout(nn.Dropout):
    """nn.Dropout, but on a CPU a mask takes 16 random bits an element, so that p counts in 65,536ths.

    torch draws a number for each element, one after the other, which is a third of the time of a CNN with LoRA.
    """

    tokens = 1  # of how many tokens the network's part in training sees the first, where outputs are cached (graph_cut.py)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: floats of any shape; the same, zero with probability p, else divided by 1 - p. What is drawn for the first of
        several tokens, x (B, 1, F), is what would be drawn if the others were there."""
        if self.training and self.p and x.ndim == 3 and x.shape[1] == 1 < self.tokens:
            return x * self._dropped(torch.ones_like(x).expand(-1, self.tokens, -1).contiguous())[:, :1]
        return self._dropped(x)

    def _dropped(self, x):
        dropped = round(self.p * 2**16)
        if not self.training or x.device.type != "cpu" or not 0 < dropped < 2**16:
            return super().forward(x)
        return on_whole_batch(x, self._masked)

    def _masked(self, x):
        dropped = round(self.p * 2**16)
        generator = np.random.SFC64(int(torch.randint(2**62, ())))  # torch's own is a third as fast
        draws = generator.random_raw(-(-x.numel() // 4)).view(np.int16)[: x.numel()]
        kept = torch.from_numpy((draws >= dropped - 2**15).view(np.uint8)).to(x.dtype)
        layout = torch.empty_like(x).stride()  # a mask in another one than x would be slow
        return x * kept.mul_(2**16 / (2**16 - dropped)).as_strided(x.shape, layout)
