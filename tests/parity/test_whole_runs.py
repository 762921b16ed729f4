"""Whole runs equal PyTorch's: the loss of every step of two epochs, and the evaluations.

``train_and_evaluate`` writes the losses; PyTorch is trained in a loop of its own on the batches of
the input pipeline, with a warm-up in the first epoch, a schedule that decays in the second, an
average of the variables, and the masks of dropout that the step draws.
"""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen as nn
from reference_recipes import ExponentialMovingAverage, set_weight_decay
from tiers import tiers
from torch.optim import lr_scheduler
from torch_lenet import TorchLeNet5
from torchvision.models.resnet import BasicBlock as TorchBasicBlock

from jaxcnn import convert, models
from jaxcnn.data import pipeline
from jaxcnn.models import layers, resnet
from jaxcnn.models.classifier import Classifier
from jaxcnn.testing import relative_error
from jaxcnn.training import build as building
from jaxcnn.training.config import open_config, resolve
from jaxcnn.training.loop import train_and_evaluate
from jaxcnn.training.metrics import read_metrics
from jaxcnn.training.step import init_state, normalizer

LOSSES = 1e-8
EPOCHS, EMA_STEPS, SMOOTHING = 2, 5, 0.1
RECIPE = {
    "num_epochs": EPOCHS,
    "learning_rate": 0.05,
    "schedule": "step",
    "schedule_by": "step",
    "warmup_epochs": 0.5,
    "decay_epochs": 0.5,
    "decay_factor": 0.3,
    "weight_decay": 1e-3,
    "norm_weight_decay": 0.0,
    "label_smoothing": SMOOTHING,
    "ema__decay": 0.999,
    "ema__steps": EMA_STEPS,
    "log_every_steps": 1,
}


class SmallResNet(Classifier, kw_only=True):
    """Two basic blocks, and dropout before the last layer."""

    classifier = ("fc",)
    first_conv = "conv1"
    num_classes: int = 10

    @nn.compact
    def forward(self, x, train=False):
        x = layers.Conv(8, 3, padding=1, stride=2, use_bias=False, name="conv1")(x)
        x = nn.relu(layers.BatchNorm(name="bn1")(x, train))
        for index in (1, 2):
            x = resnet.BasicBlock(8, name=f"layer{index}")(x, train)
        x = layers.Dropout(0.5, name="dropout")(x.mean((1, 2)), train)
        return layers.Linear(self.num_classes, name="fc")(x)


class GivenMask(torch.nn.Module):
    """Dropout whose mask, scaled, is set before each step."""

    mask: torch.Tensor

    def forward(self, x):
        return x * self.mask if self.training else x


class TorchSmallResNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 8, 3, padding=1, stride=2, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.layer1, self.layer2 = TorchBasicBlock(8, 8), TorchBasicBlock(8, 8)
        self.dropout = GivenMask()
        self.fc = torch.nn.Linear(8, 10)

    def forward(self, x):
        x = self.layer2(self.layer1(self.bn1(self.conv1(x)).relu()))
        return self.fc(self.dropout(x.mean((2, 3))))


CASES = {
    "lenet5": (models.lenet5(param_dtype=jnp.float64), lambda: TorchLeNet5(1, 10)),
    "small ResNet": (SmallResNet(param_dtype=jnp.float64), TorchSmallResNet),
}


def mask_of(model: Classifier, variables: Any, images: np.ndarray, step: int) -> np.ndarray | None:
    """What a step multiplies the input of its dropout by."""
    masks = []

    def record(function, args, kwargs, context):
        if isinstance(context.module, layers.Dropout):
            masks.append(function(jnp.ones_like(args[0]), *args[1:], **kwargs))
        return function(*args, **kwargs)

    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), step), 0)
    with nn.intercept_methods(record):
        model.apply(variables, images, train=True, mutable=["batch_stats"], rngs={"dropout": key})
    return np.asarray(masks[0]) if masks else None


normalize = jax.jit(normalizer((0.3053,), (0.3760,)))


def normalized(images: np.ndarray) -> torch.Tensor:
    """By our code: compiled, its division of float32 by 255 is one unit off ToTensor's at times."""
    return torch.from_numpy(np.array(normalize(images))).permute(0, 3, 1, 2)


def evaluated(module: torch.nn.Module, batches: list[dict[str, np.ndarray]]) -> dict[str, float]:
    module.eval()
    loss = correct = count = 0
    with torch.no_grad():
        for batch in batches:
            valid = torch.from_numpy(batch["mask"] > 0)
            logits = module(normalized(batch["image"]))[valid]
            labels = torch.from_numpy(batch["label"]).long()[valid]
            loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            correct += (logits.argmax(1) == labels).sum().item()
            count += len(labels)
    return {"loss": loss / count, "top1": correct / count}


def torch_run(
    model: Classifier, module: torch.nn.Module, experiment: Any
) -> tuple[list[float], list[dict[str, float]], list[dict[str, float]]]:
    """Losses by step, and the evaluations by epoch of the variables and of their average."""
    inputs, steps_per_epoch = experiment.inputs, experiment.plan.steps_per_epoch
    start = init_state(model, experiment.optimizer, experiment.image_shape).variables
    module.load_state_dict(
        {k: torch.tensor(v) for k, v in convert.to_torch(start).items()}, strict=False
    )
    half_epoch = steps_per_epoch // 2
    optimizer = torch.optim.SGD(set_weight_decay(module, 1e-3, 0.0), lr=0.05, momentum=0.9)
    scheduler = lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 0.01, total_iters=half_epoch),
            lr_scheduler.StepLR(optimizer, half_epoch, 0.3),
        ],
        [half_epoch],
    )
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    # As torchvision adjusts it, by batch size and epochs.
    average = ExponentialMovingAverage(module, 1 - (1 - 0.999) * 64 * EMA_STEPS / EPOCHS)
    batches = pipeline.train_batches(
        inputs.train,
        inputs._train_preprocess,
        batch_size=64,
        seed=0,
        start_step=0,
        num_steps=experiment.plan.num_steps,
    )
    evaluation = inputs.evaluation
    eval_batches = list(
        pipeline.eval_batches(evaluation.source, evaluation.preprocess, batch_size=64)
    )
    losses, evaluations, of_average = [], [], []
    for number, batch in enumerate(batches):
        epoch, position = divmod(number, steps_per_epoch)
        mask = mask_of(model, start, batch["image"] / 255.0, number)
        if mask is not None:
            module.dropout.mask = torch.tensor(mask)
        module.train()
        loss = criterion(module(normalized(batch["image"])), torch.tensor(batch["label"]).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        if position % EMA_STEPS == 0:
            average.update_parameters(module)
            if epoch < RECIPE["warmup_epochs"]:
                average.n_averaged.fill_(0)
        if position == steps_per_epoch - 1:
            evaluations.append(evaluated(module, eval_batches))
            of_average.append(evaluated(average.module, eval_batches))
    return losses, evaluations, of_average


def lines(workdir: pathlib.Path, split: str, *names: str) -> list[list[float]]:
    metrics = read_metrics(workdir / "metrics.jsonl")
    return [[line[name] for name in names] for line in metrics if line["split"] == split]


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # torch's
@pytest.mark.parametrize("name", tiers(CASES, slow=CASES))
def test_losses_of_two_epochs_equal_pytorchs(name, data_dir, tmp_path, monkeypatch):
    model, make_module = CASES[name]
    monkeypatch.setattr(building, "make_model", lambda config, num_classes: model)
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    monkeypatch.setattr(jax, "local_device_count", lambda: 1)
    experiment = building.build(resolve(open_config("lenet5", "digits", **RECIPE)), data_dir)
    train_and_evaluate(experiment, tmp_path)
    losses, *evaluations = torch_run(model, make_module().double(), experiment)
    ours = [loss for (loss,) in lines(tmp_path, "train", "loss")]
    assert len(ours) == EPOCHS * experiment.plan.steps_per_epoch
    assert relative_error(ours, losses) <= LOSSES
    for split, expected in zip(("eval", "eval_ema"), evaluations, strict=True):
        ours = lines(tmp_path, split, "loss", "top1")
        assert relative_error(ours, [[e["loss"], e["top1"]] for e in expected]) <= LOSSES
