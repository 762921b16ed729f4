"""The training run: a config in, a trained network and its metrics in the workdir out."""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import jax_utils
from ml_collections import ConfigDict

from jaxcnn.convert.pretrained import initialize_from
from jaxcnn.errors import UserError
from jaxcnn.training import distributed
from jaxcnn.training.augmentation import Augmentation
from jaxcnn.training.checkpoints import Checkpoints
from jaxcnn.training.inputs import Inputs
from jaxcnn.training.metrics import MetricsWriter
from jaxcnn.training.optimizer import make_schedule, sgd
from jaxcnn.training.progress import Progress, warn
from jaxcnn.training.request import (
    AXIS,
    check_config,
    check_data,
    check_devices,
    claim_workdir,
    has_begun,
    model_factory,
)
from jaxcnn.training.signals import Stopped, StopSignals
from jaxcnn.training.step import init_state, make_eval_step, make_train_step, normalizer

ASK_EVERY = 10  # steps between asking the other processes whether they were told to stop


def train(config: ConfigDict, workdir: Path, data_dir: str | None = None) -> None:
    """Trains a network; goes on where it was if the workdir holds this run already.

    Args:
        config: see :func:`jaxcnn.training.recipes.recipe`.
        workdir: where ``config.json``, ``metrics.jsonl``, TensorBoard events and
            ``checkpoints/`` go.
        data_dir: where prepared datasets are; None: tfds's own default.

    Raises:
        UserError: if the request cannot be met (nothing is written then), or the loss is no
            number any more.
        Stopped: after SIGTERM or SIGINT, with the state saved.
    """
    check_config(config)
    check_devices(config)
    model_for = model_factory(config)
    inputs = Inputs(config, data_dir, tell=warn)
    check_data(config, inputs.train, inputs.evaluation)

    model = model_for(config.num_classes or inputs.train.num_classes)
    steps_per_epoch = inputs.train.num_examples // config.batch_size
    num_steps = config.num_epochs * steps_per_epoch
    schedule = make_schedule(
        config.schedule,
        config.learning_rate,
        steps_per_epoch=steps_per_epoch,
        num_epochs=config.num_epochs,
        warmup_epochs=config.warmup_epochs,
        decay_epochs=config.decay_epochs,
        decay_factor=config.decay_factor,
    )
    optimizer = sgd(
        schedule,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=config.nesterov,
    )
    image_shape = (1, config.image_size, config.image_size, inputs.channels)
    state = init_state(model, optimizer, image_shape, seed=config.seed)
    if config.sync_batch_norm and not state.batch_stats:
        raise UserError(f"{config.model} has no batch norms; leave config.sync_batch_norm False.")
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    begins_anew: list[str] = []  # heads of another size than in config.init_from
    if config.init_from is not None and not has_begun(workdir):
        variables, begins_anew = initialize_from(
            state.variables, model, config.model, config.init_from
        )
        state = dataclasses.replace(
            state, params=variables["params"], batch_stats=variables.get("batch_stats", {})
        )

    first = distributed.is_first()
    distributed.first_then_all("workdir", lambda: claim_workdir(workdir, config, write=first))
    distributed.barrier("begin")
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.checkpoint.keep)
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(state)
    start_step = int(state.step)
    state = jax_utils.replicate(state)

    metrics = MetricsWriter(workdir, start_step, enabled=distributed.is_first())
    progress = Progress(
        start_step=start_step,
        num_steps=num_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.batch_size,
        shown=distributed.is_first(),
    )
    mean = config.mean
    if config.subtract_mean_image:
        progress.say("Computing the mean of the training images, or reading it.")
        mean = inputs.mean_image(workdir, begun=start_step > 0)
    normalize = normalizer(mean, config.std)
    train_step = _pmap(
        make_train_step(
            model,
            optimizer,
            normalize=normalize,
            augmentation=_augmentation(config),
            label_smoothing=config.label_smoothing,
            seed=config.seed,
        ),
        donate_argnums=0,
    )
    eval_step = _pmap(make_eval_step(model, normalize=normalize))
    batches = inputs.train_batches(start_step, num_steps)

    progress.say(
        f"{config.model} ({parameters:,} parameters) on {config.dataset}: "
        f"{inputs.train.num_examples:,} training and {inputs.evaluation.num_examples:,} evaluation "
        f"examples; {config.num_epochs} epochs of {steps_per_epoch} steps of {config.batch_size} "
        f"images on {jax.device_count()} {jax.default_backend()} device(s); workdir {workdir}"
    )
    if begins_anew:
        progress.say(
            f"Initialised from {config.init_from}, but for {', '.join(begins_anew)}, of another "
            f"number of classes."
        )
    if start_step:
        progress.say(f"Going on from step {start_step} of {num_steps}.")

    recent: list[Any] = []  # metrics of the steps since the last report, still on the devices
    skipped = 0  # bad images since then, on this host
    skipped_in_epoch = 0  # on all hosts
    with StopSignals() as signals, contextlib.closing(batches):
        waited_for = progress.waiting(batches)
        for step, (batch, bad_images) in enumerate(waited_for, start_step + 1):
            state, step_metrics = train_step(state, batch)
            recent.append(step_metrics)
            skipped += bad_images
            if len(recent) > 1:
                jax.block_until_ready(recent[-2])  # or batches would pile up on the devices
            progress.stepped(step_metrics)

            last = step == num_steps
            epoch, in_epoch = divmod(step, steps_per_epoch)
            reports = step % config.log_every_steps == 0 or in_epoch == 0
            if reports:
                values = _means(recent)
                recent.clear()
                _check_finite(values["loss"], step, workdir)
                values["learning_rate"] = float(schedule(step - 1))
                values["skipped"] = distributed.sum_of_all(skipped)
                skipped = 0
                skipped_in_epoch += values["skipped"]
                inputs.check_skipped(inputs.train, skipped_in_epoch)
                if in_epoch == 0:
                    skipped_in_epoch = 0
                values |= progress.lap()
                metrics.write(step, step / steps_per_epoch, "train", **values)
                progress.report(step, values)
            if in_epoch == 0 and (epoch % config.eval.every_epochs == 0 or last):
                with progress.paused():
                    values = evaluate(eval_step, state.variables, inputs)
                    _check_finite(values["loss"], step, workdir)
                    metrics.write(step, epoch, "eval", **values)
                    progress.report_eval(epoch, values)
            if in_epoch == 0 and (epoch % config.checkpoint.every_epochs == 0 or last):
                with progress.paused():
                    checkpoints.save(state)
            may_ask = reports or step % ASK_EVERY == 0
            if not last and (signal_number := signals.agreed(may_ask)):
                checkpoints.save(state)
                checkpoints.close()
                progress.close()
                raise Stopped(signal_number)
        checkpoints.close()
    progress.close()
    metrics.close()
    distributed.barrier("trained")


def evaluate(
    eval_step: Callable[..., Any], variables: Any, inputs: Inputs
) -> dict[str, float | int]:
    """Scores every example of a split once.

    Args:
        eval_step: pmapped; see :func:`jaxcnn.training.step.make_eval_step`.
        variables: replicated.
        inputs: with the examples.

    Returns:
        Means ``loss``, ``top1``, ``top5``, how many ``examples`` they are of, and how many were
        ``skipped``.

    Raises:
        UserError: if too many images cannot be decoded, or none can.
    """
    sums: dict[str, Any] = {}
    for batch in inputs.eval_batches():
        batch_sums = jax.device_get(jax_utils.unreplicate(eval_step(variables, batch)))
        # float64 on the host: float32 would lose examples of a large split
        sums = {name: sums.get(name, 0) + value.item() for name, value in batch_sums.items()}
    examples = sums.pop("examples")
    skipped = inputs.evaluation.num_examples - examples
    inputs.check_skipped(inputs.evaluation, skipped)
    if not examples:
        raise UserError("No image of the evaluation split could be decoded; mend the files.")
    means = {name: total / examples for name, total in sums.items()}
    return means | {"examples": examples, "skipped": skipped}


def _pmap(step: Callable[..., Any], **kwargs: Any) -> Callable[..., Any]:
    return jax.pmap(functools.partial(step, axis_name=AXIS), axis_name=AXIS, **kwargs)


def _augmentation(config: ConfigDict) -> Augmentation:
    """What the config has the devices do."""
    names = [field.name for field in dataclasses.fields(Augmentation)]
    values = {name: config.augment[name] for name in names}
    return Augmentation(**values | {"color_jitter": tuple(values["color_jitter"])})


def _means(metrics: list[Any]) -> dict[str, float]:
    """Means over steps of replicated metrics."""
    host = jax.device_get([jax_utils.unreplicate(values) for values in metrics])
    return {name: float(np.mean([values[name] for values in host])) for name in host[0]}


def _check_finite(loss: float, step: int, workdir: Path) -> None:
    if not math.isfinite(loss):
        raise UserError(
            f"The loss became {loss} by step {step}; lower config.learning_rate or "
            f"raise config.warmup_epochs, and begin again in another --workdir than {workdir}."
        )
