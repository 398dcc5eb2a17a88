"""Segmentation losses of the peers, between logits (b k *space) and labels (b *space), in float32."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def one_hot(label: Tensor, classes: int) -> Tensor:
    """(b *space) -> (b k *space), float32."""
    return torch.movedim(F.one_hot(label.long(), classes), -1, 1).float()


def dice_loss(
    logits: Tensor,
    label: Tensor,
    *,
    background: bool = False,
    squared: bool = False,
    over_batch: bool = False,
    eps: float = 1e-5,
) -> Tensor:
    """1 - soft Dice of the softmax, mean over classes, and over examples unless `over_batch`."""
    first = 0 if background else 1
    s, y = logits.softmax(1)[:, first:], one_hot(label, logits.shape[1])[:, first:]
    axes = tuple(range(2, logits.ndim)) if not over_batch else (0, *range(2, logits.ndim))
    predicted = (s.square() if squared else s).sum(axes)
    return 1 - ((2 * (y * s).sum(axes) + eps) / (y.sum(axes) + predicted + eps)).mean()


def cross_entropy(logits: Tensor, label: Tensor) -> Tensor:
    """Mean over all voxels."""
    return F.cross_entropy(logits, label.long())


def transunet_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Fuse4Seg's: halves of cross-entropy and of TransUNet's Dice."""
    dice = dice_loss(logits, label, background=True, squared=True, over_batch=True)
    return 0.5 * dice + 0.5 * cross_entropy(logits, label)


def combo(logits: Tensor, label: Tensor, *, alpha: float = 0.5, beta: float = 0.5, eps: float = 1.0) -> Tensor:
    """HyperFusionNet's: entropy and Dice of each foreground class against the rest, the "weighted" form."""
    log_probs = logits.log_softmax(1)
    classes = logits.shape[1]
    others = [torch.cat([log_probs[:, :c], log_probs[:, c + 1 :]], 1).logsumexp(1) for c in range(1, classes)]
    log_s, log_rest, y = log_probs[:, 1:], torch.stack(others, 1), one_hot(label, classes)[:, 1:]
    low, high = torch.log(torch.tensor(1e-7)).item(), torch.log1p(torch.tensor(-1e-7, dtype=torch.float64)).item()
    entropy = -(beta * y * log_s.clamp(low, high) + (1 - beta) * (1 - y) * log_rest.clamp(low, high)).mean()
    s, axes = log_s.exp(), (0, *range(2, logits.ndim))
    overlap = (2 * (s * y).sum(axes) + eps) / (s.sum(axes) + y.sum(axes) + eps)
    return alpha * entropy - (1 - alpha) * overlap.mean()


def generalized_dice(logits: Tensor, label: Tensor, frequencies: Sequence[float], eps: float = 1e-7) -> Tensor:
    """InfiNet's: overlap and sizes summed over classes with weights of one over their squared frequency."""
    w = torch.tensor(frequencies, dtype=torch.float64).pow(-2)
    w = (w / w.sum()).to(logits.device, torch.float32)
    s, y, axes = logits.softmax(1), one_hot(label, logits.shape[1]), (0, *range(2, logits.ndim))
    overlap = (w * (s * y).sum(axes)).sum()
    return 1 - (2 * overlap + eps) / ((w * (s + y).sum(axes)).sum() + eps)
