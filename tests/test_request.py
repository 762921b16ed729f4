"""What makes no sense in a config is told before anything is computed."""

from types import SimpleNamespace

import pytest

from jaxcnn.errors import UserError
from jaxcnn.training.recipes import recipe
from jaxcnn.training.request import check_config, check_data


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("eval.crops", 9, "one of 1, 10"),
        ("eval.crops", 10, "set config.eval.crop to resize_and_center_crop"),
        ("augment.policy", "auto", "one of none, rand_augment, trivial_augment_wide"),
        ("augment.color_jitter", (1.0,), "four numbers"),
        ("augment.color_jitter", (0.4, 0.4, 0.4, 0.6), "the last of them to 0.5"),
        ("augment.color_jitter", (-0.4, 0.4, 0.4, 0.1), "four numbers from 0"),
        ("augment.color_jitter", ("a", 0.4, 0.4, 0.1), "must be numbers"),
        ("std", (float("nan"),), "must be numbers"),
        ("augment.mixup", float("nan"), "at least 0"),
        ("seed", 2**63, "below"),
        ("augment.mixup", -0.1, "at least 0"),
        ("augment.erasing", 1.5, "in 0 to 1"),
        ("max_skipped", -0.1, "in 0 to 1"),
        ("interpolation", "nearest", "one of bilinear, bicubic"),
        ("channels", 4, "one of None, 1, 3"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(key, value, words):
    config = recipe("lenet5", "digits")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"config.{key} is .*{words}"):
        check_config(config)


def check_digits(**flat) -> None:
    config = recipe("lenet5", "digits")
    config.update_from_flattened_dict({key.replace("__", "."): v for key, v in flat.items()})
    source = SimpleNamespace(num_examples=100, num_classes=10, channels=1)
    check_config(config)
    check_data(config, source, source)


def test_coloured_light_is_for_colours():
    with pytest.raises(UserError, match="for colours only"):
        check_digits(augment__lighting=0.1)
    check_digits(augment__lighting=0.1, channels=3)


def test_a_mean_of_each_channel_fits_the_channels_that_the_network_gets():
    with pytest.raises(UserError, match="3 values, but the images of digits have 1 channel"):
        check_digits(mean=(0.1, 0.2, 0.3))
    check_digits(mean=(0.1, 0.2, 0.3), channels=3)
