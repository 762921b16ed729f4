"""The means to compare with torch, and how near is near enough."""

from typing import Any

import numpy as np
import torch

# The project's standard of proof; not to be loosened to make a model pass.
LOGITS = 1e-12
STEPS = 1e-9
FLOAT32_LOGITS = 1e-4


def relative_error(ours: Any, reference: Any) -> float:
    """max |a - b| / max |b|"""
    ours, reference = np.asarray(ours), np.asarray(reference)
    assert ours.shape == reference.shape
    assert np.isfinite(ours).all() and np.isfinite(reference).all()  # max() would drop a NaN
    difference = np.abs(ours - reference).max(initial=0)
    return float(difference / max(np.abs(reference).max(initial=0), np.finfo(np.float64).tiny))


def nhwc(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 3, 1)


def randomize(module: torch.nn.Module, seed: int, last_norms: tuple[str, ...] = ()) -> None:
    """Gives every leaf a random value, biases and running statistics too.

    Weights keep the scale of their initial values, so that activations neither vanish nor blow
    up; the last norm of each residual branch is scaled down, so that the test measures the port
    and not chaos.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator, dtype=like.dtype)

    with torch.no_grad():
        for name, leaf in module.state_dict().items():
            owner, _, kind = name.rpartition(".")
            if kind == "num_batches_tracked":
                continue
            if kind == "running_var":
                leaf.copy_(0.5 + torch.rand(leaf.shape, generator=generator, dtype=leaf.dtype))
            elif kind in ("bias", "running_mean"):
                leaf.copy_(0.1 * normal(leaf))
            elif leaf.ndim == 1:
                leaf.copy_(1 + 0.1 * normal(leaf))
                if owner.rpartition(".")[2] in last_norms:
                    leaf.mul_(0.3)
            else:
                leaf.add_(0.1 * leaf.std() * normal(leaf))


def worst(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> tuple[float, str]:
    """The largest relative error among arrays of the same names, and where it is."""
    assert ours.keys() == reference.keys()
    return max((relative_error(ours[name], reference[name]), name) for name in reference)
