"""The configuration: one table, open keys that model and dataset fill in, and what is refused."""

import ast
import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from absl import flags
from ml_collections import config_flags
from smallest import smallest_of_families
from tiers import tiers

from jaxcnn import cli, convert, models
from jaxcnn.errors import UserError
from jaxcnn.training.build import build, check_network, make_model
from jaxcnn.training.config import (
    KEYS,
    as_json,
    digest,
    open_config,
    resolve,
    validate,
    validate_data,
)
from jaxcnn.training.config.images import adapted
from jaxcnn.training.recipes import DATASETS, RECIPES, recipe_for


def changed(model: str = "lenet5", dataset: str = "digits", **flat):
    """A resolved config with other values, nested keys with two underscores."""
    return resolve(open_config(model, dataset, **flat))


def test_every_open_key_is_resolved():
    config = as_json(resolve(open_config("resnet18")))
    for key in KEYS:
        value = config
        for part in key.name.split("."):
            value = value[part]
        assert value is not None or key.stays_open, key.name


def test_a_config_file_leaves_open_what_depends_on_model_and_dataset():
    config = open_config("resnet18", "cifar10")
    for name in ("learning_rate", "batch_size", "image_size", "mean", "num_epochs"):
        assert config[name] is None


def test_another_model_brings_its_own_rate_and_size():
    config = open_config("resnet18", "imagenet2012")
    config.model = "alexnet"
    assert resolve(config).learning_rate == 0.01
    config.model = "inception_v3"
    config = resolve(config)
    assert (config.learning_rate, config.image_size, config.eval.resize_size) == (0.045, 299, 342)


def test_another_dataset_brings_its_own_settings():
    config = open_config("resnet18", "imagenet2012")
    config.dataset = "cifar10"
    config = resolve(config)
    assert (config.image_size, config.batch_size, config.schedule) == (32, 128, "cosine")
    assert config.mean == (0.4914, 0.4822, 0.4465)
    assert config.augment.crop == "pad_and_crop"


def test_what_is_given_wins_over_recipe_and_preset():
    config = changed("alexnet", "cifar10", learning_rate=0.3, augment__flip=False, image_size=128)
    assert (config.learning_rate, config.augment.flip, config.image_size) == (0.3, False, 128)
    assert (config.fit, config.augment.padding) == ("resize", 16)  # in proportion


def test_model_args_are_those_of_the_model():
    config = open_config("resnet18")
    config.model, config.model_args.blocks = "vgg", ((1, 8), (2, 16))
    assert resolve(config).model_args.to_dict() == {
        "blocks": ((1, 8), (2, 16)),
        "batch_norm": False,
        "dropout": 0.5,
        "weight_init": None,
    }
    config.model = "resnet18"
    with pytest.raises(UserError, match="resnet18.. got an unexpected argument 'blocks'"):
        resolve(config)


@pytest.mark.parametrize(
    ("name", "value"),
    [("width_per_group", "many"), ("zero_init_residual", "yes"), ("norm_layer", models.resnet18)],
)
def test_model_args_have_the_type_of_their_default_and_are_plain(name, value):
    config = open_config("resnet18", "digits")
    config.model_args[name] = value
    with pytest.raises(UserError, match=f"config.model_args.{name}=.* is not valid; it must be"):
        resolve(config)


def test_published_weights_bring_the_arguments_that_they_were_trained_with():
    config = changed("googlenet", "imagenet2012", init_from="DEFAULT")
    assert config.model_args.transform_input is True
    config = changed(
        "googlenet", "imagenet2012", init_from="DEFAULT", model_args__transform_input=False
    )
    assert config.model_args.transform_input is False


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections'
def test_a_number_is_an_initializer_on_the_command_line(root):
    values = flags.FlagValues()
    argv = [
        "train.py",
        f"--config={root}/configs/lenet5.py:digits",
        "--config.model_args.weight_init=0.01",
        "--config.mean=(0.5,)",
        "--noconfig.augment.flip",
    ]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    config = resolve(values.config)
    assert config.model_args.weight_init == 0.01
    assert (config.mean, config.augment.flip) == ((0.5,), False)
    assert make_model(config, num_classes=10).weight_init == 0.01


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")  # ml_collections'
@pytest.mark.parametrize(
    ("model", "arguments"),
    [
        ("vgg", {"blocks": ((1, 16), (1, 32), (2, 64))}),
        (
            "alexnet_original",
            {
                "widths": (96, 256, 384, 384, 384),
                "first_padding": 1,
                "two_columns": False,
                "local_response_norm": False,
                "weight_init": "xavier_uniform",
                "initial_bias": 0.0,
            },
        ),
        ("zfnet", {"local_response_norm": False, "weight_init": 0.01}),
        ("zfnet", {"lrn_size": 9, "lrn_alpha": 0.5, "lrn_beta": 0.5, "lrn_k": 1.0}),
        ("resnext50_32x4d", {"conv_bias": True}),
        (
            "anynet",
            {"depths": (4, 6), "widths": (32, 80), "group_widths": (16, 16), "conv_bias": True},
        ),
    ],
    ids=["vgg", "alexnet_original", "zfnet without normalization", "zfnet", "resnext", "anynet"],
)
def test_textbook_forms_are_built_from_the_command_line(model, arguments, root):
    values = flags.FlagValues()
    argv = ["train.py", f"--config={root}/configs/{model}.py:digits"]
    argv += [f"--config.model_args.{name}={value}" for name, value in arguments.items()]
    config_flags.DEFINE_config_file("config", flag_values=values, sys_argv=argv)
    values(argv)
    config = resolve(values.config)
    assert arguments.items() <= config.model_args.to_dict().items()
    network = make_model(config, num_classes=10)
    assert {name: getattr(network, name) for name in arguments} == arguments


def test_resolving_changes_nothing_that_is_resolved():
    config = changed("vgg11", "cifar10")
    assert as_json(resolve(config)) == as_json(config)


def test_json_round_trip_keeps_the_digest():
    config = changed("anynet", "cifar10")
    assert json.loads(json.dumps(as_json(config))) == as_json(config)
    assert digest(config) == digest(changed("anynet", "cifar10"))
    assert digest(config) != digest(changed("anynet", "cifar10", seed=1))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("eval.crops", 9, "one of 1, 10"),
        ("eval.crops", 10, "set config.eval.crop=resize_and_center_crop"),
        ("augment.policy", "auto", "one of none, rand_augment, trivial_augment_wide"),
        ("augment.color_jitter", (1.0,), "4 numbers"),
        ("augment.color_jitter", (0.4, 0.4, 0.4, 0.6), "the last number is at most 0.5"),
        ("augment.color_jitter", (-0.4, 0.4, 0.4, 0.1), "each at least 0"),
        ("augment.color_jitter", ("a", 0.4, 0.4, 0.1), "4 numbers"),
        ("std", (float("nan"),), "numbers, each above 0"),
        ("std", (0.0,), "numbers, each above 0"),
        ("mean", (), "numbers"),
        ("augment.mixup", float("nan"), "at least 0"),
        ("augment.mixup", -0.1, "at least 0"),
        ("augment.erasing", 1.5, "at least 0 and at most 1"),
        ("max_skipped", -0.1, "at least 0 and at most 1"),
        ("interpolation", "nearest", "one of bilinear, bicubic"),
        ("channels", 4, "one of 1, 3"),
        ("schedule", "cos", "one of constant, step, multistep"),
        ("image_sizes", ((1, 32),), "pairs of an epoch, rising from 0"),
        ("image_sizes", (32, 48), "pairs of an epoch, rising from 0"),
        ("optimizer", "adam", "one of sgd, rmsprop, adamw"),
        ("ema.decay", 1.0, "at least 0 and below 1"),
        ("decay_epochs", 0.0, "above 0"),
        ("decay_factor", 0.0, "above 0 and at most 1"),
        ("label_smoothing", 1.0, "at least 0 and below 1"),
        ("momentum", 1.0, "at least 0 and below 1"),
        ("learning_rate", -0.1, "at least 0"),
        ("batch_size", 0, "a whole number, at least 1"),
        ("num_classes", 0, "a whole number, at least 1"),
        ("num_classes", -1, "a whole number, at least 1"),
        ("image_size", 0, "a whole number, at least 1"),
        ("image_size", 100_000, "GB for one batch"),
        ("eval.image_size", 100_000, "GB for one batch"),
        ("eval.batch_size", 0, "a whole number, at least 1"),
        ("seed", -1, "at least 0"),
        ("nesterov", True, "needs momentum"),
        ("dtype", "float16", "one of float32, bfloat16"),
        ("dataset", "", "a tfds dataset"),
    ],
)  # fmt: skip
def test_invalid_value_is_named_with_what_is_accepted(key, value, words):
    config = open_config("lenet5", "digits", momentum=0.0 if key == "nesterov" else 0.9)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=rf"config\.{key}.*{words}"):
        validate(resolve(config), device_count=1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer": "adamw", "momentum": 0.9}, "momentum=0.9 is not an argument of .*=adamw"),
        ({"optimizer": "rmsprop", "nesterov": True}, "not an argument of config.optimizer=rmsprop"),
        ({"optimizer_args__alpha": 0.9}, "optimizer_args.alpha=0.9 is not an argument of .*=sgd"),
        ({"schedule": "multistep"}, "the schedule multistep, and no other, has milestones"),
        ({"milestones": (3,)}, "the schedule multistep, and no other, has milestones"),
        ({"schedule": "multistep", "milestones": (3, 2)}, "do not rise; put them in order"),
        ({"schedule_by": "epoch", "warmup_epochs": 0.5}, "warmup_epochs=0.5 is not whole"),
        (
            {"schedule_by": "epoch", "schedule": "step", "decay_epochs": 2.4},
            "decay_epochs=2.4 is not whole.*config.schedule_by=step",
        ),
        ({"schedule": "cosine", "min_learning_rate": 0.5}, "min_learning_rate=0.5 is above"),
        ({"image_sizes": ((0, 32), (20, 48))}, "a size from epoch 20 on.*num_epochs=20"),
        (
            {"image_sizes": ((0, 32), (2, 48)), "subtract_mean_image": True},
            "subtract_mean_image=True needs images of one size; leave config.image_sizes out",
        ),
        (
            {"eval__image_size": 48, "subtract_mean_image": True},
            "config.eval.image_size=48 is not config.image_size=32; make them equal",
        ),
        (
            {
                "eval__image_size": 48,
                "eval__crop": "resize_and_center_crop",
                "eval__resize_size": 40,
            },
            "eval.resize_size=40 is smaller than config.eval.image_size=48",
        ),
        ({"schedule": "multistep", "milestones": (30,)}, "all after the last of .*num_epochs=20"),
        ({"ema__decay": 0.9}, "ema.decay=0.9, adjusted .* use a decay above 0.990234"),
        (
            {"checkpoint__best_by": "ema_top1"},
            "best_by=ema_top1 needs an average .* set config.ema.decay, or .*best_by=top1",
        ),
        ({"freeze": "body", "layer_decay": 0.8}, "layer_decay=0.8 has no effect .*freeze=body"),
        ({"unfreeze_epoch": 3}, "unfreeze_epoch=3 needs something frozen"),
        ({"unfreeze_epoch": 20, "freeze": "body"}, "unfreeze_epoch=20 is not before the end"),
        ({"head_learning_rate": 0.1, "learning_rate": 0.0}, "needs config.learning_rate above 0"),
        ({"teacher": "lenet5"}, "teacher=lenet5 and config.teacher_weights=None go together"),
        ({"teacher": "lenet", "teacher_weights": "x"}, "config.teacher: Unknown model 'lenet'"),
        ({"accumulate_steps": 5}, "accumulate_steps=5 does not divide the 64 images"),
        (
            {"augment__policy": "aug_mix", "interpolation": "bicubic"},
            "policy=aug_mix does not accept config.interpolation=bicubic.*interpolation=bilinear",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        validate(changed(**settings), device_count=1)


def test_memory_of_a_batch_counts_crops_and_processes():
    config = changed("resnet18", "imagenet2012", eval__crops=10, batch_size=32_768)
    with pytest.raises(UserError, match="batches of 327680 images needs 49 GB"):
        validate(config, device_count=1)
    validate(config, device_count=64, process_count=64)


def test_seed_is_below_what_keys_can_hold():
    with pytest.raises(UserError, match="config.seed=9223372036854775808 is not valid"):
        validate(changed(seed=2**63), device_count=1)


def test_indivisible_batch_names_one_that_is_and_the_devices_that_would_do():
    words = "batch_size=100 is not divisible by the 8 devices.*96.* use 1, 2, 4 or 5 device"
    with pytest.raises(UserError, match=words):
        validate(changed(batch_size=100), device_count=8)
    validate(changed(batch_size=96), device_count=8)


def test_unknown_key_of_a_users_own_config_is_refused():
    config = open_config("lenet5", "digits")
    config.learning_rat = 0.1
    with pytest.raises(UserError, match="no config key 'learning_rat'.*'learning_rate'"):
        resolve(config)


def check_digits(num_examples: int = 100, eval_examples: int = 100, **flat) -> None:
    def source(count: int) -> SimpleNamespace:
        return SimpleNamespace(num_examples=count, num_classes=10, channels=1)

    config = changed(**flat)
    validate(config, device_count=1)
    validate_data(config, source(num_examples), source(eval_examples))


def test_lighting_needs_three_channels():
    with pytest.raises(UserError, match="needs images of 3 channels, but these have 1"):
        check_digits(augment__lighting=0.1)
    check_digits(augment__lighting=0.1, channels=3)


def test_mean_has_one_value_or_one_per_channel():
    with pytest.raises(UserError, match="3 values, but the images of digits have 1 channel"):
        check_digits(mean=(0.1, 0.2, 0.3))
    check_digits(mean=(0.1, 0.2, 0.3), channels=3)


def test_classes_and_examples_must_suffice():
    with pytest.raises(UserError, match="num_classes=9 is less than the 10 classes of digits"):
        check_digits(num_classes=9)
    with pytest.raises(UserError, match="batch_size=64 is more than the 20 training examples"):
        check_digits(num_examples=20)
    with pytest.raises(UserError, match=r"The split 'train\[:0%\]' of digits is empty"):
        check_digits(num_examples=0, train_split="train[:0%]")
    with pytest.raises(UserError, match="The split 'test' of digits is empty"):
        check_digits(eval_examples=0)


def test_repeats_need_256_examples():
    with pytest.raises(UserError, match="takes a multiple of 256 of the 200 training examples"):
        check_digits(num_examples=200, augment__repeats=2)
    check_digits(num_examples=256, augment__repeats=2)


def test_recipes_sizes_and_stages_follow_what_is_given():
    """The ratio of training to evaluation size is part of a recipe (torchvision's FixRes)."""
    recipe = {
        "num_epochs": 100,
        "image_size": 176,
        "image_sizes": ((0, 88), (50, 176)),
        "eval.image_size": 224,
        "eval.resize_size": 232,
    }
    assert adapted(recipe, {}) == recipe
    assert adapted(recipe, {"image_size": 88, "num_epochs": 10}) == recipe | {
        "image_size": 88,
        "image_sizes": ((0, 44), (5, 88)),
        "eval.image_size": 112,
        "eval.resize_size": 116,
    }
    assert adapted(recipe, {"num_epochs": 1})["image_sizes"] == ((0, 176),)
    assert adapted(recipe, {"eval.image_size": 448})["eval.resize_size"] == 464


def test_evaluation_at_a_size_of_its_own_resizes_in_proportion():
    config = changed("resnet50", "imagenet2012", image_size=176, eval__image_size=224)
    assert (config.eval.resize_size, config.augment.resize_size) == (256, 201)


def test_small_images_of_several_sizes_are_resized_not_cropped():
    for sizes in ({"image_sizes": ((0, 16), (10, 32))}, {"eval__image_size": 64}):
        assert changed("resnet18", "fashion_mnist", **sizes).fit == "resize"
    assert changed("resnet18", "fashion_mnist").fit == "pad"


def test_published_weights_bring_their_preprocessing():
    config = changed("efficientnet_v2_l", "folder:/photos", recipe="finetune", init_from="DEFAULT")
    assert (config.mean, config.std, config.interpolation) == ((0.5,) * 3, (0.5,) * 3, "bicubic")
    assert (config.image_size, config.eval.resize_size) == (480, 480)
    config = changed("resnet50", "folder:/photos", recipe="finetune", init_from="DEFAULT")
    assert (config.image_size, config.eval.resize_size) == (224, 232)
    config = changed("resnet50", "fashion_mnist", recipe="finetune", init_from="DEFAULT")
    assert (config.image_size, config.mean) == (32, (0.2860,))


def test_what_a_recipe_turns_on_is_turned_off_by_zero():
    config = changed("resnet50", "imagenet2012", recipe="new_recipe", ema__decay=0.0)
    assert config.ema.decay == 0
    validate(config, device_count=1)
    config = changed("zfnet", "imagenet2012", renormalize_filters=0.0)
    assert config.renormalize_filters == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"decay_epochs": 3.0}, "decay_epochs=3.0 has no effect without config.schedule=step"),
        ({"power": 2.0}, "power=2.0 has no effect without config.schedule=polynomial"),
        ({"schedule": "step", "min_learning_rate": 0.1}, "without config.schedule=cosine or plat"),
        ({"plateau__patience": 3}, "plateau.patience=3 has no effect without config.schedule=plat"),
        ({"ema__steps": 5}, "ema.steps=5 has no effect without config.ema.decay"),
        ({"freeze_batch_stats": False}, "freeze_batch_stats=False has no effect without config.fr"),
        ({"teacher_weight": 0.9}, "teacher_weight=0.9 has no effect without config.teacher"),
    ],
)
def test_settings_without_effect_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        changed(**settings)


def test_last_of_several_image_sizes_is_the_image_size():
    config = changed(image_sizes=((0, 32), (5, 48)))
    assert (config.image_size, config.fit) == (48, "resize")
    assert as_json(config)["image_sizes"] == [[0, 32], [5, 48]]


def test_network_that_takes_one_size_is_not_resized(data_dir):
    with pytest.raises(
        UserError, match="lenet5 has parameters of other shapes at config.image_siz"
    ):
        build(changed(image_sizes=((0, 32), (2, 48))), data_dir)


def test_pattern_of_frozen_parameters_that_names_nothing_is_refused(data_dir):
    with pytest.raises(UserError, match="config.freeze: .* no parameter or module 'fc4'"):
        build(changed(freeze="fc4"), data_dir)


def test_teacher_of_other_classes_is_refused(data_dir, tmp_path):
    teacher = models.lenet5(num_classes=7)
    images = jnp.zeros((1, 32, 32, 1))
    convert.save(tmp_path / "teacher.safetensors", teacher.init(jax.random.key(0), images))
    weights = str(tmp_path / "teacher.safetensors")
    with pytest.raises(
        UserError, match="teacher=lenet5 with .* cannot teach: it has 7 classes whe"
    ):
        build(changed(teacher="lenet5", teacher_weights=weights), data_dir)
    teacher = models.lenet5()
    convert.save(weights, teacher.init(jax.random.key(0), images))
    build(changed(teacher="lenet5", teacher_weights=weights), data_dir)
    (tmp_path / "classes.json").write_text('["1", "0", "2", "3", "4", "5", "6", "7", "8", "9"]')
    with pytest.raises(UserError, match="classes.json names other classes, or in another order"):
        build(changed(teacher="lenet5", teacher_weights=weights), data_dir)
    (tmp_path / "classes.json").unlink()
    sizes = {"model": "resnet18", "image_sizes": ((0, 32), (1, 40))}
    with pytest.raises(UserError, match="teacher=lenet5 .* cannot teach: The variables do not fit"):
        build(changed(teacher="lenet5", teacher_weights=weights, **sizes), data_dir)


def test_optimizers_arguments_are_resolved():
    config = changed(optimizer="rmsprop", optimizer_args__alpha=0.95)
    assert as_json(config)["optimizer_args"] == {
        "alpha": 0.95,
        "beta1": None,
        "beta2": None,
        "eps": 0.0316,
        "trust_coefficient": None,
    }
    config = changed("densenet121", "imagenet2012", optimizer="adamw")
    assert (config.momentum, config.nesterov) == (0, False)  # not the recipe's
    validate(config, device_count=1)
    assert not changed("densenet121", "imagenet2012", momentum=0.0).nesterov


def test_sync_batch_norm_without_batch_norms_is_refused_before_weights_are_made(data_dir):
    with pytest.raises(UserError, match="lenet5 has no batch norms"):
        build(changed(sync_batch_norm=True), data_dir)


def test_images_too_large_for_the_parameters_are_refused_before_they_are_made(data_dir):
    with pytest.raises(UserError, match="zfnet at config.image_size=20000 needs .* GB"):
        build(changed("zfnet", image_size=20_000, batch_size=4), data_dir)


def test_regnets_learn_small_images_at_a_smaller_rate():
    names = ("anynet", *models.list_models("regnet"))
    assert {changed(name).learning_rate for name in names} == {0.005}
    assert min(changed(name, "imagenet2012").learning_rate for name in names) > 0.005


def test_images_too_small_are_refused_before_weights_are_made(data_dir):
    with pytest.raises(UserError, match="lenet5 cannot be trained at config.image_size=8.*16x16"):
        build(changed(image_size=8), data_dir)
    with pytest.raises(UserError, match="googlenet_original cannot be trained.*auxiliary"):
        build(changed("googlenet_original", model_args__aux_logits=True), data_dir)


# What a network takes depends on its family alone: those with settings of their own, and one more
# of each family.
SMALLEST = set(smallest_of_families())
CHECKED = SMALLEST | {name for name, recipe in RECIPES.items() if recipe.small}

# Seconds each.
DEEP = {"convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"}
DEEP |= {"mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf"}


@pytest.mark.parametrize("name", tiers(sorted(CHECKED), fast=SMALLEST - DEEP, slow=CHECKED))
def test_every_network_takes_the_images_of_small_datasets(name):
    config = changed(name, "digits")
    validate(config, device_count=1)
    shape = (1, config.image_size, config.image_size, 1)
    check_network(config, make_model(config, num_classes=10), shape)


@pytest.mark.parametrize("name", models.list_models())
def test_every_model_has_a_config_file_that_names_its_recipe(name, root):
    text = (root / "configs" / f"{name}.py").read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert re.findall(r'the recipe "(\w+)"', docstring) == [recipe_for(name).name]
    namespace: dict = {}
    exec(text, namespace)
    config = namespace["get_config"]("cifar10")
    assert (config.model, config.dataset) == (name, "cifar10")


def test_recipes_have_settings_of_known_keys_only():
    names = {key.name for key in KEYS}
    for settings in (*DATASETS.values(), *(r.settings for r in RECIPES.values())):
        assert settings.keys() <= names
    for name, recipe in RECIPES.items():
        assert name in models.list_models()
        for key in recipe.small:
            argument = key.removeprefix("model_args.")
            assert key in names or argument in models.builder_arguments(name)


def test_command_prints_what_a_run_would_use(capsys):
    assert cli.main(["config", "alexnet:fashion_mnist"]) == 0
    config = json.loads(capsys.readouterr().out)
    assert (config["model"], config["learning_rate"], config["image_size"]) == (
        "alexnet",
        0.0003,
        64,
    )
    assert cli.main(["config", "alexnett"]) == 2


def test_nothing_but_config_and_build_reads_config_keys(root):
    """So that a new key has one place where it is declared and one where it is used."""
    readers = {
        str(path.relative_to(root / "jaxcnn"))
        for path in (root / "jaxcnn").rglob("*.py")
        if re.search(r"(?<![.\w])config(\.[a-z]\w*|\[)", _code(path.read_text()))
    }
    assert readers == {
        "training/build.py",
        *(
            f"training/config/{name}.py"
            for name in ("export", "named", "resolve", "rules", "validate")
        ),
    }


def _code(text: str) -> str:
    """A module's text without its strings, in which keys are named to users."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
        if isinstance(node, ast.JoinedStr):
            node.values = []
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            node.names = [ast.alias("nothing")]
            if isinstance(node, ast.ImportFrom):
                node.module = "nothing"
    return ast.unparse(tree)
