"""What torchvision has in references/classification only, as it is there."""

import torch


def set_weight_decay(module, weight_decay, norm_weight_decay=None, bias_weight_decay=None):
    """Parameter groups as ``set_weight_decay`` of utils.py makes them."""
    groups: dict[str, list] = {"other": [], "norm": [], "bias": []}
    for owner in module.modules():
        is_norm = isinstance(owner, torch.nn.modules.batchnorm._BatchNorm)
        for name, p in owner.named_parameters(recurse=False):
            if name == "bias" and bias_weight_decay is not None:
                groups["bias"].append(p)
            elif norm_weight_decay is not None and is_norm:
                groups["norm"].append(p)
            else:
                groups["other"].append(p)
    decays = {"other": weight_decay, "norm": norm_weight_decay, "bias": bias_weight_decay}
    return [
        {"params": params, "weight_decay": decays[name]}
        for name, params in groups.items()
        if params
    ]


class ExponentialMovingAverage(torch.optim.swa_utils.AveragedModel):
    """Of utils.py."""

    def __init__(self, model, decay):
        def ema_avg(avg_model_param, model_param, num_averaged):
            return decay * avg_model_param + (1 - decay) * model_param

        super().__init__(model, None, ema_avg, use_buffers=True)
