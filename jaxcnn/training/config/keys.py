"""The table of all keys."""

import dataclasses
from typing import Any

from jaxcnn.data.policies import POLICIES
from jaxcnn.data.presets import EVAL_CROPS, FITS, TRAIN_CROPS
from jaxcnn.data.transforms import INTERPOLATIONS
from jaxcnn.errors import UserError
from jaxcnn.training.best import BEST_BY
from jaxcnn.training.config.values import (
    Allowed,
    Boolean,
    Choice,
    EpochSizes,
    Number,
    Numbers,
    Text,
)
from jaxcnn.training.optimizer import OPTIMIZERS
from jaxcnn.training.schedules import SCHEDULE_UNITS, SCHEDULES, WARMUPS

_COUNT = Number(int, at_least=1)
_NONNEGATIVE = Number(at_least=0)
_FRACTION = Number(at_least=0, at_most=1)


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of the configuration.

    Attributes:
        name: with dots where it is nested.
        default: its value where neither the config file nor a flag gives one; None: open.
        allowed: what it may be.
        meaning: in one line.
        open: what fills in an open key, in words; "": ``allowed`` forbids None.
        otherwise: its value where nothing fills it in.
        stays_open: whether ``None`` is a value of its own, which nothing fills in.
        resumable: whether a run may resume with another value: one that does not touch what has
            been computed so far.
    """

    name: str
    default: Any
    allowed: Allowed
    meaning: str
    open: str = ""
    otherwise: Any = None
    stays_open: bool = False
    resumable: bool = False


_RECIPE = "the recipe's"
_PRESET = "the dataset's preset"
_OPTIMIZER = "the optimizer's"

# fmt: off
KEYS: tuple[Key, ...] = (
    Key("model", None, Text("the name of an architecture (see `jaxcnn models`)"), "architecture"),
    Key("num_classes", None, _COUNT, "number of classes; at least the dataset's",
        open="the dataset's", stays_open=True),
    Key("recipe", None, Text("the name of a recipe (see docs/recipes.md)"),
        "recipe that fills in what is open; small datasets keep their own settings with any but "
        "`finetune`", open="the network's own", resumable=True),
    # --- weights to start from, and what of them trains
    Key("init_from", None, Text("a file, the name of published weights, or hf-hub:OWNER/NAME"),
        "weights to initialize from: a file, torchvision's name (`DEFAULT`, `IMAGENET1K_V1`) or "
        "`hf-hub:OWNER/NAME`; a head for other classes is re-initialized",
        open="random weights", stays_open=True),
    Key("freeze", None, Text("`body`, or patterns of parameter paths with commas between them"),
        "what does not train: `body` (all but the layers that output classes), or patterns such "
        "as `conv1,bn1,layer1.*`", open="nothing", stays_open=True),
    Key("freeze_batch_stats", True, Boolean(),
        "whether frozen batch norms use their running statistics, and leave them as they are"),
    Key("unfreeze_epoch", None, _COUNT, "epochs after which everything trains",
        open="never", stays_open=True),
    Key("head_learning_rate", None, _NONNEGATIVE,
        "highest learning rate of the layers that output classes",
        open="`learning_rate`", stays_open=True),
    Key("layer_decay", None, Number(above=0, at_most=1),
        "what the learning rate is multiplied by from each block to the one before it; 1 for the "
        "head", open="1", stays_open=True),
    # --- data
    Key("dataset", None, Text("a tfds dataset, folder:/path or csv:/path"),
        "tfds name, `folder:/path` or `csv:/path`"),
    Key("train_split", None, Text("a split, such as train or train[:90%]"),
        "split to train on", open=_PRESET),
    Key("eval.split", None, Text("a split, such as validation or train[90%:]"),
        "split to evaluate on",
        open="the preset's, or else the validation or test split", stays_open=True),
    Key("eval.every_epochs", 1, _COUNT, "epochs from one evaluation to the next"),
    Key("eval.batch_size", None, _COUNT, "images per evaluation step, over all devices",
        open="`batch_size`", stays_open=True, resumable=True),
    Key("eval.crop", None, Choice(EVAL_CROPS), "how evaluation crops images", open=_PRESET),
    Key("eval.image_size", None, _COUNT, "height and width in evaluation, in pixels",
        open="the recipe's, or else `image_size`", stays_open=True),
    Key("eval.resize_size", None, _COUNT,
        "length of the shorter side before the center crop, in pixels", open=_PRESET),
    Key("eval.crops", None, Choice((1, 10), int),
        "1, or 10: the corners and the center, mirrored too, softmax averaged",
        open=_RECIPE, otherwise=1),
    Key("max_skipped", 0.001, _FRACTION,
        "fraction of a split's images that may be damaged before the run stops", resumable=True),
    Key("image_size", None, _COUNT,
        "height and width that the network gets in training, in pixels; crops and padding follow "
        "it", open="the recipe's, the preset's, or for photographs the network's own"),
    Key("image_sizes", None, EpochSizes(),
        "progressive resizing: from which epoch on training has which size; padding and "
        "`augment.resize_size` follow it in proportion to `image_size`, by default the last",
        open="`image_size` throughout", stays_open=True),
    Key("channels", None, Choice((1, 3), int), "1 makes colors gray, 3 the reverse",
        open="the dataset's", stays_open=True),
    Key("mean", None, Numbers(Number()), "mean of each channel, of values in 0 to 1",
        open=_PRESET),
    Key("std", None, Numbers(Number(above=0)), "standard deviation of each channel, likewise",
        open=_PRESET),
    Key("subtract_mean_image", None, Boolean(),
        "subtract the mean of the training images, pixel by pixel, instead of `mean` "
        "(AlexNet, ZFNet)", open=_RECIPE, otherwise=False),
    Key("fit", None, Choice(FITS),
        "how images reach `image_size` where no crop does it: resized, or padded with black",
        open=_PRESET),
    Key("interpolation", None, Choice(tuple(INTERPOLATIONS)),
        "of every resize (antialiased), and of `augment.policy`", open=_RECIPE,
        otherwise="bilinear"),
    # --- augmentation
    Key("augment.crop", None, Choice(TRAIN_CROPS), "how training crops images", open=_PRESET),
    Key("augment.resize_size", None, _COUNT,
        "length of the shorter side before `resize_and_crop`, in pixels", open=_PRESET),
    Key("augment.padding", None, Number(int, at_least=0),
        "pixels on each side for `pad_and_crop`", open=_PRESET),
    Key("augment.flip", None, Boolean(), "mirror half of the training images", open=_PRESET),
    Key("augment.policy", None, Choice(("none", *POLICIES)),
        "automatic augmentation on the host", open=_RECIPE, otherwise="none"),
    Key("augment.repeats", None, _COUNT,
        "how often an epoch repeats each of its examples, with other crops: torchvision's "
        "`RASampler`", open=_RECIPE, otherwise=1),
    Key("augment.color_jitter", None, Numbers(_NONNEGATIVE, length=4),
        "brightness, contrast, saturation and hue (at most 0.5), as torchvision's `ColorJitter`",
        open=_RECIPE, otherwise=(0.0, 0.0, 0.0, 0.0)),
    Key("augment.grayscale", None, _FRACTION, "probability, as torchvision's `RandomGrayscale`",
        open=_RECIPE, otherwise=0.0),
    Key("augment.lighting", None, _NONNEGATIVE,
        "standard deviation of AlexNet's noise along the colors' principal components, 0.1 there",
        open=_RECIPE, otherwise=0.0),
    Key("augment.erasing", None, _FRACTION, "probability, as torchvision's `RandomErasing`",
        open=_RECIPE, otherwise=0.0),
    Key("augment.mixup", None, _NONNEGATIVE, "alpha of torchvision's `MixUp`",
        open=_RECIPE, otherwise=0.0),
    Key("augment.cutmix", None, _NONNEGATIVE,
        "alpha of torchvision's `CutMix`; with `augment.mixup`, each batch gets one of the two",
        open=_RECIPE, otherwise=0.0),
    # --- length and batches
    Key("batch_size", None, _COUNT, "images per step, over all devices of all hosts",
        open=_RECIPE),
    Key("accumulate_steps", 1, _COUNT,
        "parts in which each device computes its share of a batch, one after another, to save "
        "memory; batch norms take each part's statistics", resumable=True),
    Key("num_epochs", None, _COUNT, "epochs to train", open=_RECIPE),
    # --- learning rate
    Key("learning_rate", None, _NONNEGATIVE, "highest learning rate", open=_RECIPE),
    Key("base_batch_size", None, _COUNT,
        "batch size that the learning rates are for: they are scaled by `batch_size` divided by "
        "it", open="`batch_size`", stays_open=True),
    Key("schedule", None, Choice(SCHEDULES), "how the learning rate falls after the warm-up",
        open=_RECIPE),
    Key("schedule_by", None, Choice(SCHEDULE_UNITS),
        "whether the learning rate changes at every epoch or at every step", open=_RECIPE),
    Key("warmup_epochs", None, _NONNEGATIVE, "epochs of warm-up", open=_RECIPE),
    Key("warmup_method", None, Choice(WARMUPS),
        "whether the learning rate rises to the highest or is lower in the warm-up",
        open=_RECIPE, otherwise="linear"),
    Key("warmup_decay", None, _FRACTION,
        "what the learning rate is multiplied by where the warm-up starts",
        open=_RECIPE, otherwise=0.01),
    Key("decay_epochs", None, Number(above=0), "`step`: epochs from one decay to the next",
        open=_RECIPE),
    Key("decay_factor", None, Number(above=0, at_most=1),
        "`step`, `multistep`, `plateau`: what the learning rate is multiplied by; `exponential`: "
        "per epoch", open=_RECIPE),
    Key("milestones", None, Numbers(Number(above=0)),
        "`multistep`: the epochs of decays, counted from the end of the warm-up",
        open=_RECIPE, stays_open=True),
    Key("power", None, Number(above=0), "of `polynomial`", open=_RECIPE, otherwise=1.0),
    Key("min_learning_rate", None, _NONNEGATIVE,
        "`cosine`, `plateau`: the lowest learning rate", open=_RECIPE, otherwise=0.0),
    Key("plateau.metric", None, Choice(("loss", "top1")), "`plateau`: what is to improve",
        open=_RECIPE, otherwise="loss"),
    Key("plateau.patience", None, Number(int, at_least=0),
        "`plateau`: evaluations without improvement that are tolerated",
        open=_RECIPE, otherwise=10),
    Key("plateau.threshold", None, _NONNEGATIVE,
        "`plateau`: the smallest improvement, as a fraction of the best value",
        open=_RECIPE, otherwise=1e-4),
    # --- optimizer
    Key("optimizer", None, Choice(tuple(OPTIMIZERS)), "how gradients become updates",
        open=_RECIPE, otherwise="sgd"),
    Key("optimizer_args.alpha", None, Number(at_least=0, below=1),
        "`rmsprop`: decay of the mean square", open=_OPTIMIZER, stays_open=True),
    Key("optimizer_args.beta1", None, Number(at_least=0, below=1),
        "`adamw`, `lamb`: decay of the mean", open=_OPTIMIZER, stays_open=True),
    Key("optimizer_args.beta2", None, Number(at_least=0, below=1),
        "`adamw`, `lamb`: decay of the mean square", open=_OPTIMIZER, stays_open=True),
    Key("optimizer_args.eps", None, Number(above=0),
        "`rmsprop`, `adamw`, `lamb`: added to the root of the mean square",
        open=_OPTIMIZER, stays_open=True),
    Key("optimizer_args.trust_coefficient", None, Number(above=0), "of `lars`",
        open=_OPTIMIZER, stays_open=True),
    Key("momentum", None, Number(at_least=0, below=1),
        "of `sgd`, `rmsprop` and `lars`, as in `torch.optim`", open=_RECIPE),
    Key("nesterov", None, Boolean(), "of `sgd` and `lars`, as `torch.optim.SGD`", open=_RECIPE),
    Key("weight_decay", None, _NONNEGATIVE, "as in `torch.optim`", open=_RECIPE),
    Key("norm_weight_decay", None, _NONNEGATIVE, "of the parameters of norms",
        open="the recipe's, or else `weight_decay`", stays_open=True),
    Key("bias_weight_decay", None, _NONNEGATIVE, "of all biases, those of norms included",
        open="the recipe's, or else that of the layer's other parameters", stays_open=True),
    Key("clip_grad_norm", None, _NONNEGATIVE,
        "largest global norm of the gradients, as `torch.nn.utils.clip_grad_norm_`; 0: any",
        open="the recipe's, or else no clipping", stays_open=True),
    Key("clip_grad_adaptive", None, _NONNEGATIVE,
        "largest norm of each unit's gradient, as a fraction of that of its parameters (NFNets); "
        "0: any",
        open="no clipping", stays_open=True),
    Key("renormalize_filters", None, _NONNEGATIVE,
        "largest root mean square of a convolution filter, 0.1 in ZFNet's paper for inputs of "
        "about -128 to 128 (with inputs of unit variance it hardly acts); 0: any",
        open="the recipe's, or else none", stays_open=True),
    Key("ema.decay", None, Number(at_least=0, below=1),
        "of the average of the variables, which is evaluated beside them; adjusted by batch size "
        "and epochs as torchvision's `--model-ema-decay`; 0: no average",
        open="the recipe's, or else no average", stays_open=True),
    Key("ema.steps", None, _COUNT, "steps from one update of the average to the next",
        open=_RECIPE, otherwise=32),
    # --- loss
    Key("label_smoothing", None, Number(at_least=0, below=1), "as `torch.nn.CrossEntropyLoss`",
        open=_RECIPE),
    Key("teacher", None, Text("the name of an architecture (see `jaxcnn models`)"),
        "network whose logits are a second target", open="none", stays_open=True),
    Key("teacher_weights", None, Text("a file, published weights or hf-hub:OWNER/NAME"),
        "weights of `teacher`, for this dataset's classes", open="none", stays_open=True),
    Key("teacher_temperature", 4.0, Number(above=0), "what both logits are divided by"),
    Key("teacher_weight", 0.5, _FRACTION, "fraction of the loss that is the teacher's"),
    # --- how it is computed and reported
    Key("dtype", "float32", Choice(("float32", "bfloat16")),
        "of the computation; parameters and statistics stay float32"),
    Key("sync_batch_norm", None, Boolean(),
        "batch statistics over all replicas rather than per replica",
        open=_RECIPE, otherwise=False),
    Key("seed", 0, Number(int, at_least=0, below=2**63),
        "of weights, shuffles, crops and dropout"),
    Key("log_every_steps", None, _COUNT, "steps from one line of metrics to the next",
        open=_RECIPE, resumable=True),
    Key("log_norms", False, Boolean(),
        "whether metrics have the norms of gradients, parameters and updates", resumable=True),
    Key("on_nonfinite", "stop", Choice(("stop", "skip")),
        "what happens where a loss is NaN or infinite: the run stops, or updates that would make "
        "the state so are skipped", resumable=True),
    Key("max_nonfinite", 10, _COUNT, "`skip`: steps in a row that are skipped before the run stops",
        resumable=True),
    Key("check_replicas_every", 100, Number(int, at_least=0),
        "steps after which all devices must have the same state, bit for bit, as before each "
        "checkpoint; 0: not checked", resumable=True),
    Key("checkpoint.every_epochs", 1, _COUNT, "epochs from one checkpoint to the next",
        resumable=True),
    Key("checkpoint.every_steps", None, _COUNT,
        "steps from one checkpoint to the next, beside those of epochs",
        open="never", stays_open=True, resumable=True),
    Key("checkpoint.every_minutes", None, Number(above=0),
        "minutes since the last checkpoint after which the next line of metrics comes with one",
        open="never", stays_open=True, resumable=True),
    Key("checkpoint.keep", 3, _COUNT, "how many of the last checkpoints are kept",
        resumable=True),
    Key("checkpoint.best_by", None, Choice(BEST_BY),
        "figure of the evaluation by which the best checkpoint is kept, too (`ema_`: of the "
        "average); its weights are `best.safetensors` in the end",
        open="none", stays_open=True, resumable=True),
)
# fmt: on
BY_NAME = {key.name: key for key in KEYS}
RESUMABLE = frozenset(key.name for key in KEYS if key.resumable)


def check_value(key: Key, value: Any) -> None:
    """Check that a key may have a value.

    Raises:
        UserError: otherwise.
    """
    if value not in key.allowed:
        raise UserError(f"config.{key.name}={value!r} is not valid; it must be {key.allowed}.")
