"""The recipes as a table in Markdown: ``python -m jaxcnn.training.recipe_table``.

``docs/recipes.md`` has its output; a test compares them.
"""

from jaxcnn import models
from jaxcnn.training.recipes import OTHERS, Recipe, recipe_for

_OPTIMIZERS = {"sgd": "SGD", "rmsprop": "RMSprop", "adamw": "AdamW"}


def markdown_table() -> str:
    """One row for each config file."""
    lines = [
        "| config | recipe | published in | batch | devices x images | epochs | optimizer | rate "
        "| schedule | top-1 | weights |",
        "|---|---|---|---:|---:|---:|---|---:|---|---:|---|",
    ]
    rows = {name: (name, recipe_for(name)) for name in models.list_models()} | OTHERS
    lines += [_row(config, model, recipe) for config, (model, recipe) in sorted(rows.items())]
    return "\n".join(lines) + "\n"


def _row(config: str, model: str, recipe: Recipe) -> str:
    settings, devices = recipe.settings, recipe.devices
    split = "" if devices is None else f"{devices} x {settings['batch_size'] // devices}"
    top1 = recipe.top1(model)
    origin = "ported" if recipe.ported else "trained"
    weights = "" if recipe.weights is None else f"`{recipe.weights}`, {origin}"
    cells = (
        f"`{config}`",
        f"`{recipe.name}`",
        recipe.source,
        f"{settings['batch_size']:,}",
        split,
        f"{settings['num_epochs']}",
        _OPTIMIZERS[settings["optimizer"]],
        f"{settings['learning_rate']:g}",
        _schedule(recipe),
        "" if top1 is None else f"{percent(top1)}%",
        weights,
    )
    return f"| {' | '.join(cells)} |"


def percent(fraction: float) -> str:
    """A fraction in percent, with the digits that torchvision publishes: ``"76.13"``."""
    return f"{100 * fraction:.5g}"


def _schedule(recipe: Recipe) -> str:
    settings = recipe.settings
    factor, epochs = settings["decay_factor"], settings["decay_epochs"]
    words = {
        "step": f"times {factor:g} every {epochs:g} epochs".replace("every 1 epochs", "each epoch"),
        "cosine": "cosine",
        "polynomial": "linear to 0",
        "plateau": f"times {factor:g} on a plateau",
    }[settings["schedule"]]
    warmup = settings["warmup_epochs"]
    return f"{words}, after {warmup:g} epochs of warm-up" if warmup else words


if __name__ == "__main__":
    print(markdown_table(), end="")
