"""Evaluation over a split: means, and what was said about each example."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxcnn import models
from jaxcnn.data.pipeline import EvalPreprocess
from jaxcnn.data.source import open_source
from jaxcnn.errors import UserError
from jaxcnn.training import devices
from jaxcnn.training.evaluation import (
    SavedEvaluation,
    evaluate,
    load_evaluation,
    save_evaluation,
)
from jaxcnn.training.inputs import EvalInputs
from jaxcnn.training.step import make_eval_step, normalizer

COUNT, BAD = 23, 5


class Damaged:
    """A split of which one example cannot be decoded."""

    def __init__(self, source):
        self._source = source

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self, number):
        content, label = self._source.read(number)
        return (b"damaged" if number == BAD else content), label


@pytest.fixture(scope="module")
def inputs(data_dir):
    return EvalInputs(
        Damaged(open_source("digits", f"test[:{COUNT}]", data_dir)),
        EvalPreprocess(image_size=32, channels=1, crop="none", fit="resize"),
        batch_size=6,  # on four devices: 8
        max_skipped=1.0,
        report=lambda sentence: None,
    )


@pytest.fixture(scope="module")
def network():
    """LeNet-5 with weights that are large enough for predictions that differ."""
    model = models.lenet5()
    variables = model.init(jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
    return model, jax.tree.map(lambda leaf: 3 * leaf, variables)


@pytest.fixture(scope="module")
def evaluation(inputs, network):
    model, variables = network
    step = devices.pmap(make_eval_step(model, normalize=normalizer((0.1,), (0.3,))))
    counts = []
    result = evaluate(
        step, devices.replicate(variables), inputs, with_examples=True, progress=counts.append
    )
    assert counts == [8, 8, 7]
    without = evaluate(step, devices.replicate(variables), inputs)
    assert (without.means, without.examples) == (result.means, None)
    return result


def test_every_decoded_example_is_described_once(evaluation, inputs, network):
    model, variables = network
    examples = evaluation.examples
    numbers = [number for number in range(COUNT) if number != BAD]
    assert examples.number.tolist() == numbers
    assert examples.label.tolist() == [inputs.source.read(number)[1] for number in numbers]
    images = normalizer((0.1,), (0.3,))(inputs.images(numbers))
    probabilities = np.asarray(jax.nn.softmax(model.apply(variables, images)))
    assert len(set(examples.prediction)) > 1
    assert examples.prediction.tolist() == probabilities.argmax(axis=1).tolist()
    np.testing.assert_allclose(examples.confidence, probabilities.max(axis=1), rtol=1e-5)
    own = probabilities[range(len(numbers)), examples.label]
    np.testing.assert_allclose(examples.loss, -np.log(own), rtol=1e-4)
    better = (probabilities > own[:, None]).sum(axis=1)
    assert examples.top5.tolist() == (better < 5).tolist()


def test_means_are_those_of_the_examples(evaluation):
    means, examples = evaluation.means, evaluation.examples
    assert (means["examples"], means["skipped"]) == (COUNT - 1, 1)
    assert means["loss"] == pytest.approx(examples.loss.mean(), rel=1e-6)
    assert means["top1"] == np.mean(examples.prediction == examples.label)
    assert means["top5"] == np.mean(examples.top5)


def test_worst_mistakes_have_the_highest_losses(evaluation):
    examples = evaluation.examples
    wrong = examples.prediction != examples.label
    rows = examples.worst_mistakes(4)
    assert len(rows) == 4 and wrong[rows].all()
    assert examples.loss[rows].tolist() == sorted(examples.loss[wrong], reverse=True)[:4]
    assert len(examples.worst_mistakes(1000)) == wrong.sum()


def test_saved_evaluation_is_read_back(evaluation, inputs, tmp_path):
    mistakes = evaluation.examples.worst_mistakes(3)
    images = inputs.images(evaluation.examples.number[mistakes])
    saved = SavedEvaluation(7, evaluation.examples, mistakes, images)
    path = tmp_path / "evaluation.npz"
    assert load_evaluation(path) is None
    save_evaluation(path, saved)
    read = load_evaluation(path)
    jax.tree.map(np.testing.assert_array_equal, dataclasses.asdict(read), dataclasses.asdict(saved))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="evaluation.npz is damaged"):
        load_evaluation(path)
