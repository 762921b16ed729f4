"""Twenty steps of a small network with batch norm equal PyTorch's, for all parts of recipes.

On PyTorch's side stand its own optimizers, schedulers and ``AveragedModel``, torchvision's
mixtures, and what torchvision has in ``references/classification`` only, as it is there.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from compare import nhwc, worst
from reference_recipes import ExponentialMovingAverage, set_weight_decay
from tiny import TinyNet
from torch.optim import lr_scheduler
from torchvision.transforms import v2

from jaxcnn import convert
from jaxcnn.testing import randomize, relative_error
from jaxcnn.testing.arrays import STEPS
from jaxcnn.testing.compiling import jit
from jaxcnn.training.augmentation import Augmentation
from jaxcnn.training.ema import Ema
from jaxcnn.training.losses import Teacher
from jaxcnn.training.optimizer import WeightDecay, make_optimizer, with_rate_factor
from jaxcnn.training.schedules import Plateau, make_schedule
from jaxcnn.training.step import TrainState, make_train_step

EPOCHS, STEPS_PER_EPOCH, BATCH, CLASSES = 5, 4, 6, 5
RATE = 0.05


class TorchTinyNet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = torch.nn.BatchNorm2d(8)
        self.conv2 = torch.nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = torch.nn.BatchNorm2d(8)
        self.conv3 = torch.nn.Conv2d(8, 8, 3, stride=2)
        self.fc = torch.nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.fc(self.conv3(x).relu().mean((2, 3)))


def torch_net(seed: int) -> TorchTinyNet:
    torch.manual_seed(seed)
    module = TorchTinyNet().double()
    randomize(module, seed)
    return module


class Lars(torch.optim.Optimizer):
    """You et al. 2017, algorithm 1, with momentum of what the rates have scaled."""

    def __init__(self, groups, lr, momentum, trust_coefficient):
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.momentum, self.trust_coefficient = momentum, trust_coefficient

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                update = p.grad + group["weight_decay"] * p
                if p.ndim > 1:
                    update *= self.trust_coefficient * p.norm() / update.norm()
                buffer = self.state[p].setdefault("buffer", torch.zeros_like(p))
                p -= buffer.mul_(self.momentum).add_(group["lr"] * update)


class Lamb(torch.optim.Optimizer):
    """You et al. 2019, algorithm 2, without a bound on the norm."""

    def __init__(self, groups, lr, betas, eps):
        super().__init__(groups, {"lr": lr, "weight_decay": 0.0})
        self.betas, self.eps, self.count = betas, eps, 0

    @torch.no_grad()
    def step(self):
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                state = self.state[p]
                moments = []
                for name, beta, value in zip("mv", self.betas, (p.grad, p.grad**2), strict=True):
                    moment = state.setdefault(name, torch.zeros_like(p))
                    moment.mul_(beta).add_((1 - beta) * value)
                    moments.append(moment / (1 - beta**self.count))
                update = moments[0] / (moments[1].sqrt() + self.eps) + group["weight_decay"] * p
                if p.ndim > 1:
                    update *= p.norm() / update.norm()
                p -= group["lr"] * update


@dataclasses.dataclass
class Recipe:
    """What both sides are given; functions make torch's objects."""

    optimizer: str
    torch_optimizer: Callable[[Any], torch.optim.Optimizer]
    schedule: dict[str, Any]
    torch_schedule: Callable[[torch.optim.Optimizer], Any]
    momentum: float = 0.0
    nesterov: bool = False
    decay: WeightDecay = WeightDecay(0.02)
    clip_norm: float | None = None
    warmup_epochs: int = 0
    plateau: Plateau | None = None
    label_smoothing: float = 0.0
    augmentation: Augmentation = Augmentation()
    ema: tuple[float, int] | None = None  # decay and steps
    teacher: tuple[float, float] | None = None  # temperature and weight


def after_warmup(optimizer, main, epochs: int, method: str = "linear", decay: float = 0.01):
    """The schedulers of torchvision's references/classification/train.py."""
    if method == "linear":
        warmup = lr_scheduler.LinearLR(optimizer, start_factor=decay, total_iters=epochs)
    else:
        warmup = lr_scheduler.ConstantLR(optimizer, factor=decay, total_iters=epochs)
    return lr_scheduler.SequentialLR(optimizer, [warmup, main], milestones=[epochs])


RECIPES = {
    "sgd, step decay after a linear warm-up": Recipe(
        "sgd",
        lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=0.9),
        {"name": "step", "decay_epochs": 2, "decay_factor": 0.3, "warmup_epochs": 2},
        lambda o: after_warmup(o, lr_scheduler.StepLR(o, 2, 0.3), 2),
        momentum=0.9,
    ),
    "nesterov, multi-step decay, distillation": Recipe(
        "sgd",
        lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=0.9, nesterov=True),
        {"name": "multistep", "milestones": (1, 3), "decay_factor": 0.3},
        lambda o: lr_scheduler.MultiStepLR(o, [1, 3], 0.3),
        momentum=0.9,
        nesterov=True,
        teacher=(3.0, 0.7),
        label_smoothing=0.1,
    ),
    "rmsprop, exponential decay after a constant warm-up": Recipe(
        "rmsprop",
        lambda groups: torch.optim.RMSprop(groups, lr=0.01, momentum=0.9, eps=0.0316, alpha=0.9),
        {
            "name": "exponential",
            "learning_rate": 0.01,
            "decay_factor": 0.7,
            "warmup_epochs": 1,
            "warmup_method": "constant",
            "warmup_decay": 0.2,
        },
        lambda o: after_warmup(o, lr_scheduler.ExponentialLR(o, 0.7), 1, "constant", 0.2),
        momentum=0.9,
        decay=WeightDecay(0.02, biases=0.0),
    ),
    "adamw, cosine after a linear warm-up, decay groups, average": Recipe(
        "adamw",
        lambda groups: torch.optim.AdamW(groups, lr=0.01),
        {"name": "cosine", "learning_rate": 0.01, "warmup_epochs": 2, "min_learning_rate": 1e-3},
        lambda o: after_warmup(o, lr_scheduler.CosineAnnealingLR(o, EPOCHS - 2, 1e-3), 2),
        decay=WeightDecay(0.05, norms=0.01, biases=0.1),
        ema=(0.9, 3),
        warmup_epochs=2,
    ),
    "sgd, polynomial decay, clipping, smoothing and mixup": Recipe(
        "sgd",
        lambda groups: torch.optim.SGD(groups, lr=RATE, momentum=0.9),
        {"name": "polynomial", "power": 2.0},
        lambda o: lr_scheduler.PolynomialLR(o, EPOCHS, power=2.0),
        momentum=0.9,
        decay=WeightDecay(0.02, norms=0.0),
        clip_norm=0.5,
        label_smoothing=0.1,
        augmentation=Augmentation(mixup=0.4),
        ema=(0.95, 1),
    ),
    "sgd, plateau, cutmix": Recipe(
        "sgd",
        lambda groups: torch.optim.SGD(groups, lr=RATE),
        {"name": "plateau"},
        lambda o: lr_scheduler.ReduceLROnPlateau(o, "max", 0.3, patience=1),
        plateau=Plateau("top1", RATE, 0.3, patience=1),
        label_smoothing=0.1,
        augmentation=Augmentation(cutmix=1.0),
    ),
    "lars, constant rate": Recipe(
        "lars",
        lambda groups: Lars(groups, 2.0, 0.9, 0.001),
        {"name": "constant", "learning_rate": 2.0},
        lambda o: lr_scheduler.ConstantLR(o, 1.0),
        momentum=0.9,
    ),
    "lamb, cosine by step": Recipe(
        "lamb",
        lambda groups: Lamb(groups, 0.01, (0.9, 0.999), 1e-6),
        {"name": "cosine", "learning_rate": 0.01, "by": "step"},
        lambda o: lr_scheduler.CosineAnnealingLR(o, EPOCHS * STEPS_PER_EPOCH),
    ),
}
# Of epochs, for the plateau.
EVALUATIONS = [0.3, 0.5, 0.4, 0.5, 0.2]


def batches() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    count = EPOCHS * STEPS_PER_EPOCH
    images = rng.standard_normal((count, BATCH, 3, 9, 11))
    return images, rng.integers(0, CLASSES, (count, BATCH))


def our_run(recipe: Recipe, start: TorchTinyNet, teacher: TorchTinyNet):
    """Losses, variables, their average, and the rates, all by torch's names."""
    model = TinyNet(num_classes=CLASSES, param_dtype=jnp.float64)
    schedule = make_schedule(
        **{"learning_rate": RATE, "by": "epoch"} | recipe.schedule,
        steps_per_epoch=STEPS_PER_EPOCH,
        num_epochs=EPOCHS,
    )
    optimizer = make_optimizer(
        recipe.optimizer,
        schedule,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.decay,
        clip_norm=recipe.clip_norm,
        plateau=recipe.plateau is not None,
    )
    ema = None
    if recipe.ema is not None:
        decay, steps = recipe.ema
        ema = Ema(decay, steps, STEPS_PER_EPOCH, recipe.warmup_epochs)
    step = make_train_step(
        model,
        optimizer,
        label_smoothing=recipe.label_smoothing,
        augmentation=recipe.augmentation,
        ema=ema,
        teacher=None if recipe.teacher is None else Teacher(model, *recipe.teacher),
    )
    compiled = jit(step, static_argnames="axis_name")
    variables = convert.from_torch(start.state_dict(), model)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=optimizer.init(variables["params"]),
        ema=variables if ema is not None else {},
    )
    teacher_variables = convert.from_torch(teacher.state_dict(), model)
    losses = []
    for number, (images, labels) in enumerate(zip(*batches(), strict=True), 1):
        batch = {"image": nhwc(images), "label": labels}
        state, metrics = compiled(state, batch, teacher_variables, axis_name=None)
        losses.append(float(metrics["loss"]))
        epoch, position = divmod(number, STEPS_PER_EPOCH)
        if recipe.plateau is not None and position == 0:
            factor = recipe.plateau.rate_factor(EVALUATIONS[:epoch])
            opt_state = with_rate_factor(state.opt_state, factor)
            state = dataclasses.replace(state, opt_state=opt_state)
    average = convert.to_torch(state.ema) if ema is not None else {}
    return losses, convert.to_torch(state.variables), average


@functools.cache
def mixture(augmentation: Augmentation):
    return jit(augmentation.batch)  # compiled: it draws as the step does, to the last bit


def mixed(recipe: Recipe, step: int, images: np.ndarray, labels: np.ndarray):
    """The batch as torchvision mixes it, with the ratio or the box that our step draws."""
    targets = torch.nn.functional.one_hot(torch.from_numpy(labels), CLASSES).double()
    augmentation = recipe.augmentation
    if augmentation == Augmentation():
        return torch.from_numpy(images), torch.from_numpy(labels)
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(0), step), 0)
    _, key = jax.random.split(jax.random.fold_in(key, 1))
    # The first example is of 1, the one before it, which is mixed into it, of 0.
    ones = jnp.zeros(nhwc(images).shape).at[0].set(1)
    image, target = mixture(augmentation)(key, ones, jnp.eye(BATCH))
    ratio, inside = float(target[0, 0]), np.asarray(image[0, :, :, 0] == 0)
    if augmentation.mixup:
        transform, params = v2.MixUp(num_classes=CLASSES), {"lam": ratio}
    else:
        rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
        box = (0, 0, 0, 0)
        if inside.any():
            box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        transform, params = v2.CutMix(num_classes=CLASSES), {"box": box, "lam_adjusted": ratio}
    transform.make_params = lambda _: params
    return transform(torch.from_numpy(images), targets)


def torch_run(recipe: Recipe, module: TorchTinyNet, teacher: TorchTinyNet):
    """The same in PyTorch, as torchvision's train_one_epoch goes about it."""
    decay = recipe.decay
    groups = set_weight_decay(module, decay.weights, decay.norms, decay.biases)
    optimizer = recipe.torch_optimizer(groups)
    scheduler = recipe.torch_schedule(optimizer)
    criterion = torch.nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    average = None
    if recipe.ema is not None:
        average = ExponentialMovingAverage(module, recipe.ema[0])
    module.train()
    losses = []
    for number, (images, labels) in enumerate(zip(*batches(), strict=True)):
        epoch, position = divmod(number, STEPS_PER_EPOCH)
        images, targets = mixed(recipe, number, images, labels)
        logits = module(images)
        loss = criterion(logits, targets)
        if recipe.teacher is not None:
            temperature, weight = recipe.teacher
            with torch.no_grad():
                taught = teacher.eval()(images)
            divergence = torch.nn.functional.kl_div(
                (logits / temperature).log_softmax(1),
                (taught / temperature).log_softmax(1),
                reduction="batchmean",
                log_target=True,
            )
            loss = (1 - weight) * loss + weight * temperature**2 * divergence
        optimizer.zero_grad()
        loss.backward()
        if recipe.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip_norm)
        optimizer.step()
        losses.append(loss.item())
        if average is not None and position % recipe.ema[1] == 0:
            average.update_parameters(module)
            if epoch < recipe.warmup_epochs:
                average.n_averaged.fill_(0)
        if recipe.schedule.get("by") == "step":
            scheduler.step()
        elif position == STEPS_PER_EPOCH - 1:
            scheduler.step(*([EVALUATIONS[epoch]] if recipe.plateau is not None else []))
    states = (module.state_dict(), average.module.state_dict() if average is not None else {})
    return losses, *(
        {k: v.numpy() for k, v in state.items() if not k.endswith("num_batches_tracked")}
        for state in states
    )


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")  # torch's
@pytest.mark.parametrize("name", RECIPES)
def test_twenty_steps_equal_pytorchs(name):
    recipe = RECIPES[name]
    module, teacher = torch_net(0), torch_net(1)
    losses, variables, average = our_run(recipe, module, teacher)
    expected_losses, expected, expected_average = torch_run(recipe, module, teacher)
    assert relative_error(losses, expected_losses) <= STEPS
    own = {k: v for k, v in variables.items() if not k.endswith("num_batches_tracked")}
    assert worst(own, expected) <= (STEPS, "~")
    assert (expected_average == {}) == (recipe.ema is None)
    if recipe.ema is not None:
        own = {k: v for k, v in average.items() if not k.endswith("num_batches_tracked")}
        assert worst(own, expected_average) <= (STEPS, "~")
