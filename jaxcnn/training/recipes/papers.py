"""The papers' recipes, of networks that torchvision did not train."""

from jaxcnn.training.recipes.recipe import Recipe, ema_decay
from jaxcnn.training.recipes.reference import REFERENCE, WITHOUT_NORM

# Augmentation of fb.resnet.torch, with which the authors trained the weights that torchvision
# ported (README of liuzhuang13/DenseNet: 4 GPUs).
DENSENET = REFERENCE.but(
    "densenet",
    "Huang et al. 2017, section 4.2, and fb.resnet.torch, datasets/imagenet.lua",
    {
        "nesterov": True,
        "augment.color_jitter": (0.4, 0.4, 0.4, 0.0),
        "augment.lighting": 0.1,
    },
    devices=4,
    ported=True,
)

# The paper gives momentum and the fall of the rate, and trained asynchronously; rate, batch, weight
# decay and the 250 epochs are those of Caffe's bvlc_googlenet/solver.prototxt, which has the
# paper's schedule. The paper averages the parameters, but does not say how: no average here.
GOOGLENET = REFERENCE.but(
    "googlenet",
    "Szegedy et al. 2014, section 6; Caffe, models/bvlc_googlenet",
    {
        "num_epochs": 250,
        "batch_size": 32,
        "learning_rate": 0.01,
        "weight_decay": 2e-4,
        "decay_epochs": 8,
        "decay_factor": 0.96,
    },
    devices=None,
    ported=True,
)
# Without batch norm.
GOOGLENET_ORIGINAL = GOOGLENET.but(
    "googlenet_original", GOOGLENET.source, {}, weights=None, ported=False
)

# 50 replicas of 32 images that trained asynchronously: one batch of 1,600 here. The paper names no
# weight decay, no momentum beside RMSProp and no decay of the running average: those of the
# authors' code, tensorflow/models, inception/inception_train.py and slim: 4e-5, 0.9 and 0.9999.
# TensorFlow's RMSProp has its eps (1.0) inside of the root.
#
# On small images, at the rate of a ResNet, its loss first rises above ten.
INCEPTION_V3 = REFERENCE.but(
    "inception_v3",
    "Szegedy et al. 2015, sections 7 and 8",
    {
        "optimizer": "rmsprop",
        "optimizer_args.eps": 1.0,
        "num_epochs": 100,
        "batch_size": 50 * 32,
        "learning_rate": 0.045,
        "weight_decay": 4e-5,
        "clip_grad_norm": 2.0,
        "decay_epochs": 2,
        "decay_factor": 0.94,
        "label_smoothing": 0.1,
        "ema.decay": ema_decay(0.9999, batch_size=1600, num_epochs=100),
        "ema.steps": 1,
    },
    devices=50,
    ported=True,
    small_rate=0.1,
)

# MnasNet's section 5 and the authors' code, tensorflow/tpu, models/official/mnasnet: the number of
# epochs, label smoothing, the average, and that norms do not decay. Its warm-up starts at zero, and
# its decays are counted from the first step; here from 0.01 of the rate and from the warm-up's end.
# TensorFlow's RMSProp has its eps (0.001) inside of the root: outside, its root, as in torchvision.
MNASNET = REFERENCE.but(
    "mnasnet",
    "Tan et al. 2019, section 5; tensorflow/tpu, models/official/mnasnet",
    {
        "optimizer": "rmsprop",
        "num_epochs": 350,
        "batch_size": 4096,
        "learning_rate": 0.256,
        "weight_decay": 1e-5,
        "norm_weight_decay": 0.0,
        "schedule_by": "step",
        "warmup_epochs": 5.0,
        "decay_epochs": 2.4,
        "decay_factor": 0.97,
        "label_smoothing": 0.1,
        "ema.decay": ema_decay(0.9999, batch_size=4096, num_epochs=350),
        "ema.steps": 1,
    },
    devices=None,
    ported=True,
)


def efficientnet(name: str, image_size: int) -> Recipe:
    """The recipe of an EfficientNet.

    "Similar settings as MnasNet"; batch, epochs, warm-up, label smoothing and average are those of
    the authors' code, tensorflow/tpu, models/official/efficientnet (its rate is 0.016 for each 256
    images: 4,096 at 0.256).
    """
    settings = {
        "augment.policy": "auto_augment_imagenet",
        "interpolation": "bicubic",
        "image_size": image_size,
    }
    source = "Tan and Le 2019, section 5.2; tensorflow/tpu, models/official/efficientnet"
    return MNASNET.but(name, source, settings)


# In four stages of about 87 epochs the images grow from 128 to 380 pixels. The strengths of
# RandAugment (5 to 25), mixup (0 to 0.5) and dropout (0.1 to 0.5), which the paper raises with
# them, have no schedule here: torchvision's magnitude 9, the last alpha (google/automl,
# efficientnetv2/effnetv2_configs.py) and the network's own dropout of 0.4. The mean and the
# deviation are those of the ported weights.
EFFICIENTNET_V2_L = MNASNET.but(
    "efficientnet_v2_l",
    "Tan and Le 2021, section 5.1 and table 6; google/automl, efficientnetv2",
    {
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
)

# 300,000 steps of 1,024 images are 240 epochs. The paper's "slightly less aggressive scale
# augmentation" is not specified.
SHUFFLENET = REFERENCE.but(
    "shufflenet",
    "Ma et al. 2018, section 4: the settings of Zhang et al. 2018 (ShuffleNet), section 4",
    {
        "num_epochs": 240,
        "batch_size": 1024,
        "learning_rate": 0.5,
        "weight_decay": 4e-5,
        "schedule": "polynomial",
        "schedule_by": "step",
        "power": 1.0,
    },
    devices=4,
    ported=True,
)

# Inputs of about -128 to 128, less the mean image: values of 0 to 1 are divided by 1/255.
_PIXELS = {"subtract_mean_image": True, "std": (1 / 255,)}
# The paper does not say how long the error has to stand still: torch's default of ten epochs. It
# says that crops have 224 pixels, but its feature maps take 227.
ALEXNET_ORIGINAL = WITHOUT_NORM.but(
    "alexnet_original",
    "Krizhevsky et al. 2012, sections 4 and 5",
    {
        **_PIXELS,
        "batch_size": 128,
        "num_epochs": 90,
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "schedule": "plateau",
        "plateau.metric": "top1",
        "decay_factor": 0.1,
        "min_learning_rate": 1e-5,  # "reduced three times prior to termination"
        "augment.crop": "resize_and_crop",
        "augment.resize_size": 256,
        "augment.lighting": 0.1,
        "image_size": 227,
        "eval.resize_size": 256,
        "eval.crops": 10,
    },
    devices=None,  # two GPUs, each of them with half of the network
    weights=None,
    paper_top1=0.593,  # table 2, one network: an error of 40.7%
)
# What the paper leaves open is AlexNet's, on whose code it is based: weight decay, and the factor
# by which the rate was lowered by hand. Its initial weights are the constant 0.01, with which equal
# filters stay equal: --config.model_args.weight_init=0.01; the network's own are normal, 0.01.
ZFNET = WITHOUT_NORM.but(
    "zfnet",
    "Zeiler and Fergus 2013, section 3",
    {
        **_PIXELS,
        "batch_size": 128,
        "num_epochs": 70,
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "renormalize_filters": 0.1,
        "schedule": "plateau",
        "plateau.metric": "top1",
        "decay_factor": 0.1,
        "augment.crop": "resize_and_crop",
        "augment.resize_size": 256,
        "image_size": 224,
        "eval.resize_size": 256,
        "eval.crops": 10,
    },
    devices=1,
    weights=None,
    paper_top1=0.616,  # table 2, one network as in figure 3: an error of 38.4%
)
# The paper trains on CIFAR, SVHN and MNIST: batches of 128, and a rate that falls by ten when the
# accuracy on the training set stops improving, twice. It has no settings for ImageNet; rate, weight
# decay and epochs are AlexNet's, whose procedure it follows.
NIN = WITHOUT_NORM.but(
    "nin",
    "Lin et al. 2013, section 4.1; Krizhevsky et al. 2012, section 5",
    {
        "batch_size": 128,
        "learning_rate": 0.01,
        "weight_decay": 5e-4,
        "schedule": "plateau",
        "plateau.metric": "top1",
        "decay_factor": 0.1,
        "min_learning_rate": 1e-4,  # "one percent of the initial value"
    },
    devices=None,
    weights=None,
)
# The paper trained with a second-order method of its own.
LENET = REFERENCE.but(
    "lenet",
    "published nowhere: today's SGD on MNIST",
    {"num_epochs": 20, "batch_size": 128, "learning_rate": 0.02, "schedule": "cosine"},
    devices=None,
    weights=None,
    small_rate=0.4,
    dataset="mnist",
)
