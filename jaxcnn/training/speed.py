"""How fast this machine trains and computes a network: what ``jaxcnn benchmark`` measures.

Example::

    from jaxcnn import models
    from jaxcnn.training.speed import forward_pass, measure, training_step

    model = models.resnet18()
    programs = [training_step(model, image_size=224, batch_size=8)]
    (measured,) = measure(programs, rounds=5)
    measured.images_per_second
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxcnn.models.classifier import Classifier
from jaxcnn.models.layers import traced_for
from jaxcnn.training import devices
from jaxcnn.training.devices import replicate, split
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import TrainState, init_state, make_train_step

ROUND_SECONDS = 0.5  # a round repeats a program for at least this long
# Of the square matrices whose product is the measure of peak arithmetic.
PEAK_SIZE_ON_CPU, PEAK_SIZE = 2048, 8192
PEAK_PRODUCTS = 3  # that are timed together


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program with its arguments on the device.

    Attributes:
        start: starts it once, and returns what is there when it has run.
        batch_size: images per run.
        compile_seconds: what tracing and compiling it took.
        memory: bytes of its arguments, results and temporary arrays, as the compiler plans them;
            None: it does not say.
    """

    start: Callable[[], object]
    batch_size: int
    compile_seconds: float
    memory: int | None

    def run(self, times: int = 1) -> None:
        """Run it several times and wait for the last.

        Nothing waits in between, as in training: an accelerator has its next step when it needs it.
        """
        _repeat(self.start, times)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What :func:`measure` found of a program.

    Attributes:
        images_per_second: the median of the rounds.
        spread: the largest deviation of a round from it, as a fraction of it.
    """

    images_per_second: float
    spread: float


def training_step(
    model: Classifier, *, image_size: int, batch_size: int, channels: int = 3, pmap: bool = False
) -> Program:
    """A training step with SGD-momentum and weight decay, on random images.

    Args:
        model: the network; its ``dtype`` is that of the computation.
        image_size: height and width.
        batch_size: images per step.
        channels: of the images.
        pmap: whether the step is pmapped over all local devices, as ``train.py``'s is; else it is
            that of one device.
    """
    optimizer = sgd(1e-3, momentum=0.9, weight_decay=1e-4)
    state = init_state(model, optimizer, (1, image_size, image_size, channels))
    images = _images(batch_size, image_size, channels)
    batch = {"image": images, "label": jnp.arange(batch_size) % model.num_classes}
    step = make_train_step(model, optimizer)
    if pmap:
        state, batch = replicate(state), split(batch)
        step = devices.pmap(step, donate_argnums=0)
    else:
        step = jax.jit(functools.partial(step, axis_name=None), donate_argnums=0)
    return program_of_steps(step, state, batch, batch_size)


def program_of_steps(step: Any, state: TrainState, batch: Any, batch_size: int) -> Program:
    """A training step of your own, which each run takes from the state that the last one left.

    Args:
        step: jitted or pmapped, of (state, batch) to (state, metrics); may donate the state.
        state: the first.
        batch: what each step is given.
        batch_size: images in it.
    """
    compiled, seconds = _compiled(step, state, batch)
    held = [state]

    def start() -> object:
        held[0], metrics = compiled(held[0], batch)
        return metrics

    return Program(start, batch_size, seconds, planned_memory(compiled))


def forward_pass(
    model: Classifier,
    variables: Any = None,
    *,
    image_size: int,
    batch_size: int,
    channels: int = 3,
) -> Program:
    """The logits of random images.

    Args:
        model: the network; its ``dtype`` is that of the computation.
        variables: the network's; None: initial ones.
        image_size: height and width.
        batch_size: images per pass.
        channels: of the images.
    """
    images = _images(batch_size, image_size, channels)
    if variables is None:
        variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    compiled, seconds = _compiled(jax.jit(model.apply), variables, images)
    start = functools.partial(compiled, variables, images)
    return Program(start, batch_size, seconds, planned_memory(compiled))


def measure(programs: Sequence[Program], *, rounds: int = 5) -> list[Measured]:
    """Time programs in turn, several times, so that a noisy machine treats them alike."""
    counts = []
    for program in programs:
        program.run()  # the first run has costs of its own
        counts.append(max(1, round(ROUND_SECONDS / max(_seconds(program.run), 1e-6))))
    rates: list[list[float]] = [[] for _ in programs]
    for _ in range(rounds):
        for program, count, found in zip(programs, counts, rates, strict=True):
            found.append(program.batch_size / _seconds(program.run, count))
    return [Measured(statistics.median(found), _spread(found)) for found in rates]


def peak_arithmetic(dtype: DTypeLike = jnp.float32) -> float:
    """Multiply-adds per second of a large product of matrices ``dtype`` on this device.

    The best of several: what the fraction of peak arithmetic is measured against.
    """
    size = PEAK_SIZE_ON_CPU if jax.default_backend() == "cpu" else PEAK_SIZE
    matrix = jax.random.normal(jax.random.key(0), (size, size), dtype)
    start = functools.partial(jax.jit(jnp.matmul), matrix, matrix)
    run = functools.partial(_repeat, start)
    run(1)
    return size**3 / min(_seconds(run, PEAK_PRODUCTS) for _ in range(5))


def planned_memory(compiled: jax.stages.Compiled) -> int | None:
    """Bytes of a program's arguments, results and temporary arrays; None: not known.

    What it donates counts once.
    """
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return (
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def _images(batch_size: int, image_size: int, channels: int) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (batch_size, image_size, image_size, channels))


def _compiled(function: Any, *args: Any) -> tuple[Any, float]:
    """A compiled program, and how many seconds tracing and compiling took."""
    start = time.perf_counter()
    with traced_for(jax.devices()[0].platform):
        compiled = function.lower(*args).compile()
    return compiled, time.perf_counter() - start


def _repeat(start: Callable[[], object], times: int) -> None:
    for _ in range(times):
        result = start()
    jax.block_until_ready(result)


def _seconds(run: Callable[[int], object], times: int = 1) -> float:
    """The mean seconds of a run."""
    start = time.perf_counter()
    run(times)
    return (time.perf_counter() - start) / times


def _spread(values: Sequence[float]) -> float:
    middle = statistics.median(values)
    return max(abs(value - middle) for value in values) / middle
