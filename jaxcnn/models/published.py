"""Metadata of the weights that torchvision publishes.

From ``torchvision.models.get_model_weights`` of torchvision 0.29; a test compares them.
"""

import dataclasses
from collections.abc import Sequence

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)
# For weights from Caffe, which expect values from 0 to 255 with the mean subtracted.
_CAFFE_MEAN, _CAFFE_STD = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """The preprocessing of an image: resize, center crop, normalize.

    Attributes:
        resize_size: length of the shorter side after the resize, in pixels.
        crop_size: height and width of the center crop, in pixels.
        interpolation: of the resize, antialiased: ``"bilinear"`` or ``"bicubic"``.
        mean: one value per channel, for values in 0 to 1.
        std: likewise.
    """

    resize_size: int
    crop_size: int
    interpolation: str = "bilinear"
    mean: Sequence[float] = _IMAGENET_MEAN
    std: Sequence[float] = _IMAGENET_STD


@dataclasses.dataclass(frozen=True)
class PublishedWeights:
    """One set of weights that torchvision publishes.

    Attributes:
        model: the architecture.
        name: torchvision's name of the weights.
        num_params: number of parameters of the model (of GoogLeNet without its auxiliary heads).
        multiply_adds: of a forward pass of one image of the default size, in convolutions and
            dense layers; torchvision publishes them rounded to a million.
        file: name of the file; it ends in the first digits of the file's sha256.
        top1: top-1 accuracy on ImageNet's validation images, 0 to 1; None: the weights are not
            for classification.
        top5: top-5 accuracy, likewise.
        preprocessing: the preprocessing of images for these weights.
        default: whether they are torchvision's ``"DEFAULT"``.
    """

    model: str
    name: str
    num_params: int
    multiply_adds: int
    file: str
    top1: float | None
    top5: float | None
    preprocessing: Preprocessing
    default: bool

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"https://download.pytorch.org/models/{self.file}"


# Of each model: the numbers of parameters and of multiply-adds at its default size; then of each of
# its weights, the default first, the name less "IMAGENET1K_", file, top-1 and
# top-5 in percent, preprocessing.
_TABLE = {
    "alexnet": (
        61_100_840,
        714_188_480,
        ("V1", "alexnet-owt-7be5be79.pth", 56.522, 79.066, Preprocessing(256, 224)),
    ),
    "convnext_base": (
        88_591_464,
        15_354_729_472,
        ("V1", "convnext_base-6075fbad.pth", 84.062, 96.87, Preprocessing(232, 224)),
    ),
    "convnext_large": (
        197_767_336,
        34_361_433_600,
        ("V1", "convnext_large-ea097f82.pth", 84.414, 96.976, Preprocessing(232, 224)),
    ),
    "convnext_small": (
        50_223_688,
        8_683_712_256,
        ("V1", "convnext_small-0c510722.pth", 83.616, 96.65, Preprocessing(230, 224)),
    ),
    "convnext_tiny": (
        28_589_128,
        4_455_531_264,
        ("V1", "convnext_tiny-983f1562.pth", 82.52, 96.146, Preprocessing(236, 224)),
    ),
    "densenet121": (
        7_978_856,
        2_834_161_664,
        ("V1", "densenet121-a639ec97.pth", 74.434, 91.972, Preprocessing(256, 224)),
    ),
    "densenet161": (
        28_681_000,
        7_727_907_072,
        ("V1", "densenet161-8d451a50.pth", 77.138, 93.56, Preprocessing(256, 224)),
    ),
    "densenet169": (
        14_149_480,
        3_359_843_328,
        ("V1", "densenet169-b2777c0a.pth", 75.6, 92.806, Preprocessing(256, 224)),
    ),
    "densenet201": (
        20_013_928,
        4_291_365_888,
        ("V1", "densenet201-c1103571.pth", 76.896, 93.37, Preprocessing(256, 224)),
    ),
    "efficientnet_b0": (
        5_288_548,
        385_814_752,
        (
            "V1",
            "efficientnet_b0_rwightman-7f5810bc.pth",
            77.692,
            93.532,
            Preprocessing(256, 224, "bicubic"),
        ),
    ),
    "efficientnet_b1": (
        7_794_184,
        686_802_832,
        ("V2", "efficientnet_b1-c27df63c.pth", 79.838, 94.934, Preprocessing(255, 240)),
        (
            "V1",
            "efficientnet_b1_rwightman-bac287d4.pth",
            78.642,
            94.186,
            Preprocessing(256, 240, "bicubic"),
        ),
    ),
    "efficientnet_b2": (
        9_109_994,
        1_087_529_456,
        (
            "V1",
            "efficientnet_b2_rwightman-c35c1473.pth",
            80.608,
            95.31,
            Preprocessing(288, 288, "bicubic"),
        ),
    ),
    "efficientnet_b3": (
        12_233_232,
        1_827_141_392,
        (
            "V1",
            "efficientnet_b3_rwightman-b3899882.pth",
            82.008,
            96.054,
            Preprocessing(320, 300, "bicubic"),
        ),
    ),
    "efficientnet_b4": (
        19_341_616,
        4_393_771_024,
        (
            "V1",
            "efficientnet_b4_rwightman-23ab8bcd.pth",
            83.384,
            96.594,
            Preprocessing(384, 380, "bicubic"),
        ),
    ),
    "efficientnet_b5": (
        30_389_784,
        10_266_384_752,
        (
            "V1",
            "efficientnet_b5_lukemelas-1a07897c.pth",
            83.444,
            96.628,
            Preprocessing(456, 456, "bicubic"),
        ),
    ),
    "efficientnet_b6": (
        43_040_704,
        19_067_593_536,
        (
            "V1",
            "efficientnet_b6_lukemelas-24a108a5.pth",
            84.008,
            96.916,
            Preprocessing(528, 528, "bicubic"),
        ),
    ),
    "efficientnet_b7": (
        66_347_960,
        37_745_884_192,
        (
            "V1",
            "efficientnet_b7_lukemelas-c5b4e57e.pth",
            84.122,
            96.908,
            Preprocessing(600, 600, "bicubic"),
        ),
    ),
    "efficientnet_v2_l": (
        118_515_272,
        56_079_699_008,
        (
            "V1",
            "efficientnet_v2_l-59c71312.pth",
            85.808,
            97.788,
            Preprocessing(480, 480, "bicubic", mean=_HALF, std=_HALF),
        ),
    ),
    "efficientnet_v2_m": (
        54_139_356,
        24_582_460_384,
        ("V1", "efficientnet_v2_m-dc08266a.pth", 85.112, 97.156, Preprocessing(480, 480)),
    ),
    "efficientnet_v2_s": (
        21_458_488,
        8_365_617_152,
        ("V1", "efficientnet_v2_s-dd5fe13b.pth", 84.228, 96.878, Preprocessing(384, 384)),
    ),
    "googlenet": (
        6_624_904,
        1_498_376_192,
        ("V1", "googlenet-1378be20.pth", 69.778, 89.53, Preprocessing(256, 224)),
    ),
    "inception_v3": (
        27_161_264,
        5_713_216_096,
        ("V1", "inception_v3_google-0cc3c7bd.pth", 77.294, 93.45, Preprocessing(342, 299)),
    ),
    "mnasnet0_5": (
        2_218_512,
        104_455_968,
        ("V1", "mnasnet0.5_top1_67.823-3ffadce67e.pth", 67.734, 87.49, Preprocessing(256, 224)),
    ),
    "mnasnet0_75": (
        3_170_208,
        215_493_104,
        ("V1", "mnasnet0_75-7090bc5f.pth", 71.18, 90.496, Preprocessing(232, 224)),
    ),
    "mnasnet1_0": (
        4_383_312,
        314_415_872,
        ("V1", "mnasnet1.0_top1_73.512-f206786ef8.pth", 73.456, 91.51, Preprocessing(256, 224)),
    ),
    "mnasnet1_3": (
        6_282_256,
        526_362_432,
        ("V1", "mnasnet1_3-a4c69d6f.pth", 76.506, 93.522, Preprocessing(232, 224)),
    ),
    "mobilenet_v2": (
        3_504_872,
        300_774_272,
        ("V2", "mobilenet_v2-7ebf99e0.pth", 72.154, 90.822, Preprocessing(232, 224)),
        ("V1", "mobilenet_v2-b0353104.pth", 71.878, 90.286, Preprocessing(256, 224)),
    ),
    "mobilenet_v3_large": (
        5_483_032,
        216_589_760,
        ("V2", "mobilenet_v3_large-5c1a4163.pth", 75.274, 92.566, Preprocessing(232, 224)),
        ("V1", "mobilenet_v3_large-8738ca79.pth", 74.042, 91.34, Preprocessing(256, 224)),
    ),
    "mobilenet_v3_small": (
        2_542_856,
        56_510_400,
        ("V1", "mobilenet_v3_small-047dcff4.pth", 67.668, 87.402, Preprocessing(256, 224)),
    ),
    "regnet_x_16gf": (
        54_278_536,
        15_940_755_456,
        ("V2", "regnet_x_16gf-ba3796d7.pth", 82.716, 96.196, Preprocessing(232, 224)),
        ("V1", "regnet_x_16gf-2007eb11.pth", 80.058, 94.944, Preprocessing(256, 224)),
    ),
    "regnet_x_1_6gf": (
        9_190_136,
        1_602_849_792,
        ("V2", "regnet_x_1_6gf-a12f2b72.pth", 79.668, 94.922, Preprocessing(232, 224)),
        ("V1", "regnet_x_1_6gf-e3633e7f.pth", 77.04, 93.44, Preprocessing(256, 224)),
    ),
    "regnet_x_32gf": (
        107_811_560,
        31_735_929_792,
        ("V2", "regnet_x_32gf-6eb8fdc6.pth", 83.014, 96.288, Preprocessing(232, 224)),
        ("V1", "regnet_x_32gf-9d47f8d0.pth", 80.622, 95.248, Preprocessing(256, 224)),
    ),
    "regnet_x_3_2gf": (
        15_296_552,
        3_176_621_952,
        ("V2", "regnet_x_3_2gf-7071aa85.pth", 81.196, 95.43, Preprocessing(232, 224)),
        ("V1", "regnet_x_3_2gf-f342aeae.pth", 78.364, 93.992, Preprocessing(256, 224)),
    ),
    "regnet_x_400mf": (
        5_495_976,
        413_812_608,
        ("V2", "regnet_x_400mf-62229a5f.pth", 74.864, 92.322, Preprocessing(232, 224)),
        ("V1", "regnet_x_400mf-adf1edd5.pth", 72.834, 90.95, Preprocessing(256, 224)),
    ),
    "regnet_x_800mf": (
        7_259_656,
        799_699_712,
        ("V2", "regnet_x_800mf-94a99ebd.pth", 77.522, 93.826, Preprocessing(232, 224)),
        ("V1", "regnet_x_800mf-ad17e45c.pth", 75.212, 92.348, Preprocessing(256, 224)),
    ),
    "regnet_x_8gf": (
        39_572_648,
        7_995_132_416,
        ("V2", "regnet_x_8gf-2b70d774.pth", 81.682, 95.678, Preprocessing(232, 224)),
        ("V1", "regnet_x_8gf-03ceed89.pth", 79.344, 94.686, Preprocessing(256, 224)),
    ),
    "regnet_y_128gf": (
        644_812_894,
        127_517_815_680,
        (
            "SWAG_E2E_V1",
            "regnet_y_128gf_swag-c8ce3e52.pth",
            88.228,
            98.682,
            Preprocessing(384, 384, "bicubic"),
        ),
        (
            "SWAG_LINEAR_V1",
            "regnet_y_128gf_lc_swag-cbe8ce12.pth",
            86.068,
            97.844,
            Preprocessing(224, 224, "bicubic"),
        ),
    ),
    "regnet_y_16gf": (
        83_590_140,
        15_911_510_272,
        ("V2", "regnet_y_16gf-3e4a00f9.pth", 82.886, 96.328, Preprocessing(232, 224)),
        ("V1", "regnet_y_16gf-9e6ed7dd.pth", 80.424, 95.24, Preprocessing(256, 224)),
        (
            "SWAG_E2E_V1",
            "regnet_y_16gf_swag-43afe44d.pth",
            86.012,
            98.054,
            Preprocessing(384, 384, "bicubic"),
        ),
        (
            "SWAG_LINEAR_V1",
            "regnet_y_16gf_lc_swag-f3ec0043.pth",
            83.976,
            97.244,
            Preprocessing(224, 224, "bicubic"),
        ),
    ),
    "regnet_y_1_6gf": (
        11_202_430,
        1_612_076_160,
        ("V2", "regnet_y_1_6gf-0d7bc02a.pth", 80.876, 95.444, Preprocessing(232, 224)),
        ("V1", "regnet_y_1_6gf-b11a554e.pth", 77.95, 93.966, Preprocessing(256, 224)),
    ),
    "regnet_y_32gf": (
        145_046_770,
        32_279_552_832,
        ("V2", "regnet_y_32gf-8db6d4b5.pth", 83.368, 96.498, Preprocessing(232, 224)),
        ("V1", "regnet_y_32gf-4dee3f7a.pth", 80.878, 95.34, Preprocessing(256, 224)),
        (
            "SWAG_E2E_V1",
            "regnet_y_32gf_swag-04fdfa75.pth",
            86.838,
            98.362,
            Preprocessing(384, 384, "bicubic"),
        ),
        (
            "SWAG_LINEAR_V1",
            "regnet_y_32gf_lc_swag-e1583746.pth",
            84.622,
            97.48,
            Preprocessing(224, 224, "bicubic"),
        ),
    ),
    "regnet_y_3_2gf": (
        19_436_338,
        3_176_482_752,
        ("V2", "regnet_y_3_2gf-9180c971.pth", 81.982, 95.972, Preprocessing(232, 224)),
        ("V1", "regnet_y_3_2gf-b5a9779c.pth", 78.948, 94.576, Preprocessing(256, 224)),
    ),
    "regnet_y_400mf": (
        4_344_144,
        401_842_848,
        ("V2", "regnet_y_400mf-e6988f5f.pth", 75.804, 92.742, Preprocessing(232, 224)),
        ("V1", "regnet_y_400mf-c65dace8.pth", 74.046, 91.716, Preprocessing(256, 224)),
    ),
    "regnet_y_800mf": (
        6_432_512,
        833_856_256,
        ("V2", "regnet_y_800mf-58fc7688.pth", 78.828, 94.502, Preprocessing(232, 224)),
        ("V1", "regnet_y_800mf-1b27b58c.pth", 76.42, 93.136, Preprocessing(256, 224)),
    ),
    "regnet_y_8gf": (
        39_381_472,
        8_473_070_592,
        ("V2", "regnet_y_8gf-dc2b1b54.pth", 82.828, 96.33, Preprocessing(232, 224)),
        ("V1", "regnet_y_8gf-d0d0e4a8.pth", 80.032, 95.048, Preprocessing(256, 224)),
    ),
    "resnet101": (
        44_549_160,
        7_801_405_440,
        ("V2", "resnet101-cd907fc2.pth", 81.886, 95.78, Preprocessing(232, 224)),
        ("V1", "resnet101-63fe2227.pth", 77.374, 93.546, Preprocessing(256, 224)),
    ),
    "resnet152": (
        60_192_808,
        11_513_626_624,
        ("V2", "resnet152-f82ba261.pth", 82.284, 96.002, Preprocessing(232, 224)),
        ("V1", "resnet152-394f9c45.pth", 78.312, 94.046, Preprocessing(256, 224)),
    ),
    "resnet18": (
        11_689_512,
        1_814_073_344,
        ("V1", "resnet18-f37072fd.pth", 69.758, 89.078, Preprocessing(256, 224)),
    ),
    "resnet34": (
        21_797_672,
        3_663_761_408,
        ("V1", "resnet34-b627a593.pth", 73.314, 91.42, Preprocessing(256, 224)),
    ),
    "resnet50": (
        25_557_032,
        4_089_184_256,
        ("V2", "resnet50-11ad3fa6.pth", 80.858, 95.434, Preprocessing(232, 224)),
        ("V1", "resnet50-0676ba61.pth", 76.13, 92.862, Preprocessing(256, 224)),
    ),
    "resnext101_32x8d": (
        88_791_336,
        16_414_015_488,
        ("V2", "resnext101_32x8d-110c445d.pth", 82.834, 96.228, Preprocessing(232, 224)),
        ("V1", "resnext101_32x8d-8ba56ff5.pth", 79.312, 94.526, Preprocessing(256, 224)),
    ),
    "resnext101_64x4d": (
        83_455_272,
        15_460_270_080,
        ("V1", "resnext101_64x4d-173b62eb.pth", 83.246, 96.454, Preprocessing(232, 224)),
    ),
    "resnext50_32x4d": (
        25_028_904,
        4_230_479_872,
        ("V2", "resnext50_32x4d-1a0047aa.pth", 81.198, 95.34, Preprocessing(232, 224)),
        ("V1", "resnext50_32x4d-7cdf4587.pth", 77.618, 93.698, Preprocessing(256, 224)),
    ),
    "shufflenet_v2_x0_5": (
        1_366_792,
        40_476_448,
        ("V1", "shufflenetv2_x0.5-f707e7126e.pth", 60.552, 81.746, Preprocessing(256, 224)),
    ),
    "shufflenet_v2_x1_0": (
        2_278_604,
        144_907_992,
        ("V1", "shufflenetv2_x1-5666bf0f80.pth", 69.362, 88.316, Preprocessing(256, 224)),
    ),
    "shufflenet_v2_x1_5": (
        3_503_624,
        295_759_392,
        ("V1", "shufflenetv2_x1_5-3c479a10.pth", 72.996, 91.086, Preprocessing(232, 224)),
    ),
    "shufflenet_v2_x2_0": (
        7_393_996,
        583_253_464,
        ("V1", "shufflenetv2_x2_0-8be3c8ee.pth", 76.23, 93.006, Preprocessing(232, 224)),
    ),
    "squeezenet1_0": (
        1_248_424,
        818_924_576,
        ("V1", "squeezenet1_0-b66bff10.pth", 58.092, 80.42, Preprocessing(256, 224)),
    ),
    "squeezenet1_1": (
        1_235_496,
        349_151_936,
        ("V1", "squeezenet1_1-b8a52dc0.pth", 58.178, 80.624, Preprocessing(256, 224)),
    ),
    "vgg11": (
        132_863_336,
        7_609_090_048,
        ("V1", "vgg11-8a719046.pth", 69.02, 88.628, Preprocessing(256, 224)),
    ),
    "vgg11_bn": (
        132_868_840,
        7_609_090_048,
        ("V1", "vgg11_bn-6002323d.pth", 70.37, 89.81, Preprocessing(256, 224)),
    ),
    "vgg13": (
        133_047_848,
        11_308_466_176,
        ("V1", "vgg13-19584684.pth", 69.928, 89.246, Preprocessing(256, 224)),
    ),
    "vgg13_bn": (
        133_053_736,
        11_308_466_176,
        ("V1", "vgg13_bn-abd245e5.pth", 71.586, 90.374, Preprocessing(256, 224)),
    ),
    "vgg16": (
        138_357_544,
        15_470_264_320,
        ("V1", "vgg16-397923af.pth", 71.592, 90.382, Preprocessing(256, 224)),
        (
            "FEATURES",
            "vgg16_features-amdegroot-88682ab5.pth",
            None,
            None,
            Preprocessing(256, 224, mean=_CAFFE_MEAN, std=_CAFFE_STD),
        ),
    ),
    "vgg16_bn": (
        138_365_992,
        15_470_264_320,
        ("V1", "vgg16_bn-6c64b313.pth", 73.36, 91.516, Preprocessing(256, 224)),
    ),
    "vgg19": (
        143_667_240,
        19_632_062_464,
        ("V1", "vgg19-dcbb9e9d.pth", 72.376, 90.876, Preprocessing(256, 224)),
    ),
    "vgg19_bn": (
        143_678_248,
        19_632_062_464,
        ("V1", "vgg19_bn-c79401a0.pth", 74.218, 91.842, Preprocessing(256, 224)),
    ),
    "wide_resnet101_2": (
        126_886_696,
        22_753_050_624,
        ("V2", "wide_resnet101_2-d733dc28.pth", 82.51, 96.02, Preprocessing(232, 224)),
        ("V1", "wide_resnet101_2-32ee1156.pth", 78.848, 94.284, Preprocessing(256, 224)),
    ),
    "wide_resnet50_2": (
        68_883_240,
        11_398_021_120,
        ("V2", "wide_resnet50_2-9ba9bcbe.pth", 81.602, 95.758, Preprocessing(232, 224)),
        ("V1", "wide_resnet50_2-95faca4d.pth", 78.468, 94.086, Preprocessing(256, 224)),
    ),
}

PUBLISHED: tuple[PublishedWeights, ...] = tuple(
    PublishedWeights(
        model,
        f"IMAGENET1K_{name}",
        num_params,
        multiply_adds,
        file,
        None if top1 is None else round(top1 / 100, 5),
        None if top5 is None else round(top5 / 100, 5),
        preprocessing,
        default=index == 0,
    )
    for model, (num_params, multiply_adds, *rows) in _TABLE.items()
    for index, (name, file, top1, top5, preprocessing) in enumerate(rows)
)
