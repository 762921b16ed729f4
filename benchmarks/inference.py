"""The forward pass here and in PyTorch, on the same device, in one run: images per second.

    python benchmarks/inference.py [--networks=NAME:PIXELS:BATCH,...] [--dtype=bfloat16] [--fold]
        [--flax] [--compile] [--rounds=5] [--out=benchmarks/inference.json]

Networks are in evaluation mode, with initial weights, on a batch that is on the device. The columns
and the sides are those of benchmarks/train_step.py. With ``--fold`` jaxcnn's batch norms are folded
into the convolutions (``convert.fold_batch_norm``), and PyTorch's likewise, by ``torch.fx``, where
it can trace the network.
"""

import argparse

import alternate


def prepare(name: str, size: int, batch: int, arguments: argparse.Namespace):
    import jax
    import jax.numpy as jnp

    from jaxcnn import convert, models
    from jaxcnn.training.speed import forward_pass

    model = models.create_model(name, dtype=arguments.dtype)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))
    if arguments.fold and arguments.child != "flax":  # its norms have running statistics
        model, variables = convert.fold_batch_norm(model, variables)
    program = forward_pass(model, variables, image_size=size, batch_size=batch)
    return program.run, alternate.facts_of(program)


def prepare_torch(name: str, size: int, batch: int, arguments: argparse.Namespace):
    import torch

    module, device = alternate.torch_module(name)
    module.eval()
    if arguments.fold:
        from torch.fx.experimental.optimization import fuse

        module = fuse(module)
    forward = torch.compile(module) if arguments.compile else module

    def work(images: torch.Tensor) -> None:
        enabled = arguments.dtype == "bfloat16"
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=enabled):
            forward(images)

    return alternate.in_best_layout(module, work, (batch, 3, size, size), device)


def add_fold(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--fold", action="store_true", help="batch norms folded, on both sides")


if __name__ == "__main__":
    alternate.main(__file__, __doc__, alternate.sides(prepare, prepare_torch), add_fold, cost=1)
