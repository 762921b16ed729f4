"""A training step here and in PyTorch, on the same device, in one run: images per second.

    python benchmarks/train_step.py [--networks=NAME:PIXELS:BATCH,...] [--dtype=bfloat16]
        [--flax] [--compile] [--rounds=5] [--out=benchmarks/train_step.json]

A step is the forward pass in training mode, the cross-entropy (of auxiliary heads too), gradients,
and SGD with momentum and weight decay, on a batch that is on the device. Sides take turns, each in
a process of its own (benchmarks/alternate.py); "ratio" is jaxcnn's images per second over
PyTorch's; "of peak" is jaxcnn's arithmetic over that of a large product of matrices; spread,
seconds of compilation (of the first step, in PyTorch) and peak memory are of each side, in the
order of the columns. PyTorch is at its best: channels_last or not, whichever is faster;
OMP_WAIT_POLICY=passive on a CPU; bfloat16 by autocast; ``torch.compile`` with ``--compile``;
cudnn.benchmark. ``--flax`` times the same network with Flax's own Conv and BatchNorm and XLA's
default flags, which is what this project's layers are worth. ``--pmap`` takes the step that
train.py takes.
"""

import argparse

import alternate


def prepare(name: str, size: int, batch: int, arguments: argparse.Namespace):
    from jaxcnn import models
    from jaxcnn.training.speed import training_step

    model = models.create_model(name, dtype=arguments.dtype)
    program = training_step(model, image_size=size, batch_size=batch, pmap=arguments.pmap)
    return program.run, alternate.facts_of(program)


def prepare_torch(name: str, size: int, batch: int, arguments: argparse.Namespace):
    import torch

    module, device = alternate.torch_module(name)
    optimizer = torch.optim.SGD(module.parameters(), 1e-3, momentum=0.9, weight_decay=1e-4)
    weights = {"googlenet": 0.3, "inception_v3": 0.4}
    labels = torch.arange(batch, device=device)
    loss_of = torch.nn.CrossEntropyLoss()

    def losses(images: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            outputs = module(images)
            logits, *auxiliary = outputs if isinstance(outputs, tuple) else (outputs,)
            loss = loss_of(logits, labels)
            for head in auxiliary:
                if head is not None:
                    loss = loss + weights[name] * loss_of(head, labels)
        return loss

    forward = torch.compile(losses) if arguments.compile else losses

    def step(images: torch.Tensor) -> None:
        optimizer.zero_grad()
        forward(images).backward()
        optimizer.step()

    return alternate.in_best_layout(module, step, (batch, 3, size, size), device)


def add_pmap(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pmap", action="store_true", help="jaxcnn's pmapped step")


if __name__ == "__main__":
    alternate.main(__file__, __doc__, alternate.sides(prepare, prepare_torch), add_pmap, cost=3)
