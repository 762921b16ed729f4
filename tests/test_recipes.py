"""Each network's recipe is the one that is published: the flags, translated, are its config."""

import argparse
import ast
import re
import shlex
from typing import Any

import pytest
from published_flags import COMMANDS, OTHER_COMMANDS, PAPERS, Command, Paper

from jaxcnn import models
from jaxcnn.errors import UserError
from jaxcnn.models.published import PUBLISHED
from jaxcnn.training import recipe_table
from jaxcnn.training.config import KEYS, open_config, resolve, validate
from jaxcnn.training.recipes import DATASETS, OTHERS, RECIPES, recipe_for

PUBLISHED_FOR = {model: entry for entry in (*COMMANDS, *PAPERS) for model in entry.models}

# Keys that neither the flags nor the papers govern: where the data is, how it is read, what is
# written, and what has no effect with random resized crops, nothing frozen and no teacher.
NOT_GOVERNED = {
    "recipe",
    *("model", "num_classes", "init_from", "dataset", "train_split", "seed", "log_every_steps"),
    *("eval.split", "eval.every_epochs", "eval.batch_size", "max_skipped", "channels", "fit"),
    *("checkpoint.every_epochs", "checkpoint.keep", "log_norms", "augment.padding"),
    *("augment.resize_size", "freeze_batch_stats", "teacher_temperature", "teacher_weight"),
    *("checkpoint.every_steps", "checkpoint.every_minutes", "checkpoint.best_by"),
    *("on_nonfinite", "max_nonfinite", "check_replicas_every"),
}


def train_py() -> argparse.ArgumentParser:
    """The flags of torchvision's references/classification/train.py, with its defaults."""
    parser = argparse.ArgumentParser()
    flags: dict[str, Any] = {
        "--batch-size": 32,
        "--epochs": 90,
        "--opt": "sgd",
        "--lr": 0.1,
        "--momentum": 0.9,
        "--norm-weight-decay": None,
        "--bias-weight-decay": None,
        "--label-smoothing": 0.0,
        "--mixup-alpha": 0.0,
        "--cutmix-alpha": 0.0,
        "--lr-scheduler": "steplr",
        "--lr-warmup-epochs": 0,
        "--lr-warmup-method": "constant",
        "--lr-warmup-decay": 0.01,
        "--lr-step-size": 30,
        "--lr-gamma": 0.1,
        "--lr-min": 0.0,
        "--random-erase": 0.0,
        "--model-ema-steps": 32,
        "--model-ema-decay": 0.99998,
        "--interpolation": "bilinear",
        "--val-resize-size": 256,
        "--val-crop-size": 224,
        "--train-crop-size": 224,
        "--clip-grad-norm": None,
        "--ra-reps": 3,
    }
    for flag, default in flags.items():
        parser.add_argument(flag, default=default, type=float if default is None else type(default))
    parser.add_argument("--auto-augment", default=None)
    parser.add_argument("--wd", "--weight-decay", dest="weight_decay", default=1e-4, type=float)
    for flag in ("--model-ema", "--sync-bn", "--ra-sampler"):
        parser.add_argument(flag, action="store_true")
    return parser


SCHEDULERS = {"steplr": "step", "cosineannealinglr": "cosine", "exponentiallr": "exponential"}
POLICIES = {
    None: "none",
    "ra": "rand_augment",
    "ta_wide": "trivial_augment_wide",
    "augmix": "aug_mix",
    "imagenet": "auto_augment_imagenet",
    "cifar10": "auto_augment_cifar10",
    "svhn": "auto_augment_svhn",
}
# What train.py gives its optimizers: its own arguments, or torch's defaults.
OPTIMIZER_ARGS = {
    "sgd": {},
    "rmsprop": {"alpha": 0.9, "eps": 0.0316},
    "adamw": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
}


def translated(flags: str, gpus: int) -> dict[str, Any]:
    """The values of config keys that a command line stands for."""
    args = train_py().parse_args(shlex.split(flags))
    optimizer_args = dict.fromkeys(("alpha", "eps", "beta1", "beta2", "trust_coefficient"))
    return {
        # The flags.
        "batch_size": gpus * args.batch_size,
        "num_epochs": args.epochs,
        "optimizer": args.opt,
        **{
            f"optimizer_args.{name}": value
            for name, value in (optimizer_args | OPTIMIZER_ARGS[args.opt]).items()
        },
        "momentum": 0.0 if args.opt == "adamw" else args.momentum,
        "nesterov": False,
        "weight_decay": args.weight_decay,
        "norm_weight_decay": args.norm_weight_decay,
        "bias_weight_decay": args.bias_weight_decay,
        "learning_rate": args.lr,
        "schedule": SCHEDULERS[args.lr_scheduler],
        "decay_epochs": args.lr_step_size,
        "decay_factor": args.lr_gamma,
        "min_learning_rate": args.lr_min,
        "warmup_epochs": args.lr_warmup_epochs,
        # Without a warm-up its method has no effect.
        "warmup_method": args.lr_warmup_method if args.lr_warmup_epochs else "linear",
        "warmup_decay": args.lr_warmup_decay,
        "label_smoothing": args.label_smoothing,
        "clip_grad_norm": args.clip_grad_norm,
        "ema.decay": args.model_ema_decay if args.model_ema else None,
        "ema.steps": args.model_ema_steps,
        "augment.policy": POLICIES[args.auto_augment],
        "augment.erasing": args.random_erase,
        "augment.mixup": args.mixup_alpha,
        "augment.cutmix": args.cutmix_alpha,
        "augment.repeats": args.ra_reps if args.ra_sampler else 1,
        "interpolation": args.interpolation,
        "image_size": args.train_crop_size,
        "eval.image_size": (
            None if args.val_crop_size == args.train_crop_size else args.val_crop_size
        ),
        "eval.resize_size": args.val_resize_size,
        "sync_batch_norm": args.sync_bn,
        # What train.py and presets.py always do.
        "schedule_by": "epoch",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "subtract_mean_image": False,
        "augment.crop": "random_resized_crop",
        "augment.flip": True,
        "augment.color_jitter": (0.0, 0.0, 0.0, 0.0),
        "augment.grayscale": 0.0,
        "augment.lighting": 0.0,
        "eval.crop": "resize_and_center_crop",
        "eval.crops": 1,
        "dtype": "float32",
        # What it cannot do.
        "accumulate_steps": 1,
        "base_batch_size": None,
        "clip_grad_adaptive": None,
        "milestones": None,
        "power": 1.0,
        "plateau.metric": "loss",
        "plateau.patience": 10,
        "plateau.threshold": 1e-4,
        "image_sizes": None,
        "renormalize_filters": None,
        "freeze": None,
        "unfreeze_epoch": None,
        "head_learning_rate": None,
        "layer_decay": None,
        "teacher": None,
        "teacher_weights": None,
    }


def published(entry: Command | Paper) -> dict[str, Any]:
    """The values of config keys that are published."""
    if isinstance(entry, Command):
        return translated(f"{entry.flags} {entry.instead}", entry.gpus)
    return translated("", gpus=8) | entry.settings


def flat(config: Any) -> dict[str, Any]:
    """The values of a resolved config by key."""

    def value(name: str) -> Any:
        found = config
        for part in name.split("."):
            found = found[part]
        return found

    return {key.name: value(key.name) for key in KEYS}


def differences(config: Any, entry: Command | Paper) -> dict[str, tuple[Any, Any]]:
    """Keys whose value is not the published one, with both."""
    expected = published(entry)
    return {
        name: (value, expected[name])
        for name, value in flat(resolve(config)).items()
        if name in expected and value != expected[name]
    }


def get_config(root, name: str):
    """The ``get_config`` of a config file."""
    namespace: dict[str, Any] = {}
    exec((root / "configs" / f"{name}.py").read_text(), namespace)
    return namespace["get_config"]


CONFIGS = {model: (model, recipe_for(model)) for model in models.list_models()} | OTHERS


@pytest.mark.parametrize("model", models.list_models())
def test_every_key_of_a_networks_config_is_as_published(model):
    assert differences(open_config(model, "imagenet2012"), PUBLISHED_FOR[model]) == {}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_every_key_of_another_recipe_is_as_published(name, root):
    assert differences(get_config(root, name)("imagenet2012"), OTHER_COMMANDS[name]) == {}


def test_every_key_is_published_or_listed_as_not_governed():
    governed = set(translated("", gpus=8))
    assert governed.isdisjoint(NOT_GOVERNED)
    assert governed | NOT_GOVERNED == {key.name for key in KEYS}
    given = {name for paper in PAPERS for name in paper.settings}
    assert given <= governed | {"augment.resize_size"}


def test_every_network_has_one_published_recipe():
    listed = [model for entry in (*COMMANDS, *PAPERS) for model in entry.models]
    assert sorted(listed) == sorted(models.list_models())
    assert OTHERS.keys() == OTHER_COMMANDS.keys()
    for name, command in OTHER_COMMANDS.items():
        assert command.models == (OTHERS[name].model,)


@pytest.mark.parametrize("model", models.list_models())
def test_a_recipe_names_its_devices_and_weights_as_published(model):
    recipe, entry = recipe_for(model), PUBLISHED_FOR[model]
    devices = entry.gpus if isinstance(entry, Command) else entry.devices
    ported = isinstance(entry, Paper) and entry.ported
    assert (recipe.devices, recipe.weights, recipe.ported) == (devices, entry.weights, ported)
    if recipe.weights is not None:
        weights = {(w.model, w.name): w for w in PUBLISHED}[model, recipe.weights]
        assert recipe.top1(model) == weights.top1
    elif isinstance(entry, Paper):
        assert recipe.top1(model) == pytest.approx(entry.top1, abs=1e-12)


def test_weights_of_a_trained_recipe_are_evaluated_as_their_transforms_say():
    """The evaluation that the reported accuracy belongs to."""
    weights = {(w.model, w.name): w.preprocessing for w in PUBLISHED}
    for model in models.list_models():
        recipe = recipe_for(model)
        if recipe.weights is None or recipe.ported:
            continue
        config, transforms = resolve(open_config(model)), weights[model, recipe.weights]
        assert (config.eval.image_size or config.image_size) == transforms.crop_size, model
        assert config.eval.resize_size == transforms.resize_size, model
        assert config.interpolation == transforms.interpolation, model
        assert (config.mean, config.std) == (transforms.mean, transforms.std), model


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_every_recipe_is_valid(name, root):
    config = get_config(root, name)()
    validate(resolve(config), device_count=1)


def test_sizes_of_progressive_resizing_follow_another_image_size():
    config = resolve(open_config("efficientnet_v2_l", image_size=190))
    assert config.image_sizes == ((0, 64), (87, 106), (174, 148), (261, 190))
    assert (config.image_size, config.eval.image_size, config.eval.resize_size) == (190, 240, 240)
    config = resolve(open_config("convnext_base", image_sizes=((0, 64), (300, 88))))
    assert (config.image_size, config.eval.image_size, config.eval.resize_size) == (88, 112, 116)


def test_another_optimizer_does_not_get_the_arguments_of_the_recipes():
    config = resolve(open_config("inception_v3", optimizer="adamw"))
    validate(config, device_count=1)
    assert (config.optimizer_args.alpha, config.optimizer_args.eps) == (None, 1e-8)


# --- small datasets


@pytest.mark.parametrize("dataset", sorted(DATASETS))
def test_small_datasets_inherit_nothing_of_an_imagenet_recipe(dataset):
    """Only what is listed for the network: a smaller rate, larger images, another optimizer."""
    ours = flat(resolve(open_config("resnet18", dataset)))
    for model, recipe in RECIPES.items():
        theirs = flat(resolve(open_config(model, dataset)))
        differing = {name for name in ours if theirs[name] != ours[name]} - {"model", "recipe"}
        listed = {*recipe.small, *recipe.by_dataset.get(dataset, {})}
        if recipe.small_rate != 1:
            listed |= {"learning_rate"}
        if "optimizer" in listed:
            listed |= {name for name in ours if name.startswith("optimizer_args.")} | {"momentum"}
        if "image_size" in listed:  # at another size
            listed |= {"fit", "augment.padding", "eval.resize_size", "augment.resize_size"}
        assert differing <= listed, model


def test_small_datasets_are_trained_with_plain_sgd():
    settings = flat(resolve(open_config("efficientnet_b0", "digits")))
    assert settings["optimizer"] == "sgd"
    assert settings["learning_rate"] == 0.05
    assert (settings["schedule"], settings["schedule_by"]) == ("cosine", "step")
    assert settings["warmup_epochs"] == 1.0
    assert settings["ema.decay"] is None
    assert settings["augment.policy"] == "none"
    assert settings["image_size"] == 64


def test_another_recipe_leaves_small_datasets_alone(root):
    for name, (model, _) in OTHERS.items():
        theirs = flat(resolve(get_config(root, name)("digits")))
        ours = flat(resolve(open_config(model, "digits")))
        assert theirs | {"recipe": "reference"} == ours


def test_fine_tuning_is_the_classic_tutorials(root):
    """On any dataset, and whatever the network's own recipe."""
    for model in ("resnet18", "mobilenet_v3_small", "convnext_tiny"):
        for dataset in ("folder:/photos", "fashion_mnist"):
            config = get_config(root, "finetune")(model)
            config.dataset = dataset
            config = resolve(config)
            validate(config, device_count=1)
            assert config.init_from == "DEFAULT"
            assert (config.optimizer, config.learning_rate, config.momentum) == ("sgd", 1e-3, 0.9)
            assert (config.schedule, config.schedule_by) == ("step", "epoch")
            assert (config.decay_epochs, config.decay_factor) == (7, 0.1)
            assert (config.num_epochs, config.batch_size, config.weight_decay) == (25, 4, 0)
            assert (config.augment.policy, config.augment.mixup) == ("none", 0)
            assert (config.ema.decay, config.image_sizes) == (None, None)


def test_fine_tuning_needs_a_dataset(root):
    with pytest.raises(UserError, match="config.dataset=None is not valid; it must be a tfds"):
        resolve(get_config(root, "finetune")())


def test_unknown_recipe_is_refused():
    with pytest.raises(
        UserError, match="config.recipe='finetun': there is no such recipe; did you mean 'finetune'"
    ):
        resolve(open_config("resnet18", recipe="finetun"))


def test_the_new_recipe_trains_other_networks_too(root):
    config = get_config(root, "resnet50_v2")()
    config.model = "mobilenet_v2"
    assert differences(config, OTHER_COMMANDS["resnet50_v2"]) == {}


# --- what the config files and the documentation say


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_docstring_of_a_config_has_the_figures_of_its_recipe(name, root):
    model, recipe = CONFIGS[name]
    text = (root / "configs" / f"{name}.py").read_text()
    docstring = " ".join((ast.get_docstring(ast.parse(text)) or "").split())
    assert re.findall(r'the recipe "(\w+)"', docstring) == [recipe.name]
    assert recipe.source in docstring
    (epochs, batch) = re.findall(r"([\d,]+) epochs of batches of ([\d,]+) images", docstring)[0]
    assert int(epochs.replace(",", "")) == recipe.settings["num_epochs"]
    assert int(batch.replace(",", "")) == recipe.settings["batch_size"]
    on_devices = re.findall(r"([\d,]+) on each of (\d+) devices|all on one device", docstring)
    if recipe.devices is None:
        assert not on_devices
    elif recipe.devices > 1:
        ((images, devices),) = on_devices
        assert int(devices) == recipe.devices
        assert int(images) * recipe.devices == recipe.settings["batch_size"]
    top1 = recipe.top1(model)
    percents = [] if top1 is None else [f"{recipe_table.percent(top1)}"]
    assert re.findall(r"([\d.]+)% top-1", docstring) == percents
    weights = [] if recipe.weights is None else [recipe.weights]
    assert re.findall(r"weights (IMAGENET1K_\w+)", docstring)[:1] == weights
    assert bool(re.search(r"\bported\b", docstring)) == recipe.ported


def test_the_documented_table_is_the_generated_one(root):
    text = (root / "docs" / "recipes.md").read_text()
    marker = r"<!-- python -m jaxcnn\.training\.recipe_table -->\n(.*?)<!-- end -->"
    (table,) = re.findall(marker, text, re.DOTALL)
    assert table == recipe_table.markdown_table()
