"""Pictures of runs, and the page that compares them."""

import json
import pathlib
import re

import jax
import numpy as np
import pytest
from browser import open_page
from PIL import Image

from jaxcnn import cli, convert, models
from jaxcnn.cli.report import write_pictures
from jaxcnn.data.grid import filter_grid, image_grid
from jaxcnn.training.evaluation import Examples, SavedEvaluation, save_evaluation
from jaxcnn.visualize.runs import confusion_matrix, confusion_text, worst_confusions

CLASSES = ["<b>cat & dog</b>", "$x_1$", "a name that is much longer than there is room for"]
# Of nine examples, six are right.
LABELS, PREDICTIONS = [0, 0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 1, 2, 2, 0]


def make_run(
    folder: pathlib.Path,
    *,
    classes: list[str] = CLASSES,
    finished: bool = True,
    mistakes: tuple[int, ...] = (2, 8, 3),
    **settings: object,
) -> pathlib.Path:
    """A workdir such as train.py leaves, of a run that took no time."""
    folder.mkdir(parents=True)
    config = {"model": "lenet5", "dataset": "digits", "num_epochs": 2, "learning_rate": 0.1}
    config["augment"] = {"flip": False}
    (folder / "config.json").write_text(json.dumps(config | settings))
    (folder / "classes.json").write_text(json.dumps(classes))
    metrics = {"loss": 0.75, "top1": 0.5, "top5": 1.0}
    lines = [{"step": 5, "epoch": 0.5, "split": "train", "learning_rate": 0.1, **metrics}]
    if finished:
        for step, epoch in ((10, 1), (20, 2)):
            evaluated = {"step": step, "epoch": epoch, **metrics, "loss": 0.5 / epoch}
            lines += [evaluated | {"split": "eval", "examples": 9}]
            lines += [evaluated | {"split": "eval_ema", "examples": 9, "top1": 0.625}]
        images = np.random.default_rng(0).integers(0, 256, (len(mistakes), 8, 8, 3), np.uint8)
        examples = Examples(
            number=np.arange(9),
            label=np.array(LABELS),
            prediction=np.array(PREDICTIONS),
            confidence=np.full(9, 0.625, np.float32),
            loss=np.ones(9, np.float32),
            top5=np.ones(9, bool),
        )
        saved = SavedEvaluation(20, examples, np.array(mistakes, int), images)
        save_evaluation(folder / "evaluation.npz", saved)
        model = models.lenet5()
        variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
        convert.save_torch(folder / "weights.safetensors", variables)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> pathlib.Path:
    return make_run(tmp_path_factory.mktemp("runs") / "<i>one")


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> pathlib.Path:
    """The report on a finished and an unfinished run."""
    other = make_run(finished.parent / "two", finished=False, learning_rate=0.025)
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert cli.main(["report", str(finished), str(other), "--out", str(path)]) == 0
    return path


def test_report_opens_in_a_browser_without_network_and_errors(page, tmp_path):
    text = "document.querySelector('main').innerText"
    scrolls = "document.documentElement.scrollWidth > innerWidth"
    opened = open_page(page, tmp_path, text, scrolls)
    assert (opened.requests, opened.errors) == ([], [])
    # curves of both; confusion, mistakes and filters of the finished one
    assert len(opened.images) == 4 and all(width > 0 for width in opened.images)
    shown, wider_than_the_window = opened.values
    assert not wider_than_the_window
    assert "<i>one" in shown and "<b>cat & dog</b>" in shown and "$x_1$" in shown


def test_browser_sees_requests_errors_and_broken_images(tmp_path):
    (tmp_path / "page.html").write_text(
        "<script src='missing.js'></script><script>nonsense()</script><img src='data:image/png,x'>"
    )
    opened = open_page(tmp_path / "page.html", tmp_path)
    assert [url.rpartition("/")[2] for url in opened.requests] == ["missing.js"]
    assert any("nonsense is not defined" in error for error in opened.errors)
    assert opened.images == [0]


def test_report_has_final_figures_and_settings_that_differ(page):
    text = page.read_text()
    differing, _, rest = text.partition("Settings that differ")[2].partition("<h2>")
    assert re.findall(r"<code>(.*?)</code>", differing) == ["learning_rate", "0.1", "0.025"]
    assert "augment.flip" in rest  # among all settings
    assert "25.00%" not in text and "50.00%" in text and "62.50%" in text  # top-1, of the average
    assert "2 of 2 epochs, 20 steps<" in text and "0.5 of 2 epochs, 5 steps (unfinished)" in text
    assert not re.search(r"""(?:src|href)=(?!["']?(?:data:|#))""", text)


def test_pictures_of_a_run_are_written_to_its_workdir(finished):
    write_pictures(finished)
    for name in ("curves.png", "confusion.png", "mistakes.png"):
        with Image.open(finished / name) as image:
            assert image.width > 300 and len(image.convert("RGB").getcolors(1 << 24)) > 50, name
    assert not (finished / "confusion.txt").exists()


def test_above_a_hundred_classes_confusions_are_text(tmp_path):
    run = make_run(tmp_path / "run", classes=[*CLASSES, *map(str, range(98))], mistakes=())
    (run / "confusion.png").touch()  # of another evaluation
    write_pictures(run)
    row = (run / "confusion.txt").read_text().splitlines()[1]
    assert re.split(" {2,}", row.strip()) == ["2", "50.0%", *CLASSES[:2]]
    assert not (run / "confusion.png").exists() and not (run / "mistakes.png").exists()


def test_confusions_are_counted():
    labels, predictions = np.array(LABELS), np.array(PREDICTIONS)
    matrix = confusion_matrix(labels, predictions, 3)
    assert matrix.tolist() == [[2, 2, 0], [0, 2, 0], [1, 0, 2]]
    worst = worst_confusions(labels, predictions, ["a", "b", "c"])
    assert [tuple(pair) for pair in worst] == [("a", "b", 2, 0.5), ("c", "a", 1, 1 / 3)]
    assert confusion_text(worst).splitlines()[2].split() == ["1", "33.3%", "c", "a"]
    assert worst_confusions(labels, labels, ["a", "b", "c"]) == []


def test_image_grid_places_images_row_by_row():
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    grid = image_grid(images, columns=3, padding=1, scale=2)
    assert grid.shape == (7, 10, 1)
    assert grid[1:3, 1:9, 0].tolist() == [[0, 0, 255, 1, 1, 255, 2, 2]] * 2
    assert grid[4:6, 1:9, 0].tolist() == [[3, 3, 255, 4, 4, 255, 255, 255]] * 2


def test_filters_have_scales_of_their_own_and_zero_is_gray():
    kernel = np.zeros((2, 1, 3, 2), np.float32)
    kernel[0, 0, :, 0] = [1, -1, 0.5]
    kernel[1, 0, :, 1] = [0, 0, -100]
    grid = filter_grid(kernel, columns=2, tile=2, padding=0)
    assert grid.tolist() == [
        [[255, 0, 191], [128, 128, 128]],
        [[128, 128, 128], [128, 128, 0]],
    ]
    assert filter_grid(np.ones((3, 3, 5, 2)), tile=3, padding=0).shape == (6, 15, 1)
    assert filter_grid(np.zeros((5, 5, 1, 6))).shape[-1] == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["TMP/nowhere"], "There is no folder TMP/nowhere; give the --workdir of a run."),
        (["TMP"], "TMP is not the folder of a run: it has no config.json"),
        (["RUN", "--out", "TMP/no/report.html"], "cannot be written"),
    ],
)
def test_wrong_report_is_one_sentence_and_status_2(arguments, words, finished, tmp_path, capsys):
    arguments = [a.replace("TMP", str(tmp_path)).replace("RUN", str(finished)) for a in arguments]
    if "--out" not in arguments:
        arguments += ["--out", str(tmp_path / "report.html")]
    assert cli.main(["report", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("jaxcnn: ") and words.replace("TMP", str(tmp_path)) in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_damaged_evaluation_is_one_sentence(tmp_path, capsys):
    run = make_run(tmp_path / "run", finished=False)
    (run / "evaluation.npz").write_bytes(b"PK\3\4 damaged")
    assert cli.main(["report", str(run), "--out", str(tmp_path / "report.html")]) == 2
    assert "evaluation.npz is damaged" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()
