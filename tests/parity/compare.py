"""The means to compare with torch, and how near is near enough."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torchvision
from families import FAMILIES
from flax import traverse_util

from jaxcnn import convert, models
from jaxcnn.convert.state_dict import from_torch_unchecked
from jaxcnn.models.classifier import Classifier
from jaxcnn.testing import randomize, relative_error, use_exact_hardsigmoid
from jaxcnn.testing.arrays import relative_errors
from jaxcnn.testing.compiling import jit
from jaxcnn.testing.steps import as_tuple

FLOAT32_LOGITS = 1e-4


def nhwc(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 2, 3, 1)


def worst(ours: dict[str, np.ndarray], reference: dict[str, np.ndarray]) -> tuple[float, str]:
    """The largest relative error among arrays of the same names, and where it is."""
    return max((error, name) for name, error in relative_errors(ours, reference).items())


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
