"""How each of torchvision's families is compared with torchvision: data only."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Family:
    """What the parity tests need to know of a family.

    Attributes:
        steps: the models whose training steps are compared, each with the shape of its batch,
            ``[N, C, H, W]``.
        norms_of_branch: regular expression of the norms in a residual branch, by their paths; its
            group is the branch. The last norm's scale is made small, so that the test measures
            the port and not chaos.
        keywords: models and keyword arguments; between them, every argument of the family.
        still: arguments that turn off what is random in training.
        size: height and width of the odd images.
        learning_rate: of the three steps.
        aux_weight: what the papers give each auxiliary head's loss.
        fast: those that stand for the family; test_torchvision.py says what runs with which.
    """

    steps: Mapping[str, tuple[int, int, int, int]]
    fast: Sequence[str]
    norms_of_branch: str = r"$^()"
    keywords: Sequence[tuple[str, Mapping[str, Any]]] = ()
    still: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size: tuple[int, int] = (65, 79)
    learning_rate: float = 0.01
    aux_weight: float = 0.0


FAMILIES = {
    "resnet": Family(
        fast=("resnet18", "resnet50", "resnext50_32x4d"),
        norms_of_branch=r"(layer\d\.\d+)\.bn\d$",
        keywords=[
            ("resnet18", {"num_classes": 7, "zero_init_residual": True}),
            ("resnet50", {"replace_stride_with_dilation": (False, True, True)}),
            ("resnet50", {"replace_stride_with_dilation": (True, False, True)}),
            ("resnet50", {"width_per_group": 32, "groups": 2}),
            ("resnext50_32x4d", {"replace_stride_with_dilation": (False, False, True)}),
        ],
        steps={
            "resnet18": (4, 3, 65, 65),
            "resnet50": (4, 3, 65, 65),
            "resnext50_32x4d": (4, 3, 65, 65),
        },
    ),
    "alexnet": Family(
        fast=("alexnet",),
        keywords=[("alexnet", {"dropout": 1.0})],  # all of them: that is not random
        still={"dropout": 0.0},
        steps={"alexnet": (4, 3, 65, 79)},
    ),
    "densenet": Family(
        fast=("densenet121",),
        keywords=[
            ("densenet121", {"bn_size": 2, "num_classes": 7}),
            ("densenet121", {"drop_rate": 1.0, "memory_efficient": True}),
        ],
        steps={"densenet169": (4, 3, 65, 65)},  # a small one: test_densenet.py
    ),
    "googlenet": Family(
        fast=("googlenet",),
        keywords=[
            ("googlenet", {"aux_logits": False, "transform_input": True, "dropout": 1.0}),
            ("googlenet", {"dropout_aux": 1.0, "num_classes": 7}),
        ],
        still={"dropout": 0.0, "dropout_aux": 0.0},
        steps={"googlenet": (4, 3, 97, 97)},
        aux_weight=0.3,
    ),
    "inception": Family(
        fast=(),  # test_inception.py has its auxiliary head
        keywords=[
            ("inception_v3", {"aux_logits": False, "transform_input": True, "dropout": 1.0}),
        ],
        still={"dropout": 0.0},
        size=(301, 363),  # in training the auxiliary head takes no less than 299
        # The auxiliary head's batch norms see one value per image: of four, their gradients have
        # too few digits left (1.0e-9 instead of 1e-10).
        steps={"inception_v3": (6, 3, 299, 299)},
        learning_rate=1e-4,
        aux_weight=0.4,
    ),
    "squeezenet": Family(
        fast=("squeezenet1_1",),
        keywords=[("squeezenet1_0", {"dropout": 1.0})],
        still={"dropout": 0.0},
        steps={"squeezenet1_0": (4, 3, 65, 65), "squeezenet1_1": (4, 3, 65, 65)},
    ),
    "vgg": Family(
        fast=("vgg11",),
        keywords=[("vgg11", {"dropout": 1.0})],
        still={"dropout": 0.0},
        steps={"vgg11_bn": (4, 3, 33, 39)},  # a small one: test_vgg.py
    ),
    "mobilenet_v2": Family(
        fast=("mobilenet_v2",),
        norms_of_branch=r"(features\.(?:3|5|6|8|9|1[02356])\.conv)\.[\d.]+$",
        keywords=[
            ("mobilenet_v2", {"num_classes": 7, "width_mult": 0.35, "dropout": 1.0}),
            (
                "mobilenet_v2",
                {
                    "width_mult": 1.3,
                    "round_nearest": 1,
                    "inverted_residual_setting": ((1, 16, 2, 1), (4, 24, 3, 2), (6, 40, 2, 2)),
                },
            ),
        ],
        still={"dropout": 0.0},
        steps={"mobilenet_v2": (4, 3, 33, 33)},
        learning_rate=0.001,
    ),
    "mobilenet_v3": Family(
        fast=("mobilenet_v3_small",),
        norms_of_branch=r"(features\.\d+\.block)\.\d+\.1$",
        keywords=[
            ("mobilenet_v3_small", {"num_classes": 7, "width_mult": 0.35, "dropout": 1.0}),
            ("mobilenet_v3_small", {"reduced_tail": True}),
            ("mobilenet_v3_large", {"dilated": True, "reduced_tail": True, "width_mult": 0.75}),
        ],
        still={"dropout": 0.0},
        size=(129, 159),
        steps={"mobilenet_v3_small": (4, 3, 33, 33)},
        learning_rate=0.001,
    ),
    "mnasnet": Family(
        fast=("mnasnet0_5",),
        norms_of_branch=r"(layers\.\d+\.[1-9]\.layers)\.\d+$",
        keywords=[("mnasnet0_5", {"num_classes": 7, "dropout": 1.0})],
        still={"dropout": 0.0},
        size=(129, 159),
        steps={"mnasnet0_5": (4, 3, 33, 33)},
        learning_rate=0.001,
    ),
    "shufflenet_v2": Family(
        fast=("shufflenet_v2_x0_5",),
        keywords=[("shufflenet_v2_x0_5", {"num_classes": 7})],
        steps={"shufflenet_v2_x0_5": (4, 3, 65, 65)},
    ),
    "efficientnet": Family(
        fast=("efficientnet_b0",),
        norms_of_branch=r"(features\.\d+\.[1-9]\d*\.block)\.\d+\.1$",
        keywords=[("efficientnet_b0", {"num_classes": 7, "dropout": 1.0})],
        still={"dropout": 0.0, "stochastic_depth_prob": 0.0},
        size=(129, 159),  # XLA is slow where a kernel of 5x5 is larger than the map
        steps={"efficientnet_b0": (4, 3, 33, 33)},
        learning_rate=0.001,
    ),
    "regnet": Family(
        fast=("regnet_y_400mf", "regnet_x_400mf"),
        norms_of_branch=r"(trunk_output\.block\d\.block\d-\d+)\.f\.\w\.1$",
        keywords=[("regnet_y_400mf", {"stem_width": 16, "num_classes": 7})],
        steps={"regnet_x_400mf": (4, 3, 65, 65), "regnet_y_400mf": (4, 3, 65, 65)},
    ),
    "convnext": Family(
        fast=("convnext_tiny",),
        keywords=[("convnext_tiny", {"layer_scale": 0.1, "num_classes": 7})],
        still={"stochastic_depth_prob": 0.0},
        size=(47, 65),
        steps={"convnext_tiny": (2, 3, 33, 39)},
    ),
}
