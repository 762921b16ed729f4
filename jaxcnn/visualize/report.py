"""The report on runs: one HTML page with all its pictures inside, which needs no network."""

import base64
import dataclasses
import html
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxcnn.data.grid import filter_grid
from jaxcnn.visualize import runs as pictures
from jaxcnn.visualize.images import figure_png, png

_DPI = 150  # of figures, which are shown at 100: sharp on screens of small pixels
_WORST = 10  # pairs of classes per run

_STYLE = """
:root { color-scheme: light dark; --line: #d5d9de; --soft: #f3f5f7; --accent: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --line: #3b4148; --soft: #22262b; --accent: #6cb8e6; }
}
body { font: 16px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 0 auto;
  padding: 1rem clamp(0.75rem, 3vw, 2.5rem) 3rem; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0 0.3rem; }
h2 { font-size: 1.3rem; margin: 2.4rem 0 0.8rem; padding-bottom: 0.3rem;
  border-bottom: 2px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 0.6rem; }
a { color: var(--accent); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.9rem 0.35rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
thead th { font-size: 0.85rem; opacity: 0.75; vertical-align: bottom; }
.state, .number { white-space: nowrap; }
.number { text-align: right; }
.best { font-weight: 700; color: var(--accent); }
code { font: 0.9em ui-monospace, monospace; }
figure { margin: 0.8rem 0 1.6rem; }
img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
.filters img { image-rendering: pixelated; border-radius: 2px; }
.broad { overflow-x: auto; }
.broad img { min-width: 46rem; }
figcaption, .note { font-size: 0.9rem; opacity: 0.8; }
.columns { display: flex; flex-wrap: wrap; gap: 0 2.5rem; align-items: flex-start; }
.columns > * { min-width: 0; max-width: 100%; }
.columns > figure { flex: 0 1 40rem; }
details { background: var(--soft); border-radius: 6px; padding: 0.6rem 1rem; margin: 1rem 0; }
summary { cursor: pointer; font-weight: 600; }
"""


@dataclasses.dataclass(frozen=True)
class Evaluated:
    """What the network of a run said about each example.

    Attributes:
        step: the steps that had been trained.
        labels: of all examples, ``[N]``.
        predictions: likewise.
        confidences: likewise, the probabilities of the predictions.
        mistakes: which of the examples are the worst mistakes, ``[M]``.
        images: of the mistakes, ``[M, H, W, C]`` uint8.
    """

    step: int
    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    mistakes: np.ndarray
    images: np.ndarray


@dataclasses.dataclass(frozen=True)
class Run:
    """What a report tells of a run; of an unfinished one, what there is.

    Attributes:
        name: what it is called; different for each run.
        settings: its config, with dotted keys.
        classes: their names, by label.
        lines: of its ``metrics.jsonl``.
        finished: whether it has been trained to its end.
        kernel: of its first convolution, ``[kh, kw, C, n]``; None: there are no weights.
        evaluated: its last evaluation; None: there is none.
    """

    name: str
    settings: Mapping[str, Any]
    classes: Sequence[str]
    lines: Sequence[Mapping[str, Any]]
    finished: bool
    kernel: np.ndarray | None = None
    evaluated: Evaluated | None = None

    @property
    def title(self) -> str:
        """What was trained on what."""
        return f"{self.settings.get('model')} on {self.settings.get('dataset')}"

    def last(self, split: str) -> Mapping[str, Any]:
        """The last line of a split; empty if there is none."""
        return next((line for line in reversed(self.lines) if line["split"] == split), {})


def confusion_png(run: Run, dpi: int) -> bytes:
    """The confusion matrix of an evaluated run, which must not have too many classes."""
    evaluated = run.evaluated
    figure = pictures.confusion(
        evaluated.labels, evaluated.predictions, run.classes, f"Confusion matrix: {run.title}"
    )
    return figure_png(figure, dpi)


def worst_confusions(run: Run, count: int) -> list[pictures.Confusion]:
    """The classes that an evaluated run confused most often."""
    evaluated = run.evaluated
    return pictures.worst_confusions(evaluated.labels, evaluated.predictions, run.classes, count)


def mistakes_png(run: Run, dpi: int) -> bytes:
    """The worst mistakes of an evaluated run, which must have made one."""
    evaluated, rows = run.evaluated, run.evaluated.mistakes
    figure = pictures.mistakes(
        evaluated.images,
        evaluated.labels[rows],
        evaluated.predictions[rows],
        evaluated.confidences[rows],
        run.classes,
        f"Worst mistakes: {run.title} (true class, then prediction)",
    )
    return figure_png(figure, dpi)


def report_html(
    runs: Sequence[Run],
    *,
    title: str,
    progress: Callable[[Sequence[Run]], Iterable[Run]] = iter,
) -> str:
    """Compare runs in an HTML page.

    Args:
        runs: at least one.
        title: of the page.
        progress: iterates over the runs while their pictures are drawn, such as ``tqdm``.

    Returns:
        The page: it refers to no other file.
    """
    parts = [f"<h1>{_escape(title)}</h1>", _final_figures(runs)]
    if len(runs) > 1:
        parts.append(_differences(runs))
    parts.append(_curves(runs))
    parts += [_section(number, run) for number, run in enumerate(progress(runs))]
    parts.append(_settings(runs))
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{_escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def _escape(value: Any) -> str:
    return html.escape(str(value))


def _final_figures(runs: Sequence[Run]) -> str:
    """A table of what each run has come to; the best figures stand out."""
    columns: list[tuple[str, list[str], int | None]] = [
        ("model", [_setting(run, "model") for run in runs], None),
        ("dataset", [_setting(run, "dataset") for run in runs], None),
        ("state", [_state(run) for run in runs], None),
    ]
    figures = (
        ("evaluation loss", "eval", "loss", min, "{:.4f}"),
        ("top-1", "eval", "top1", max, "{:.2%}"),
        ("top-5", "eval", "top5", max, "{:.2%}"),
        ("top-1 of the average", "eval_ema", "top1", max, "{:.2%}"),
        ("examples", "eval", "examples", None, "{:,}"),
        ("training loss", "train", "loss", None, "{:.4f}"),
        ("images per second", "train", "images_per_second", None, "{:,.0f}"),
    )
    comparable = len({(_setting(run, "dataset"), _setting(run, "eval.split")) for run in runs}) == 1
    for heading, split, key, better, form in figures:
        values = [run.last(split).get(key) for run in runs]
        present = [value for value in values if value is not None]
        if not present:
            continue
        best = better(present) if better and comparable and len(set(present)) > 1 else None
        cells = ["" if value is None else form.format(value) for value in values]
        columns.append((heading, cells, None if best is None else values.index(best)))
    head = "".join(
        f"<th{' class=number' if position > 2 else ''} scope=col>{_escape(heading)}</th>"
        for position, (heading, _, _) in enumerate(columns)
    )
    rows = []
    for number, run in enumerate(runs):
        cells = []
        for position, (_, values, best) in enumerate(columns):
            kind = "number best" if number == best else "number"
            kind = kind if position > 2 else ("state" if position == 2 else "")
            attribute = f' class="{kind}"' if kind else ""
            cells.append(f"<td{attribute}>{_escape(values[number])}</td>")
        name = f'<a href="#run{number}">{_escape(run.name)}</a>'
        rows.append(f"<tr><th scope=row>{name}</th>{''.join(cells)}</tr>")
    return _table("Final figures", f"<th scope=col>run</th>{head}", rows)


def _table(heading: str, head: str, rows: Iterable[str]) -> str:
    return (
        f"<h2>{heading}</h2>\n<div class=wide><table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>{''.join(rows)}</tbody>\n</table></div>"
    )


def _setting(run: Run, key: str) -> str:
    return str(run.settings.get(key, ""))


def _state(run: Run) -> str:
    last = run.lines[-1] if run.lines else {}
    epochs = f"{last.get('epoch', 0):.4g} of {_setting(run, 'num_epochs')} epochs"
    return f"{epochs}, {last.get('step', 0):,} steps{'' if run.finished else ' (unfinished)'}"


def _differences(runs: Sequence[Run]) -> str:
    keys = [key for key in _keys(runs) if len({_value(run, key) for run in runs}) > 1]
    if not keys:
        return "<h2>Settings that differ</h2>\n<p>None: all runs have the same config.</p>"
    return _table("Settings that differ", _run_heads(runs), _setting_rows(runs, keys))


def _settings(runs: Sequence[Run]) -> str:
    table = _table("", _run_heads(runs), _setting_rows(runs, _keys(runs)))
    table = table.removeprefix("<h2></h2>\n")
    return f"<h2>Settings</h2>\n<details><summary>All settings</summary>\n{table}</details>"


def _run_heads(runs: Sequence[Run]) -> str:
    names = "".join(f"<th scope=col>{_escape(run.name)}</th>" for run in runs)
    return f"<th scope=col>key</th>{names}"


def _setting_rows(runs: Sequence[Run], keys: Iterable[str]) -> list[str]:
    return [
        f"<tr><th scope=row><code>{_escape(key)}</code></th>"
        + "".join(f"<td><code>{_escape(_value(run, key))}</code></td>" for run in runs)
        + "</tr>"
        for key in keys
    ]


def _keys(runs: Sequence[Run]) -> list[str]:
    """All keys, in the order of the first run that has them."""
    return list(dict.fromkeys(key for run in runs for key in run.settings))


def _value(run: Run, key: str) -> str:
    """A setting as JSON; empty if the run has no such key."""
    return json.dumps(run.settings[key], ensure_ascii=False) if key in run.settings else ""


def _curves(runs: Sequence[Run]) -> str:
    lines = {run.name: run.lines for run in runs if run.lines}
    if not lines:
        return "<h2>Curves</h2>\n<p>No metrics have been written yet.</p>"
    names = ", ".join(lines)
    image = _figure(
        figure_png(pictures.curves(lines), _DPI),
        alt=f"Loss, top-1 accuracy and learning rate by epoch of {names}",
        kind="broad",
    )
    return f"<h2>Curves</h2>\n{image}"


def _section(number: int, run: Run) -> str:
    """What belongs to one run only."""
    parts = [f'<section id="run{number}">\n<h2>{_escape(run.name)}</h2>']
    if run.evaluated is None:
        parts.append(
            "<p class=note>No confusions and mistakes: the run has not ended, or was "
            "trained by an earlier version.</p>"
        )
    else:
        parts.append(_confusion(run))
        parts.append("<h3>Worst mistakes</h3>")
        if len(run.evaluated.mistakes):
            parts.append(
                _figure(
                    mistakes_png(run, _DPI),
                    alt=f"Wrongly classified images of {run.name}",
                    kind="broad",
                    caption="The wrong predictions of the highest losses: the true class, and "
                    "below it the predicted one with its probability.",
                )
            )
        else:
            parts.append("<p>None: every example was classified correctly.</p>")
    if run.kernel is not None:
        grid = png(filter_grid(run.kernel, columns=16))
        caption = (
            f"{run.kernel.shape[-1]} filters of {run.kernel.shape[0]}×{run.kernel.shape[1]} "
            f"weights, each on a scale of its own; mid-gray is zero."
        )
        alt = f"Filters of the first convolution of {run.name}"
        parts.append("<h3>First-layer filters</h3>")
        parts.append(_figure(grid, alt=alt, caption=caption, kind="filters", scale=1))
    parts.append("</section>")
    return "\n".join(parts)


def _confusion(run: Run) -> str:
    evaluated = run.evaluated
    right = np.mean(evaluated.labels == evaluated.predictions)
    intro = (
        f"<p class=note>Of the {len(evaluated.labels):,} evaluation examples, after step "
        f"{evaluated.step:,}, {right:.2%} were classified correctly.</p>"
    )
    rows = [
        f"<tr><td class=number>{pair.count}</td><td class=number>{pair.fraction:.1%}</td>"
        f"<td>{_escape(pair.label)}</td><td>{_escape(pair.prediction)}</td></tr>"
        for pair in worst_confusions(run, _WORST)
    ]
    heads = (
        "<th class=number scope=col>examples</th><th class=number scope=col>of the class</th>"
        "<th scope=col>true class</th><th scope=col>predicted class</th>"
    )
    table = _table("Most frequent", heads, rows).replace("h2>", "h3>") if rows else ""
    image = ""
    if len(run.classes) <= pictures.MAX_CONFUSION_CLASSES:
        alt = f"Confusion matrix of {run.name}"
        image = _figure(confusion_png(run, _DPI), alt=alt)
    return f"<h3>Confusions</h3>\n{intro}\n<div class=columns>{image}<div>{table}</div></div>"


def _figure(
    content: bytes, *, alt: str, caption: str = "", kind: str = "", scale: float = 100 / _DPI
) -> str:
    """A picture within the page, with its size, so that nothing moves when it is decoded."""
    width, height = struct.unpack(">II", content[16:24])  # of the PNG's header
    data = base64.b64encode(content).decode()
    image = (
        f'<img alt="{_escape(alt)}" width="{round(width * scale)}" '
        f'height="{round(height * scale)}" src="data:image/png;base64,{data}">'
    )
    caption = f"<figcaption>{_escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="{kind}">{image}{caption}</figure>'
