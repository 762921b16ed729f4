"""The command lines with which published weights were trained, and the settings of papers.

Typed from their sources, not from ``jaxcnn/training/recipes``, with which ``test_recipes.py``
compares them.
"""

import dataclasses
from typing import Any

README = "torchvision, references/classification/README.md"


@dataclasses.dataclass(frozen=True)
class Command:
    """A command line of torchvision's ``references/classification/train.py``.

    Attributes:
        source: where it is published.
        flags: as it is published, without ``--model`` and paths.
        gpus: number of GPUs over all nodes.
        models: trained with it.
        weights: the name of the weights that it gave.
        instead: flags that the source's text, or the transforms of the weights, have in place of
            the command line's.
    """

    source: str
    flags: str
    models: tuple[str, ...]
    gpus: int = 8
    weights: str = "IMAGENET1K_V1"
    instead: str = ""


_REGNET = (
    "--lr-scheduler=cosineannealinglr --lr-warmup-method=linear "
    "--lr-warmup-epochs=5 --lr-warmup-decay=0.1"
)
# Of PyTorch's blog, "How to train state-of-the-art models using TorchVision's latest primitives".
NEW_RECIPE = (
    "--batch-size 128 --lr 0.5 --lr-scheduler cosineannealinglr --lr-warmup-epochs 5 "
    "--lr-warmup-method linear --auto-augment ta_wide --epochs 600 --random-erase 0.1 "
    "--weight-decay 0.00002 --norm-weight-decay 0.0 --label-smoothing 0.1 --mixup-alpha 0.2 "
    "--cutmix-alpha 1.0 --train-crop-size 176 --model-ema --val-resize-size 232 --ra-sampler "
    "--ra-reps 4"
)
_CONVNEXT = (
    "--batch-size 128 --opt adamw --lr 1e-3 --lr-scheduler cosineannealinglr "
    "--lr-warmup-epochs 5 --lr-warmup-method linear --auto-augment ta_wide --epochs 600 "
    "--random-erase 0.1 --label-smoothing 0.1 --mixup-alpha 0.2 --cutmix-alpha 1.0 "
    "--weight-decay 0.05 --norm-weight-decay 0.0 --train-crop-size 176 --model-ema "
    "--val-resize-size 232 --ra-sampler --ra-reps 4"
)
_EFFICIENTNET_V2 = (
    "--batch-size 128 --lr 0.5 --lr-scheduler cosineannealinglr --lr-warmup-epochs 5 "
    "--lr-warmup-method linear --auto-augment ta_wide --epochs 600 --random-erase 0.1 "
    "--label-smoothing 0.1 --mixup-alpha 0.2 --cutmix-alpha 1.0 --weight-decay 0.00002 "
    "--norm-weight-decay 0.0 --train-crop-size {train} --model-ema --val-crop-size {eval} "
    "--val-resize-size {eval} --ra-sampler --ra-reps 4"
)

COMMANDS: tuple[Command, ...] = (
    Command(
        f"{README}, AlexNet and VGG",
        "--lr 1e-2",
        models=("alexnet", "vgg11", "vgg13", "vgg16", "vgg19"),
    ),
    Command(
        f"{README}, AlexNet and VGG: with batch norm, the default parameters",
        "",
        models=("vgg11_bn", "vgg13_bn", "vgg16_bn", "vgg19_bn"),
    ),
    Command(
        f"{README}, ResNet",
        "",
        models=("resnet18", "resnet34", "resnet50", "resnet101", "resnet152"),
    ),
    Command(f"{README}, ResNext", "--epochs 100", models=("resnext50_32x4d",)),
    Command(
        f"{README}, ResNext: 8 nodes, each with 8 GPUs",
        "--epochs 100",
        models=("resnext101_32x8d",),
        gpus=64,
        instead="--batch-size 16 --lr 0.4",
    ),
    Command(
        f"{README}, MobileNetV2",
        "--epochs 300 --lr 0.045 --wd 0.00004 --lr-step-size 1 --lr-gamma 0.98",
        models=("mobilenet_v2",),
    ),
    Command(
        f"{README}, MobileNetV3 Large & Small",
        "--epochs 600 --opt rmsprop --batch-size 128 --lr 0.064 --wd 0.00001 --lr-step-size 2 "
        "--lr-gamma 0.973 --auto-augment imagenet --random-erase 0.2",
        models=("mobilenet_v3_large", "mobilenet_v3_small"),
    ),
    Command(
        f"{README}, RegNet, small models",
        f"--epochs 100 --batch-size 128 --wd 0.00005 --lr=0.8 {_REGNET}",
        models=(
            *("regnet_x_400mf", "regnet_x_800mf", "regnet_x_1_6gf"),
            *("regnet_y_800mf", "regnet_y_1_6gf"),
        ),
    ),
    Command(
        f"{README}, RegNet, small models: regnet_y_400mf",
        f"--epochs 100 --batch-size 128 --wd 0.00005 --lr=0.8 {_REGNET}",
        models=("regnet_y_400mf",),
        instead="--lr 0.4",
    ),
    Command(
        f"{README}, RegNet, medium models",
        f"--epochs 100 --batch-size 64 --wd 0.00005 --lr=0.4 {_REGNET}",
        models=(
            *("regnet_x_3_2gf", "regnet_x_8gf", "regnet_x_16gf"),
            *("regnet_y_3_2gf", "regnet_y_8gf"),
        ),
    ),
    Command(
        f"{README}, RegNet, large models",
        f"--epochs 100 --batch-size 32 --wd 0.00005 --lr=0.2 {_REGNET}",
        models=("regnet_x_32gf", "regnet_y_16gf", "regnet_y_32gf"),
    ),
    *(
        Command(
            f"{README}, EfficientNet-V2: 4 nodes, each with 8 GPUs",
            _EFFICIENTNET_V2.format(train=train_size, eval=eval_size),
            models=(model,),
            gpus=32,
            instead="--batch-size 32",
        )
        for model, train_size, eval_size in (
            ("efficientnet_v2_s", 300, 384),
            ("efficientnet_v2_m", 384, 480),
        )
    ),
    *(
        Command(
            f"{README}, ConvNeXt: 2 nodes, each with 8 GPUs; the weights' transforms",
            _CONVNEXT,
            models=(model,),
            gpus=16,
            instead=f"--batch-size 64 --val-resize-size {size}",
        )
        for model, size in (
            ("convnext_tiny", 236),
            ("convnext_small", 230),
            ("convnext_base", 232),
            ("convnext_large", 232),
        )
    ),
    Command(
        f"{README}, ShuffleNet V2",
        "--batch-size=128 --lr=0.5 --lr-scheduler=cosineannealinglr --lr-warmup-epochs=5 "
        "--lr-warmup-method=linear --auto-augment=ta_wide --epochs=600 --random-erase=0.1 "
        "--weight-decay=0.00002 --norm-weight-decay=0.0 --label-smoothing=0.1 "
        "--mixup-alpha=0.2 --cutmix-alpha=1.0 --train-crop-size=176 --model-ema "
        "--val-resize-size=232 --ra-sampler --ra-reps=4",
        models=("shufflenet_v2_x1_5", "shufflenet_v2_x2_0"),
    ),
    Command(
        "torchvision, pull request 6019",
        "--batch-size=128 --lr=0.5 --lr-scheduler=cosineannealinglr --lr-warmup-epochs=5 "
        "--lr-warmup-method=linear --auto-augment=ta_wide --epochs=600 --random-erase=0.1 "
        "--weight-decay=0.00002 --norm-weight-decay=0.0 --label-smoothing=0.1 "
        "--mixup-alpha=0.2 --cutmix-alpha=1.0 --train-crop-size=176 --model-ema "
        "--val-resize-size=232 --ra-sampler --ra-reps=4",
        models=("mnasnet0_75", "mnasnet1_3"),
    ),
    Command(
        "torchvision, pull request 5935",
        "--batch-size=128 --lr=0.5 --lr-scheduler=cosineannealinglr --lr-warmup-epochs=5 "
        "--lr-warmup-method=linear --auto-augment=ta_wide --epochs=600 --random-erase=0.1 "
        "--weight-decay=0.00002 --norm-weight-decay=0.0 --label-smoothing=0.1 "
        "--mixup-alpha=0.2 --cutmix-alpha=1.0 --train-crop-size=176 --model-ema "
        "--val-resize-size=232 --ra-sampler --ra-reps=4",
        models=("resnext101_64x4d",),
    ),
)

# Of other config files than a network's own, by their name.
OTHER_COMMANDS: dict[str, Command] = {
    "resnet50_v2": Command(
        "PyTorch's blog, How to train state-of-the-art models using TorchVision's latest "
        "primitives; torchvision, issue 3995, comment 1013906621",
        NEW_RECIPE,
        models=("resnet50",),
        weights="IMAGENET1K_V2",
    ),
}


@dataclasses.dataclass(frozen=True)
class Paper:
    """What a paper, or a pull request, says in words; the rest is as ``train.py``'s defaults.

    Attributes:
        source: where.
        settings: by config key; what it does not say, and was chosen, too.
        models: trained so.
        ported: whether torchvision publishes weights that it took from elsewhere.
        weights: torchvision's name of the weights; None: there are none.
        devices: number of devices; None: not published, or not what the batch is spread over.
        top1: top-1 accuracy on ImageNet's validation images in the paper, where there are no
            weights; 0 to 1.
    """

    source: str
    settings: dict[str, Any]
    models: tuple[str, ...]
    ported: bool = False
    weights: str | None = "IMAGENET1K_V1"
    devices: int | None = None
    top1: float | None = None


_TENSORFLOW_RMSPROP = {
    "optimizer": "rmsprop",
    "optimizer_args.alpha": 0.9,
    "optimizer_args.eps": 0.0316,
    "momentum": 0.9,
    "weight_decay": 1e-5,
    "norm_weight_decay": 0.0,
    "learning_rate": 0.256,
    "batch_size": 4096,
    "num_epochs": 350,
    "warmup_epochs": 5.0,
    "schedule_by": "step",
    "decay_epochs": 2.4,
    "decay_factor": 0.97,
    "label_smoothing": 0.1,
    # 0.0001 at every update: torchvision multiplies by batch and steps, and divides by epochs.
    "ema.decay": 0.999991455078,
    "ema.steps": 1,
}
_GOOGLENET = {
    "batch_size": 32,
    "num_epochs": 250,
    "learning_rate": 0.01,
    "weight_decay": 0.0002,
    "decay_epochs": 8,
    "decay_factor": 0.96,
}

PAPERS: tuple[Paper, ...] = (
    Paper(
        "torchvision, pull request 912: a cosine over 256 epochs",
        {"num_epochs": 256, "schedule": "cosine"},
        models=("wide_resnet50_2", "wide_resnet101_2"),
        devices=8,
    ),
    Paper(
        "torchvision, pull request 49: --epochs 100 --lr 0.01 --weight-decay 0.0002 "
        "--batch-size 128",
        {"num_epochs": 100, "learning_rate": 0.01, "weight_decay": 0.0002, "batch_size": 128},
        models=("squeezenet1_0", "squeezenet1_1"),
    ),
    Paper(
        "facebookresearch/SWAG, issues 8 and 9",
        {
            "num_epochs": 8,
            "batch_size": 512,
            "learning_rate": 6e-3,
            "weight_decay": 0.0,
            "nesterov": True,
            "schedule": "cosine",
            "schedule_by": "step",
            "sync_batch_norm": True,
            "augment.mixup": 0.1,
            "ema.decay": 0.9999984375,
            "ema.steps": 1,
            "interpolation": "bicubic",
            "image_size": 384,
            "eval.resize_size": 384,
        },
        models=("regnet_y_128gf",),
        weights="IMAGENET1K_SWAG_E2E_V1",
        devices=64,
    ),
    Paper(
        "Huang et al. 2017, section 4.2; fb.resnet.torch, datasets/imagenet.lua",
        {
            "nesterov": True,
            "augment.color_jitter": (0.4, 0.4, 0.4, 0.0),
            "augment.lighting": 0.1,
        },
        models=("densenet121", "densenet161", "densenet169", "densenet201"),
        ported=True,
        devices=4,
    ),
    Paper(
        "Szegedy et al. 2014, section 6; Caffe, models/bvlc_googlenet/solver.prototxt",
        _GOOGLENET,
        models=("googlenet",),
        ported=True,
    ),
    Paper(
        "Szegedy et al. 2014, section 6; Caffe, models/bvlc_googlenet/solver.prototxt",
        _GOOGLENET,
        models=("googlenet_original",),
        weights=None,
    ),
    Paper(
        "Szegedy et al. 2015, sections 7 and 8; tensorflow/models, inception_train.py",
        {
            "optimizer": "rmsprop",
            "optimizer_args.alpha": 0.9,
            "optimizer_args.eps": 1.0,
            "weight_decay": 4e-5,
            "learning_rate": 0.045,
            "batch_size": 1600,
            "num_epochs": 100,
            "decay_epochs": 2,
            "decay_factor": 0.94,
            "clip_grad_norm": 2.0,
            "label_smoothing": 0.1,
            "ema.decay": 0.99999375,
            "ema.steps": 1,
            "image_size": 299,
            "eval.resize_size": 342,
        },
        models=("inception_v3",),
        ported=True,
        devices=50,
    ),
    Paper(
        "Tan et al. 2019, section 5; tensorflow/tpu, models/official/mnasnet",
        _TENSORFLOW_RMSPROP,
        models=("mnasnet0_5", "mnasnet1_0"),
        ported=True,
    ),
    *(
        Paper(
            "Tan and Le 2019, section 5.2; tensorflow/tpu, models/official/efficientnet",
            {
                **_TENSORFLOW_RMSPROP,
                "augment.policy": "auto_augment_imagenet",
                "interpolation": "bicubic",
                "image_size": size,
                "eval.resize_size": round(size / 0.875),  # CROP_FRACTION of preprocessing.py
            },
            models=(f"efficientnet_b{index}",),
            ported=True,
        )
        for index, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    ),
    Paper(
        "Tan and Le 2021, section 5.1 and table 6; google/automl, efficientnetv2",
        {
            **_TENSORFLOW_RMSPROP,
            "augment.policy": "rand_augment",
            "augment.mixup": 0.5,
            "interpolation": "bicubic",
            "mean": (0.5, 0.5, 0.5),
            "std": (0.5, 0.5, 0.5),
            "image_size": 380,
            "image_sizes": ((0, 128), (87, 212), (174, 296), (261, 380)),
            "eval.image_size": 480,
            "eval.resize_size": 480,
        },
        models=("efficientnet_v2_l",),
        ported=True,
    ),
    Paper(
        "Ma et al. 2018, section 4; Zhang et al. 2018, section 4",
        {
            "batch_size": 1024,
            "num_epochs": 240,  # 300,000 steps
            "learning_rate": 0.5,
            "weight_decay": 4e-5,
            "schedule": "polynomial",
            "schedule_by": "step",
            "power": 1.0,
        },
        models=("shufflenet_v2_x0_5", "shufflenet_v2_x1_0"),
        ported=True,
        devices=4,
    ),
    Paper(
        "Krizhevsky et al. 2012, sections 4 and 5",
        {
            "batch_size": 128,
            "num_epochs": 90,
            "learning_rate": 0.01,
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "schedule": "plateau",
            "plateau.metric": "top1",
            "decay_factor": 0.1,
            "min_learning_rate": 1e-5,
            "subtract_mean_image": True,
            "std": (1 / 255,),
            "augment.crop": "resize_and_crop",
            "augment.resize_size": 256,
            "augment.flip": True,
            "augment.lighting": 0.1,
            "image_size": 227,
            "eval.resize_size": 256,
            "eval.crops": 10,
        },
        models=("alexnet_original",),
        weights=None,
        top1=1 - 0.407,  # table 2, one network
    ),
    Paper(
        "Zeiler and Fergus 2013, section 3",
        {
            "batch_size": 128,
            "num_epochs": 70,
            "learning_rate": 0.01,
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "renormalize_filters": 0.1,
            "schedule": "plateau",
            "plateau.metric": "top1",
            "decay_factor": 0.1,
            "subtract_mean_image": True,
            "std": (1 / 255,),
            "augment.crop": "resize_and_crop",
            "augment.resize_size": 256,
            "augment.flip": True,
            "image_size": 224,
            "eval.resize_size": 256,
            "eval.crops": 10,
        },
        models=("zfnet",),
        weights=None,
        devices=1,
        top1=1 - 0.384,  # table 2, one network as in figure 3
    ),
    Paper(
        "Lin et al. 2013, section 4.1; Krizhevsky et al. 2012, section 5",
        {
            "batch_size": 128,
            "learning_rate": 0.01,
            "weight_decay": 0.0005,
            "schedule": "plateau",
            "plateau.metric": "top1",
            "decay_factor": 0.1,
            "min_learning_rate": 1e-4,
        },
        models=("nin",),
        weights=None,
    ),
    Paper(
        "no weights are published: as torchvision's small RegNets",
        {
            "batch_size": 1024,
            "num_epochs": 100,
            "learning_rate": 0.8,
            "weight_decay": 5e-5,
            "schedule": "cosine",
            "warmup_epochs": 5.0,
            "warmup_decay": 0.1,
        },
        models=("anynet",),
        weights=None,
        devices=8,
    ),
    Paper(
        "no weights are published: as torchvision's VGGs without batch norm",
        {"learning_rate": 0.01},
        models=("vgg",),
        weights=None,
        devices=8,
    ),
    Paper(
        "today's SGD, for MNIST",
        {
            "num_epochs": 20,
            "batch_size": 128,
            "learning_rate": 0.02,
            "schedule": "cosine",
            "image_size": 32,
            "eval.resize_size": 37,
        },
        models=("lenet5",),
        weights=None,
    ),
)
