"""The PyTorch side of a comparison: in float64, with random values for every parameter."""

import copy
import re

import torch


def randomize(module: torch.nn.Module, seed: int = 0, norms_of_branch: str = r"$^()") -> None:
    r"""Give every parameter and running statistic a random value, in place.

    A comparison of initial values would not see a bias or a running statistic that is used
    wrongly: they are zeros and ones. Weights keep the scale of their initial values, so that
    activations neither vanish nor blow up.

    Args:
        module: PyTorch's.
        seed: of the values.
        norms_of_branch: regular expression of the paths of the norms in a residual branch, whose
            group is the branch: ``r"(layer\d\.\d+)\.bn\d$"``. The last norm of each branch is
            scaled by 0.3, so that a comparison of training steps measures the port and not chaos.
            By default none.

    Example::

        module = torchvision.models.resnet18().double()
        randomize(module, norms_of_branch=r"(layer\d\.\d+)\.bn\d$")
    """
    generator = torch.Generator().manual_seed(seed)
    matches = (re.match(norms_of_branch, name) for name, _ in module.named_modules())
    last_norms = {match[1]: match[0] for match in matches if match}.values()

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
                if owner in last_norms:
                    leaf.mul_(0.3)
            else:
                leaf.add_(0.1 * leaf.std() * normal(leaf))


class _Hardsigmoid(torch.nn.Module):
    """The same function with an exact gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute it elementwise."""
        return torch.nn.functional.relu6(x + 3) / 6


def use_exact_hardsigmoid(module: torch.nn.Module) -> None:
    """Replace PyTorch's Hardsigmoid within a module, in place.

    Its gradient has the float32 value of 1/6 also in float64, which is wrong from the eighth digit.
    """
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, torch.nn.Hardsigmoid):
                setattr(parent, name, _Hardsigmoid())


def reference_copy(module: torch.nn.Module, train: bool, seed: int | None) -> torch.nn.Module:
    """A copy of a PyTorch module that a comparison can run and change.

    Args:
        module: is left as it is.
        train: the mode of the copy.
        seed: of random values, see :func:`randomize`; None: the module's own.

    Returns:
        The copy, in float64.
    """
    reference = copy.deepcopy(module).double().train(train)
    use_exact_hardsigmoid(reference)
    if seed is not None:
        randomize(reference, seed)
    return reference
