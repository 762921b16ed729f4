"""The same Fashion-MNIST recipe here and in PyTorch: test accuracies of several seeds.

    python benchmarks/versus_torch.py --data_dir=DIR [--networks=lenet5,resnet10] [--seeds=3]

Both sides train the same network (PyTorch's own ResNet with one basic block a stage; LeNet-5) with
the recipe of ``open_config(NETWORK, "fashion_mnist")``: crops after padding, flips, SGD with
momentum and a cosine. PyTorch's side is an ordinary script of its own: its own initial weights,
DataLoader, torchvision's transforms, and float32. Runs of both alternate, each in a process of its
own. With equal training the means differ by no more than the seeds do.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

EPOCHS = {"lenet5": 5, "resnet10": 2}


def config_of(network: str, seed: int):
    """The resolved config of a network here."""
    from jaxcnn.models.registry import Builder
    from jaxcnn.models.resnet import BasicBlock, ResNet
    from jaxcnn.training.config import open_config, resolve

    if network == "resnet10":
        Builder(
            "resnet10",
            ResNet,
            "ResNet-10",
            parameters=1,  # not shown anywhere
            multiply_adds=1,
            block=BasicBlock,
            layers=(1, 1, 1, 1),
        )
    return resolve(
        open_config(
            network, "fashion_mnist", num_epochs=EPOCHS[network], seed=seed, learning_rate=0.02
        )
    )


def train_here(network: str, seed: int, data_dir: str | None) -> dict[str, float]:
    """Train with ``train_and_evaluate``."""
    from jaxcnn.platform import set_xla_flags

    set_xla_flags()
    from jaxcnn.training.build import build
    from jaxcnn.training.loop import train_and_evaluate
    from jaxcnn.training.metrics import read_metrics

    with tempfile.TemporaryDirectory() as folder:
        workdir = pathlib.Path(folder)
        train_and_evaluate(build(config_of(network, seed), data_dir), workdir)
        return read_metrics(workdir / "metrics.jsonl")[-1]


def train_in_torch(network: str, seed: int, data_dir: str | None) -> dict[str, float]:
    """Train as an ordinary PyTorch script does."""
    import torch  # before TensorFlow, which brings an LLVM of its own
    import torchvision
    from torchvision import transforms

    from jaxcnn.data.images import decode
    from jaxcnn.data.source import open_source

    class Split(torch.utils.data.Dataset):
        def __init__(self, split: str, transform):
            source = open_source("fashion_mnist", split, data_dir)
            examples = [source.read(number) for number in range(source.num_examples)]
            self.images = [decode(content, 1)[..., 0] for content, _ in examples]
            self.labels, self.transform = [label for _, label in examples], transform

        def __len__(self):
            return len(self.labels)

        def __getitem__(self, index):
            return self.transform(self.images[index]), self.labels[index]

    def make_network():
        if network == "lenet5":
            layer = torch.nn
            return layer.Sequential(
                *(layer.Conv2d(1, 6, 5), layer.ReLU(), layer.MaxPool2d(2)),
                *(layer.Conv2d(6, 16, 5), layer.ReLU(), layer.MaxPool2d(2), layer.Flatten()),
                *(layer.Linear(400, 120), layer.ReLU(), layer.Linear(120, 84), layer.ReLU()),
                layer.Linear(84, 10),
            )
        resnet = torchvision.models.resnet
        module = resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)
        module.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        torch.nn.init.kaiming_normal_(module.conv1.weight, mode="fan_out", nonlinearity="relu")
        return module

    config = config_of(network, seed)
    torch.manual_seed(seed)
    end = [transforms.ToTensor(), transforms.Normalize(config.mean, config.std)]
    start = [transforms.ToPILImage(), transforms.Pad(2)]
    augment = [transforms.RandomCrop(32, config.augment.padding), transforms.RandomHorizontalFlip()]
    train_split = Split("train", transforms.Compose([*start, *augment, *end]))
    test_split = Split("test", transforms.Compose([*start, *end]))
    loader = torch.utils.data.DataLoader(
        train_split, config.batch_size, shuffle=True, drop_last=True
    )
    module = make_network()
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    steps = config.num_epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(config.num_epochs):
        module.train()
        for images, labels in loader:
            loss = torch.nn.functional.cross_entropy(module(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    module.eval()
    correct = loss = 0
    with torch.no_grad():
        for images, labels in torch.utils.data.DataLoader(test_split, 500):
            logits = module(images)
            correct += (logits.argmax(1) == labels).sum().item()
            loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").item()
    return {"top1": correct / len(test_split), "loss": loss / len(test_split)}


SIDES = {"jaxcnn": train_here, "PyTorch": train_in_torch}


def measured(side: str, network: str, seed: int, data_dir: str | None) -> dict[str, float]:
    """One run in a process of its own."""
    run = json.dumps([side, network, seed, data_dir])
    environ = {"OMP_WAIT_POLICY": "passive", **os.environ}  # torch's threads spin otherwise
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, __file__, "--run", run], env=environ, stdout=subprocess.PIPE, check=True
    )
    result = json.loads(process.stdout.splitlines()[-1])
    return result | {"seconds": time.perf_counter() - started}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir")
    parser.add_argument("--networks", default="lenet5,resnet10")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        side, *run = json.loads(arguments.run)
        print(json.dumps(SIDES[side](*run)))
        return
    print("| network | epochs | side | top-1 by seed | mean | test loss | seconds a run |")
    print("|---|---:|---|---|---:|---:|---:|", flush=True)
    for network in arguments.networks.split(","):
        runs = {side: [] for side in SIDES}
        for seed in range(arguments.seeds):
            for side in SIDES:
                runs[side].append(measured(side, network, seed, arguments.data_dir))
        for side, results in runs.items():
            top1 = [result["top1"] for result in results]
            seconds = statistics.median(result["seconds"] for result in results)
            loss = statistics.mean(result["loss"] for result in results)
            print(
                f"| {network} | {EPOCHS[network]} | {side} "
                f"| {', '.join(f'{100 * value:.2f}' for value in top1)} "
                f"| {100 * statistics.mean(top1):.2f} | {loss:.4f} | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
