"""The results that ``jaxcnn check`` expects, computed by PyTorch in float64.

``python tests/known_answers.py`` writes them to ``jaxcnn/cli/check/known_answers.json``.
"""

import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from jaxcnn.cli.check import known_answers as ours
from jaxcnn.convert import to_torch

FILE = pathlib.Path(ours.__file__).with_name("known_answers.json")
Results = dict[str, torch.Tensor]


def results_of_torch() -> dict[str, dict[str, list[float]]]:
    """What the file holds."""
    inputs = {check.name: check.inputs for check in ours.checks()}
    return {
        name: {key: ours.digest(value.detach().numpy()).tolist() for key, value in results.items()}
        for name, results in _results(inputs)
    }


def _results(inputs: Mapping[str, Any]) -> Iterator[tuple[str, Results]]:
    name = "products and sums, 32,769 rows"
    yield name, _squares(torch.from_numpy(inputs[name]))

    name = "products and sums, 100,000 rows"
    rows, matrix = (torch.from_numpy(inputs[name][key]) for key in ("rows", "matrix"))
    yield name, _squares(rows @ matrix.T)

    name = "reductions, 50,000 rows"
    x = torch.from_numpy(inputs[name])
    yield (
        name,
        {
            "sum": x.sum(0),
            "largest": x.amax(0),
            "variance": x.var(0, correction=0),
            "log-sum-exp": x.logsumexp(0),
            "sum of squares": (x * x).sum(),
            "products": x.T @ x,
        },
    )

    name = "linear, 40,000 rows"
    yield name, _layer(nn.Linear(ours.CHANNELS, 12), inputs[name])
    for kind, arguments in ours.CONVOLUTIONS.items():
        name = f"convolution, {kind}"
        yield name, _layer(nn.Conv2d(ours.CHANNELS, ours.CHANNELS, **arguments), inputs[name])
    yield "batch norm", _layer(nn.BatchNorm2d(ours.CHANNELS), inputs["batch norm"])
    yield "training step", _training_step(inputs["training step"])


def _squares(rows: torch.Tensor) -> Results:
    squares = (rows**2).sum(1)
    return {"squares": squares, "last square": squares[-1]}


def _layer(layer: nn.Module, inputs: Mapping[str, Any]) -> Results:
    flax_names = {"weight": "scale" if isinstance(layer, nn.BatchNorm2d) else "kernel"}
    layer = _loaded(layer, inputs["variables"])
    x = _to_torch_axes(inputs["x"]).requires_grad_()
    y = layer(x)
    y.backward(_to_torch_axes(inputs["gradient"]))
    results = {"output": _to_flax_axes(y), "gradient of the input": _to_flax_axes(x.grad)}
    for name, parameter in layer.named_parameters():
        gradient = _to_flax_kernel(parameter.grad)
        results[f"gradient of {flax_names.get(name, name)}"] = gradient
    if isinstance(layer, nn.BatchNorm2d):
        results |= {"mean": layer.running_mean, "var": layer.running_var}
    return results


class _SmallNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = ours.CHANNELS
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1, groups=4, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, 2, 1)
        x = self.bn2(self.conv2(x)).relu()
        return self.fc(x.mean((2, 3)))


def _training_step(inputs: Mapping[str, Any]) -> Results:
    network = _loaded(_SmallNetwork(), inputs["variables"])
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=ours.LEARNING_RATE,
        momentum=ours.MOMENTUM,
        weight_decay=ours.WEIGHT_DECAY,
    )
    images = _to_torch_axes((inputs["batch"]["image"] - np.array(ours.MEAN)) / np.array(ours.STD))
    labels = torch.from_numpy(inputs["batch"]["label"]).long()
    loss = nn.functional.cross_entropy(network(images), labels)
    loss.backward()
    optimizer.step()
    results = {"loss": loss}
    for name, value in network.state_dict().items():
        layer, _, leaf = name.partition(".")
        if leaf.startswith("running_"):
            results[f"batch_stats.{layer}.{leaf.removeprefix('running_')}"] = value
        elif leaf in ("weight", "bias"):
            leaf = {"weight": "scale" if layer.startswith("bn") else "kernel"}.get(leaf, leaf)
            results[f"params.{layer}.{leaf}"] = _to_flax_kernel(value)
    return results


def _loaded(module: nn.Module, variables: Mapping[str, Any]) -> nn.Module:
    state = {name: torch.from_numpy(value) for name, value in to_torch(variables).items()}
    module.double().load_state_dict(state)
    return module.train()


def _to_torch_axes(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.permute(0, 3, 1, 2).contiguous() if tensor.ndim == 4 else tensor.clone()


def _to_flax_axes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def _to_flax_kernel(tensor: torch.Tensor) -> torch.Tensor:
    return {4: lambda: tensor.permute(2, 3, 1, 0), 2: tensor.t}.get(tensor.ndim, lambda: tensor)()


def _as_json(results: dict[str, dict[str, list[float]]]) -> str:
    """One line per result, which is easy to compare."""
    checks = []
    for name, values in results.items():
        lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
        checks.append(f" {json.dumps(name)}: {{\n" + ",\n".join(lines) + "\n }")
    return "{\n" + ",\n".join(checks) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(_as_json(results_of_torch()))
