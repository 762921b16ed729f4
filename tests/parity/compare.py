"""The means to compare with torch, and how near is near enough."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision
from families import FAMILIES
from flax import traverse_util
from quick_jit import jit

from jaxcnn import convert, models
from jaxcnn.convert.state_dict import from_torch_unchecked
from jaxcnn.models.classifier import Classifier

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


def randomize(module: torch.nn.Module, seed: int, norms_of_branch: str = r"$^()") -> None:
    """Gives every leaf a random value, biases and running statistics too.

    Weights keep the scale of their initial values, so that activations neither vanish nor blow
    up; the last norm of each residual branch (see :class:`families.Family`) is scaled down, so
    that the test measures the port and not chaos.
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


class Hardsigmoid(torch.nn.Module):
    """torch's, but its gradient in float64: torch's own has the float32 1/6, also for float64."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.relu6(x + 3) / 6


def use_exact_hardsigmoid(module: torch.nn.Module) -> None:
    """Replace torch's Hardsigmoid by the one above."""
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, torch.nn.Hardsigmoid):
                setattr(parent, name, Hardsigmoid())


def worst(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> tuple[float, str]:
    """The largest relative error among arrays of the same names, and where it is."""
    assert ours.keys() == reference.keys()
    return max((relative_error(ours[name], reference[name]), name) for name in reference)


def images(*shape: int, seed: int = 1) -> np.ndarray:
    """Normal noise, ``[N, C, H, W]``."""
    return np.random.default_rng(seed).standard_normal(shape)


def unpaired(name: str, **kwargs: Any) -> tuple[Classifier, torch.nn.Module]:
    """Our model, and torchvision's module with random values; both float64 and still."""
    family = FAMILIES[models.model_info(name).family]
    kwargs = {**family.still, **kwargs}
    torch.manual_seed(0)
    module = getattr(torchvision.models, name)(**kwargs).double()
    use_exact_hardsigmoid(module)
    randomize(module, seed=0, norms_of_branch=family.norms_of_branch)
    return models.create_model(name, **kwargs, param_dtype=np.float64), module


def pair(name: str, **kwargs: Any) -> tuple[Classifier, Any, torch.nn.Module]:
    """The same, with our variables between them."""
    model, module = unpaired(name, **kwargs)
    return model, convert.from_torch(module.state_dict(), model), module


def moved(module: torch.nn.Module) -> Any:
    """The values of ``module`` as our variables, taken out of it: the largest has 5 GB."""
    leaves: dict[tuple[str, ...], jax.Array] = {}
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        ours = traverse_util.flatten_dict(from_torch_unchecked({name: value.detach()}))
        leaves |= {path: jnp.array(leaf) for path, leaf in ours.items()}
        value.data = torch.empty(0, dtype=value.dtype)
    return traverse_util.unflatten_dict(leaves)


def ours_by_torchs_names(name: str, key: jax.Array, dtype: Any) -> dict[str, np.ndarray]:
    """The initial weights of our model."""
    model = models.create_model(name, param_dtype=dtype)
    x = jax.numpy.zeros((1, model.input_size, model.input_size, 3), dtype)
    return convert.to_torch(jit(model.init)(key, x))


def as_tuple(outputs: Any) -> tuple[Any, ...]:
    """The logits alone, or with those of the auxiliary heads."""
    return outputs if isinstance(outputs, tuple) else (outputs,)


def torchs_logits(module: torch.nn.Module, x: np.ndarray, *, train: bool) -> Any:
    """What torch gives for ``[N, C, H, W]``; in training it moves the running statistics."""
    module.train(train)
    with torch.no_grad():
        return module(torch.from_numpy(x))


def our_error(
    model: Classifier, variables: Any, x: np.ndarray, reference: Any, *, train: bool
) -> float:
    """The largest relative error among the logits and the auxiliary heads' for ``[N, C, H, W]``."""
    apply = functools.partial(model.apply, train=train, mutable=["batch_stats"])
    ours, theirs = as_tuple(jit(apply)(variables, nhwc(x))[0]), as_tuple(reference)
    assert getattr(ours, "_fields", None) == getattr(theirs, "_fields", None)
    assert all(logits.dtype == np.float64 for logits in ours)
    return max(relative_error(a, b) for a, b in zip(ours, theirs, strict=True))


def worst_logits_error(
    model: Classifier, variables: Any, module: torch.nn.Module, x: np.ndarray, *, train: bool
) -> float:
    """The same, against the reference that ``module`` gives."""
    return our_error(model, variables, x, torchs_logits(module, x, train=train), train=train)


def logits_errors(
    name: str, x: np.ndarray, *, modes: Sequence[bool] = (False, True), **kwargs: Any
) -> dict[bool, float]:
    """The same of a model of torchvision's, by ``train``."""
    model, module = unpaired(name, **kwargs)
    tracked = {n: b.clone() for n, b in module.named_buffers()}
    references = {train: torchs_logits(module, x, train=train) for train in modes}
    for buffer_name, buffer in module.named_buffers():  # a look in train mode changed them
        buffer.copy_(tracked[buffer_name])
    variables = moved(module)
    return {
        train: our_error(model, variables, x, reference, train=train)
        for train, reference in references.items()
    }
