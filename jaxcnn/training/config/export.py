"""Configs, and the table of keys, in other forms."""

import json
import zlib
from typing import Any

from ml_collections import ConfigDict

from jaxcnn.training.config.keys import KEYS, Key


def as_json(config: ConfigDict) -> dict[str, Any]:
    """A resolved config as ``config.json`` has it: nested dicts of plain values."""
    return json.loads(config.to_json())


def run_name(config: ConfigDict) -> str:
    """A name for a run's folder, such as ``"resnet18-cifar10"``."""
    return f"{config.model}-{config.dataset}".replace("/", "-").replace(":", "-")


def digest(config: ConfigDict) -> int:
    """A number of 31 bits that tells different configs apart."""
    return zlib.crc32(json.dumps(as_json(config), sort_keys=True).encode()) >> 1


def markdown_table() -> str:
    """The keys as a table in Markdown: what each may be, its default and its meaning."""
    lines = ["| key | default | accepted | meaning |", "|---|---|---|---|"]
    for key in KEYS:
        default = _default_in_words(key)
        lines.append(f"| `{key.name}` | {default} | {key.allowed} | {key.meaning} |")
        if key.name == "model":
            lines.append(
                "| `model_args.*` | the architecture's | its arguments | for example "
                "`--config.model_args.width_per_group=128` |"
            )
    return "\n".join(lines) + "\n"


def _default_in_words(key: Key) -> str:
    if key.default is not None:
        return f"`{key.default}`"
    if not key.open:
        return "required"
    return key.open if key.otherwise is None else f"{key.open}, or else `{key.otherwise}`"
