"""Optimizers as torch computes them, and what comes before and after their update."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcnn.errors import UserError, suggest
from jaxcnn.training.parameters import kinds

# The arguments of each optimizer, config.optimizer_args, with their defaults.
OPTIMIZERS: dict[str, Mapping[str, float]] = {
    "sgd": {},
    "rmsprop": {"alpha": 0.9, "eps": 0.0316},  # torchvision's reference
    "adamw": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "lars": {"trust_coefficient": 0.001},
    "lamb": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-6},
}
# Those that take momentum.
WITH_MOMENTUM = ("sgd", "rmsprop", "lars")
WITH_NESTEROV = ("sgd", "lars")


@dataclasses.dataclass(frozen=True)
class WeightDecay:
    """Weight decay by kind of parameter, as torchvision's ``set_weight_decay``.

    Attributes:
        weights: of kernels, and of what has no other value.
        norms: of the parameters of norms; None: ``weights``.
        biases: of all biases, those of norms included; None: that of the layer's kind.
    """

    weights: float = 0.0
    norms: float | None = None
    biases: float | None = None

    def transformation(self) -> optax.GradientTransformation:
        """Adds each parameter times its weight decay to its gradient."""
        if self.norms is None and self.biases is None:  # the same, without looking at names
            return optax.add_decayed_weights(self.weights)
        norms = self.weights if self.norms is None else self.norms
        decays = {
            "weight": self.weights,
            "bias": self.weights if self.biases is None else self.biases,
            "norm": norms,
            "norm_bias": norms if self.biases is None else self.biases,
        }

        def add(updates: Any, params: Any) -> Any:
            return jax.tree.map(
                lambda g, p, kind: g + decays[kind] * p, updates, params, kinds(params)
            )

        return optax.stateless(add)


NO_DECAY = WeightDecay()


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """``torch.optim.SGD``: weight decay is added before momentum, the rate is applied after it.

    ``g += weight_decay * p; buffer = momentum * buffer + g; p -= learning_rate * buffer``, on all
    parameters, biases and norms included.

    Example::

        optimizer = sgd(0.1, momentum=0.9, weight_decay=1e-4)
    """
    return make_optimizer(
        "sgd",
        learning_rate,
        momentum=momentum,
        weight_decay=WeightDecay(weight_decay),
        nesterov=nesterov,
    )


def make_optimizer(
    name: str,
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: WeightDecay = NO_DECAY,
    arguments: Mapping[str, float] | None = None,
    clip_norm: float | None = None,
    clip_adaptive: float | None = None,
    rates: Sequence[Callable[[Any], Any]] = (),
    filter_radius: float | None = None,
    plateau: bool = False,
) -> optax.GradientTransformation:
    """An optimizer as torch computes it.

    * ``"sgd"``: ``torch.optim.SGD``.
    * ``"rmsprop"``: ``torch.optim.RMSprop``, whose momentum accumulates before the rate is
      applied, and whose ``eps`` is outside of the root.
    * ``"adamw"``: ``torch.optim.AdamW``; its weight decay is apart from the gradient.
    * ``"lars"``: You et al. 2017, as optax has it; norms and biases have no trust ratio.
    * ``"lamb"``: You et al. 2019, likewise.

    Args:
        name: one of ``OPTIMIZERS``.
        learning_rate: a number, or a function of the step.
        momentum: of those in ``WITH_MOMENTUM``.
        nesterov: of SGD and LARS.
        weight_decay: by kind of parameter.
        arguments: those of ``OPTIMIZERS`` that differ from their defaults.
        clip_norm: first, gradients are scaled down to this global norm
            (``torch.nn.utils.clip_grad_norm_``).
        clip_adaptive: likewise, the gradient of each unit to this fraction of its parameters'
            norm (Brock et al. 2021, section 4.1).
        rates: each gives every parameter's factor on the learning rate, a tree like the
            parameters.
        filter_radius: see :func:`renormalize_filters`, which comes last.
        plateau: whether the learning rate is also multiplied by a factor that
            :func:`with_rate_factor` sets.

    Raises:
        UserError: for an unknown optimizer, or an argument that it does not take.

    Example::

        decay = WeightDecay(0.05, norms=0.0)
        optimizer = make_optimizer("adamw", schedule, weight_decay=decay, clip_norm=1.0)
    """
    if name not in OPTIMIZERS:
        raise UserError(f"There is no optimizer {name!r}; {suggest(name, OPTIMIZERS)}")
    given = dict(arguments or {})
    for key in given:
        if key not in OPTIMIZERS[name]:
            accepted = ", ".join(OPTIMIZERS[name]) or "none"
            raise UserError(
                f"The optimizer {name} got an unexpected argument {key!r}; accepted: {accepted}."
            )
    if momentum and name not in WITH_MOMENTUM:
        raise UserError(f"The optimizer {name} takes no momentum; leave it out.")
    if nesterov and name not in WITH_NESTEROV:
        raise UserError(f"The optimizer {name} has no Nesterov momentum; set nesterov=False.")
    values = {**OPTIMIZERS[name], **given}

    rate = optax.scale_by_learning_rate(learning_rate)
    if plateau:
        rate = optax.chain(rate, _scale_by_rate_factor())
    decay = weight_decay.transformation()
    trace = optax.trace(momentum, nesterov) if momentum else optax.identity()
    if name == "sgd":
        stages = [decay, optax.chain(trace, rate)]
    elif name == "rmsprop":
        scale = optax.scale_by_rms(values["alpha"], values["eps"], eps_in_sqrt=False)
        stages = [decay, scale, trace, rate]
    elif name == "lars":
        ratio = optax.scale_by_trust_ratio(trust_coefficient=values["trust_coefficient"])
        stages = [decay, optax.masked(ratio, _is_weight), rate, trace]
    else:
        adam = optax.scale_by_adam(values["beta1"], values["beta2"], values["eps"])
        stages = [_of_each_parameter(adam), decay, rate]
        if name == "lamb":
            stages.insert(2, optax.masked(optax.scale_by_trust_ratio(), _is_weight))

    before, after = [], []
    if clip_norm is not None:
        before.append(clip_by_global_norm(clip_norm))
    if clip_adaptive is not None:
        before.append(optax.adaptive_grad_clip(clip_adaptive))
    after += map(_scale_by_rates, rates)
    if filter_radius is not None:
        after.append(renormalize_filters(filter_radius))
    return optax.chain(*before, *stages, *after)


def _is_weight(params: Any) -> Any:
    return jax.tree.map(lambda kind: kind == "weight", kinds(params))


def _of_each_parameter(
    transformation: optax.GradientTransformation,
) -> optax.GradientTransformation:
    """A transformation with a state for each parameter, its count of steps too.

    As torch's: a parameter that is unfrozen later starts to count then.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(transformation.init, params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        leaves, tree = jax.tree.flatten(updates)
        pairs = [
            transformation.update(leaf, own)
            for leaf, own in zip(leaves, tree.flatten_up_to(state), strict=True)
        ]
        return tuple(tree.unflatten(part) for part in zip(*pairs, strict=True))

    return optax.GradientTransformation(init, update)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """``torch.nn.utils.clip_grad_norm_``, which adds 1e-6 to the norm that it divides by."""

    def clip(updates: Any, params: Any) -> Any:
        factor = jnp.minimum(max_norm / (optax.tree.norm(updates) + 1e-6), 1.0)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates)

    return optax.stateless(clip)


def _scale_by_rates(rates: Callable[[Any], Any]) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, rate: u * rate, updates, rates(params))
    )


def renormalize_filters(radius: float = 0.1) -> optax.GradientTransformation:
    """Scale convolution filters that an update makes too large back to a root mean square.

    Zeiler and Fergus 2013, section 3: each filter whose root mean square exceeds ``radius`` is
    brought to it. Their radius of 0.1 is for inputs of about -128 to 128: with inputs of unit
    variance it hardly acts.

    Must come last: it changes the updates so that the parameters after them are renormalized, to
    the rounding of one addition.
    """

    def renormalized(update: jax.Array, kernel: jax.Array) -> jax.Array:
        if kernel.ndim <= 2:
            return update
        new = kernel + update
        mean_square = jnp.mean(jnp.square(new), axis=range(kernel.ndim - 1))
        too_large = mean_square > radius**2
        factor = jnp.where(too_large, radius / jnp.sqrt(jnp.where(too_large, mean_square, 1)), 1)
        return jnp.where(too_large, new * factor - kernel, update)

    return optax.stateless(lambda updates, params: jax.tree.map(renormalized, updates, params))


class RateFactorState(NamedTuple):
    """What the learning rate is multiplied by, beside its schedule."""

    rate_factor: jax.Array


def _scale_by_rate_factor() -> optax.GradientTransformation:
    def init(params: Any) -> RateFactorState:
        return RateFactorState(jnp.ones((), jnp.result_type(float)))

    def update(updates: Any, state: RateFactorState, params: Any = None) -> tuple[Any, Any]:
        factor = state.rate_factor
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    return optax.GradientTransformation(init, update)


def with_rate_factor(opt_state: Any, factor: float) -> Any:
    """The state of an optimizer with ``plateau``, with another factor on its learning rate.

    Args:
        opt_state: the state; replicated or not.
        factor: the factor.
    """
    old = optax.tree.get(opt_state, "rate_factor")
    new = jax.device_put(np.full(old.shape, factor, old.dtype), old.sharding)
    return optax.tree.set(opt_state, rate_factor=new)


def carry_over(old: Any, new: Any) -> Any:
    """The state of an optimizer for more parameters, with what a state for fewer has.

    Args:
        old: the state for fewer parameters.
        new: the initial state for more.

    Returns:
        A tree like ``new``: its leaves, but those of ``old`` where ``old`` has one.
    """
    known = dict(jax.tree_util.tree_leaves_with_path(old))
    return jax.tree_util.tree_map_with_path(lambda path, leaf: known.get(path, leaf), new)
