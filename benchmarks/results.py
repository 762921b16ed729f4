"""Results of networks that are trained here for real, for docs/results.md.

    python benchmarks/results.py --data_dir=DIR [--tables=fashion_mnist,digits,steps] [--only=NAME]
    python benchmarks/results.py --markdown

* ``fashion_mnist``: networks on a part of Fashion-MNIST, by ``train.py``.
* ``digits``: the smallest network of each family on digits, to the end of its config.
* ``steps``: every other network takes 20 steps on one batch of digits, and its loss falls; one
  with more than 100 million parameters is only lowered.

Each result is written to benchmarks/results.json as it comes, and what is there is not measured
again (unless named by ``--only``). ``--markdown`` writes the tables into docs/results.md.
"""

import argparse
import json
import os
import pathlib
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results.json"
DOCUMENT = ROOT / "docs" / "results.md"
LARGE = 100_000_000  # parameters

FASHION_MNIST = {
    "lenet5": "",
    "alexnet_original": "--config.model_args.two_columns=False "
    "--config.model_args.local_response_norm=False --config.model_args.initial_bias=0.0 "
    "--config.model_args.weight_init=xavier_uniform",
    "nin": "",
    "vgg": '--config.model_args.blocks="((1,16),(1,32),(2,64),(2,128))" '
    "--config.learning_rate=0.02",
    "googlenet": "",
    "resnet18": "",
    "densenet121": "",
    "mobilenet_v2": "",
    # 1,200 steps: each replaces one percent of its running statistics.
    "mobilenet_v3_small": "--config.batch_size=32",
    "regnet_y_400mf": "",
    "shufflenet_v2_x1_0": "",
    "convnext_tiny": "",
}
# What two cores can do in minutes: a fifth of the images, three times.
PART = '--config.train_split="train[:12800]" --config.num_epochs=3'


def command(name: str, dataset: str, flags: str) -> str:
    return f"python train.py --config configs/{name}.py:{dataset} {flags}".strip()


def run(
    name: str, dataset: str, flags: str, data_dir: str | None
) -> tuple[list[dict[str, Any]], float]:
    """Run ``train.py``; the lines of its metrics, and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        shell = f"{command(name, dataset, flags)} --workdir {folder}"
        if data_dir is not None:
            shell += f" --data_dir {data_dir}"
        shell = shell.replace("python train.py", f"{sys.executable} train.py", 1)
        started = time.perf_counter()
        subprocess.run(shell, shell=True, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - started
        lines = (pathlib.Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], seconds


def trained(name: str, dataset: str, flags: str, data_dir: str | None) -> dict[str, Any]:
    """The last evaluation of a run."""
    lines, seconds = run(name, dataset, flags, data_dir)
    last = lines[-1]
    return {"top1": last["top1"], "loss": last["loss"], "epochs": last["epoch"], "seconds": seconds}


def twenty_steps(name: str, data_dir: str | None) -> dict[str, Any]:
    """The mean losses of the first and the last five of 20 steps on one batch of digits.

    It is not augmented, and the learning rate rises for five steps to the config's, or to 0.01: in
    so few steps, what can be seen of other batches is how they differ.
    """
    from jaxcnn.training.config import open_config, resolve

    config = resolve(open_config(name, "digits"))
    flags = (
        f'--config.train_split="train[:{config.batch_size}]" --config.eval.split="test[:64]" '
        "--config.augment.crop=none --config.num_epochs=20 --config.warmup_epochs=5 "
        "--config.eval.every_epochs=20 --config.checkpoint.every_epochs=20 "
        f"--config.log_every_steps=1 --config.learning_rate={min(config.learning_rate, 0.01)}"
    )
    lines, _ = run(name, "digits", flags, data_dir)
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert len(losses) == 20
    return {"first": statistics.mean(losses[:5]), "last": statistics.mean(losses[-5:])}


def lowered(name: str) -> dict[str, Any]:
    """Lower the training step of a network, in a process of its own: nothing is computed."""
    code = f"""
import jax, jax.numpy as jnp
from jaxcnn import models
from jaxcnn.training.config import open_config, resolve
from jaxcnn.training.optimizer import sgd
from jaxcnn.training.step import init_state, make_train_step
config = resolve(open_config({name!r}, "digits"))
model = models.create_model({name!r}, num_classes=10, **dict(config.model_args))
optimizer = sgd(0.1, momentum=0.9)
shape = (1, config.image_size, config.image_size, 1)
state = jax.eval_shape(lambda: init_state(model, optimizer, shape))
batch = {{
    "image": jax.ShapeDtypeStruct((64, *shape[1:]), jnp.float32),
    "label": jax.ShapeDtypeStruct((64,), jnp.int32),
}}
step = jax.jit(make_train_step(model, optimizer), static_argnames="axis_name")
step.lower(state, batch, axis_name=None)
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    return {"lowered": True}


def smallest_of_families() -> list[str]:
    from jaxcnn import models

    by_family: dict[str, list[str]] = {}
    for name in models.list_models():
        by_family.setdefault(models.model_info(name).family, []).append(name)
    return [
        min(names, key=lambda name: models.model_info(name).parameters)
        for names in by_family.values()
    ]


def jobs(data_dir: str | None) -> dict[str, dict[str, Any]]:
    """By table and network: what measures it."""
    from jaxcnn import models

    smallest = smallest_of_families()
    others = [name for name in models.list_models() if name not in smallest]

    def step_job(name: str):
        if models.model_info(name).parameters > LARGE:
            return lambda: lowered(name)
        return lambda: twenty_steps(name, data_dir)

    return {
        "fashion_mnist": {
            name: lambda name=name, flags=flags: trained(
                name, "fashion_mnist", f"{PART} {flags}", data_dir
            )
            for name, flags in FASHION_MNIST.items()
        },
        "digits": {
            name: lambda name=name: trained(name, "digits", "", data_dir) for name in smallest
        },
        "steps": {name: step_job(name) for name in others},
    }


def measure(arguments: argparse.Namespace) -> None:
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for table in arguments.tables.split(","):
        rows = results.setdefault(table, {})
        for name, job in jobs(arguments.data_dir)[table].items():
            if name in rows if arguments.only is None else name != arguments.only:
                continue
            rows[name] = {**job(), "machine": machine()}
            print(table, name, rows[name], flush=True)
            RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def machine() -> str:
    import jax

    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return (
        f"{os.cpu_count()} shared cores of {model[1] if model else platform.processor()}, "
        f"JAX {jax.__version__}, Python {platform.python_version()}"
    )


def markdown() -> dict[str, str]:
    """The tables of docs/results.md."""
    results = json.loads(RESULTS.read_text())
    machines = {row["machine"] for rows in results.values() for row in rows.values()}
    tables = {"machine": f"Measured on {'; or '.join(sorted(machines))}.\n"}
    heading = "| network | top-1 | epochs | seconds | command |\n|---|---:|---:|---:|---|\n"
    for table, part, own in (("fashion_mnist", PART, FASHION_MNIST), ("digits", "", {})):
        tables[table] = heading
        for name, row in results.get(table, {}).items():
            flags = f"{part} {own.get(name, '')}".strip()
            tables[table] += (
                f"| `{name}` | {100 * row['top1']:.2f}% | {row['epochs']:g} "
                f"| {row['seconds']:.0f} | `{command(name, table, flags)}` |\n"
            )
    tables["steps"] = "| network | loss of steps 1 to 5 | of steps 16 to 20 |\n|---|---:|---:|\n"
    tables["steps"] += "".join(
        f"| `{name}` | lowered only | |\n"
        if "lowered" in row
        else f"| `{name}` | {row['first']:.3f} | {row['last']:.3f} |\n"
        for name, row in results.get("steps", {}).items()
    )
    return tables


def write_document() -> None:
    text = DOCUMENT.read_text()
    for table, content in markdown().items():
        marker = rf"(<!-- {table} -->\n).*?(<!-- end -->)"
        text = re.sub(marker, lambda m, c=content: m[1] + c + m[2], text, flags=re.DOTALL)
    DOCUMENT.write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data_dir")
    parser.add_argument("--tables", default="fashion_mnist,digits,steps")
    parser.add_argument("--only", help="measure this network again, and no other")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    if arguments.markdown:
        write_document()
    else:
        measure(arguments)


if __name__ == "__main__":
    main()
