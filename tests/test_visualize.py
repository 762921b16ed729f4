"""Looking inside: every family, what the methods promise, and the command."""

import json
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from processes import ROOT, documented_commands, run_documented
from smallest import quick_variables, smallest_of_families
from tiers import tiers

from jaxcnn import cli, convert, models, visualize
from jaxcnn.data.source import open_source
from jaxcnn.errors import UserError
from jaxcnn.models.densenet import DenseNet
from jaxcnn.training.build import make_model
from jaxcnn.training.config import as_json, open_config, resolve
from jaxcnn.visualize import figures
from jaxcnn.visualize.images import figure_png
from jaxcnn.visualize.layers import default_map, layer_shapes, receptive_boxes
from jaxcnn.visualize.rules import DECONVNET, GUIDED, with_rules

# Of the families that are looked into: with branches, gates, shortcuts and concatenations.
SLOW = ("convnext_tiny", "densenet121", "googlenet", "mobilenet_v3_small", "resnet18", "zfnet")
RECTIFIERS = [jax.nn.relu, jax.nn.relu6, jax.nn.silu, jax.nn.hard_swish]


@pytest.fixture(scope="module")
def lenet():
    """A network, its variables, and images that it takes."""
    model = models.lenet5()
    images = np.random.default_rng(0).standard_normal((12, 32, 32, 1), np.float32)
    return model, jax.jit(model.init)(jax.random.key(0), images), images


@pytest.mark.parametrize("activation", RECTIFIERS)
def test_rectifiers(activation):
    x = jnp.array([-4.0, -1.0, 0.5, 2.0, 7.0])
    signal = jnp.array([1.0, -2.0, 3.0, -4.0, 5.0])
    _, down = jax.vjp(with_rules(activation, DECONVNET), x)
    assert down(signal)[0].tolist() == [1, 0, 3, 0, 5]
    _, down = jax.vjp(with_rules(activation, GUIDED), x)
    _, own = jax.vjp(activation, x)
    np.testing.assert_array_equal(down(signal)[0], own(jnp.maximum(signal, 0))[0])


def test_gates_are_fixed_in_a_deconvnet_and_differentiated_in_guided_backpropagation():
    x = jnp.array([-1.0, 0.5, 2.0])
    for gate in (jax.nn.sigmoid, jax.nn.hard_sigmoid):
        _, down = jax.vjp(with_rules(lambda x, gate=gate: x * gate(x), DECONVNET), x)
        np.testing.assert_allclose(down(jnp.ones(3))[0], gate(x), rtol=1e-6)
        _, own = jax.vjp(gate, x)
        _, down = jax.vjp(with_rules(gate, GUIDED), x)
        np.testing.assert_array_equal(down(-jnp.ones(3))[0], own(-jnp.ones(3))[0])


def test_a_norm_within_a_deconvnet_is_linear():
    """Scaling the signal up scales what comes down, whatever the statistics of the image."""
    model = models.layers.LayerNorm()
    x = jax.random.normal(jax.random.key(0), (2, 3, 3, 8))
    variables = model.init(jax.random.key(1), x)
    _, down = jax.vjp(with_rules(lambda x: model.apply(variables, x), DECONVNET), x)
    deviation = jnp.std(x, axis=-1, keepdims=True)
    np.testing.assert_allclose(down(jnp.ones_like(x))[0] * deviation, 1, rtol=1e-4)


def test_rules_leave_the_values_as_they_are(lenet):
    model, variables, images = lenet
    for rules in (DECONVNET, GUIDED):
        ours = with_rules(model.apply, rules)(variables, images)
        np.testing.assert_allclose(ours, model.apply(variables, images), rtol=1e-5, atol=1e-6)


def test_the_default_map_is_the_outermost_of_the_last():
    expected = {"resnet18": "layer4", "alexnet": "features", "squeezenet1_1": "classifier.2"}
    expected |= {"inception_v3": "Mixed_7c", "nin": "mlpconv4", "zfnet": "pool5"}
    for name, layer in expected.items():
        model = models.create_model(name)
        assert default_map(model, (1, model.input_size, model.input_size, 3)) == layer


def test_top_activations_are_those_of_the_maps(lenet):
    model, variables, images = lenet
    _, state = model.apply(variables, images, capture_intermediates=True)
    maps = np.asarray(state["intermediates"]["conv2"]["__call__"][0])  # [12, 10, 10, 16]
    found = visualize.top_activations(
        model, variables, [images[:5], images[5:10], images[10:]], "conv2", units=[3, 8], top=4
    )
    strongest = maps.max(axis=(1, 2))[:, [3, 8]].T
    order = np.argsort(-strongest, axis=1)[:, :4]
    np.testing.assert_array_equal(found.images, order)
    np.testing.assert_allclose(found.activations, np.take_along_axis(strongest, order, 1), 1e-5)
    for unit, numbers, positions in zip((3, 8), found.images, found.positions, strict=True):
        for number, (row, column) in zip(numbers, positions, strict=True):
            assert maps[number, row, column, unit] == maps[number, :, :, unit].max()


def test_receptive_boxes_are_where_projections_are_not_zero(lenet):
    """Over several images, of each of which a rectifier may hide some."""
    model, variables, images = lenet
    projection = visualize.deconvnet(model, variables, images, "conv2", 5)
    boxes = receptive_boxes(model, images.shape, "conv2", np.asarray(projection.position))
    corners = []
    for pixels, (top, left, *_) in zip(projection.pixels, boxes, strict=True):
        rows, columns, _ = np.nonzero(np.asarray(pixels))
        corners.append((rows.min() - top, columns.min() - left))
        corners.append((rows.max() + 1 - top, columns.max() + 1 - left))
    assert {tuple(box[2:]) for box in boxes} == {(14, 14)}
    assert np.min(corners, axis=0).tolist() == [0, 0]
    assert np.max(corners, axis=0).tolist() == [14, 14]
    assert receptive_boxes(model, images.shape, "fc1", np.zeros((1, 2), int)).tolist() == [
        [0, 0, 32, 32]
    ]


def test_occlusion_is_the_prediction_for_covered_images(lenet):
    model, variables, images = lenet
    maps = visualize.occlusion(model, variables, images[0], 4, size=8, stride=5, fill=0.5)
    row, column = 3, 1
    top, left = maps["top"][row], maps["left"][column]
    assert (top, left) == (11, 1)
    covered = images[:1].copy()
    covered[0, top : top + 8, left : left + 8] = 0.5
    probabilities = jax.nn.softmax(model.apply(variables, covered))[0]
    np.testing.assert_allclose(maps["probability"][row, column], probabilities[4], rtol=1e-5)
    assert maps["prediction"][row, column] == probabilities.argmax()
    assert maps["probability"].shape == (7, 7)


def test_maximize_excites_what_it_is_asked_for(lenet):
    model, variables, _ = lenet
    shape, units = (32, 32, 1), [3, 7]
    images, values = visualize.maximize(model, variables, shape, units, steps=60)
    assert images.shape == (2, *shape) and 0 <= images.min() and images.max() <= 1
    logits = model.apply(variables, images)
    np.testing.assert_allclose(values, logits[[0, 1], units], rtol=1e-4)
    start, _ = visualize.maximize(model, variables, shape, units, steps=0)
    assert (values > model.apply(variables, start)[[0, 1], units] + 0.015).all()


def test_smooth_saliency_is_the_mean_over_noisy_copies(lenet):
    model, variables, images = lenet
    rng, labels = jax.random.key(5), np.arange(12) % 10
    expected = 0
    for copy in range(3):
        normal = jax.random.normal(jax.random.fold_in(rng, copy), images.shape)
        spread = np.ptp(images, axis=(1, 2, 3), keepdims=True)
        expected += visualize.saliency(model, variables, images + 0.2 * spread * normal, labels) / 3
    smooth = visualize.smooth_saliency(
        model, variables, images, labels, samples=3, noise=0.2, rng=rng
    )
    np.testing.assert_allclose(smooth, expected, rtol=1e-4, atol=1e-7)


def test_integrated_gradients_warn_where_they_do_not_add_up(lenet):
    model, variables, images = lenet
    found = []
    visualize.integrated_gradients(
        model, variables, images[:2], tolerance=1e-9, max_evaluations=30, warn=found.append
    )
    assert len(found) == 2 and "image 1 fail to add up" in found[1]


def test_a_layer_within_a_rematerialized_block_can_be_looked_into():
    plain = DenseNet(block_config=(1,), num_classes=3)
    light = plain.clone(memory_efficient=True)
    layer = "features.denseblock1.denselayer1.conv1"
    images = jax.random.normal(jax.random.key(1), (1, 32, 32, 3))
    variables = jax.jit(plain.init)(jax.random.key(0), images)
    ours, theirs = (
        visualize.top_activations(m, variables, [images], layer, num_units=2)
        for m in (light, plain)
    )
    np.testing.assert_array_equal(ours.units, theirs.units)
    np.testing.assert_allclose(ours.activations, theirs.activations, rtol=1e-5)


def test_of_a_single_image_the_units_that_stand_out_are_chosen(lenet):
    model, variables, images = lenet
    _, state = model.apply(variables, images[:1], capture_intermediates=True)
    for layer in ("conv2", "fc1"):
        values = np.asarray(state["intermediates"][layer]["__call__"][0])
        values = values.reshape(-1, values.shape[-1])
        contrast = values.max(axis=0) - values.mean(axis=0) * (len(values) > 1)
        found = visualize.top_activations(model, variables, [images[:1]], layer, num_units=3)
        np.testing.assert_array_equal(found.units, np.argsort(-contrast)[:3])


def test_maps_of_an_occlusion_lie_where_the_square_was():
    maps = {"top": np.array([-2, 2, 6]), "left": np.array([-2, 3])}
    # The middles of the squares of 4 pixels are -0.5, 3.5, 7.5 and -0.5, 4.5.
    assert figures.occlusion_extent(maps, 4) == (-3.0, 7.0, 9.5, -2.5)


def test_names_may_have_any_characters():
    image = np.zeros((8, 8, 1), np.uint8)
    figure = figures.attributions([image], [np.ones((2, 2))], ["a$b_$c"], "$", label="")
    assert figure_png(figure)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda *n: visualize.deconvnet(*n, "conv3", 0), "'conv3' is unknown.*did you mean"),
        (lambda *n: visualize.deconvnet(*n, "conv2", 16), "unit 16 .* units 0 to 15"),
        (lambda *n: visualize.grad_cam(*n, layer="fc1"), "no height and width.*'pool2'"),
        (lambda *n: visualize.saliency(*n, 10), "class 10 does not exist"),
        (lambda *n: visualize.saliency(*n, np.zeros(3, int)), "shape .3,. for 12 images"),
        (lambda *n: visualize.deconvnet(*n, "conv2", np.zeros(3, int)), "shape .3,."),
        (lambda m, v, x: visualize.occlusion(m, v, x[0], size=0), "does not fit"),
        (lambda m, v, x: visualize.occlusion(m, v, x[0], size=40), "does not fit"),
        (lambda m, v, x: visualize.top_activations(m, v, [], "conv1"), "no images"),
        (lambda m, v, x: visualize.maximize(m, v, (32, 32, 1), [10]), "class 10"),
    ],
)
def test_what_does_not_exist_is_refused(call, words, lenet):
    with pytest.raises(UserError, match=words):
        call(*lenet)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny"])
def test_biases_need_a_chain_of_convolutions(name):
    model = models.create_model(name)
    images = np.zeros((1, 64, 64, 3), np.float32)
    with pytest.raises(UserError, match="biases=True needs a network whose convolutions are"):
        visualize.deconvnet(model, {}, images, default_map(model, images.shape), 0, biases=True)


@pytest.mark.parametrize("name", tiers(smallest_of_families(), slow=SLOW))
def test_every_family_has_a_deconvnet_and_grad_cam(name):
    model = models.create_model(name, num_classes=5)
    size = max(64, models.classifier.smallest_image_size(model, train=False))
    image = np.random.default_rng(0).standard_normal((1, size, size, 3), np.float32)
    variables = quick_variables(model, image)
    layer = default_map(model, image.shape)
    shape = layer_shapes(model, image.shape)[layer]
    units = np.linspace(0, shape[-1] - 1, 4, dtype=int)
    images = np.repeat(image, 4, axis=0)
    projection = visualize.deconvnet(model, variables, images, layer, units)
    assert np.isfinite(projection.pixels).all()
    active = np.asarray(projection.activation) > 0
    # Of a single unit, rectifiers further down may leave nothing.
    assert active.any() and np.abs(projection.pixels[active]).max() > 0
    maps = visualize.grad_cam(model, variables, image, layer=layer)
    assert maps.shape == shape[:3]
    assert np.isfinite(maps).all() and maps.min() >= 0


@pytest.fixture(scope="module")
def files(lenet, tmp_path_factory):
    """A folder of photographs, and a file of weights."""
    folder = tmp_path_factory.mktemp("visualize")
    model, variables, images = lenet
    convert.save_torch(folder / "lenet.safetensors", variables)
    (folder / "photos").mkdir()
    for number, image in enumerate(images[:3, ..., 0]):
        pixels = np.uint8(np.clip(128 + 60 * image, 0, 255))
        Image.fromarray(pixels).save(folder / "photos" / f"{number}.png")
    return folder


def network(files):
    return ["--model", "lenet5", "--weights", str(files / "lenet.safetensors")]


def png_size(path):
    with Image.open(path) as image:
        image.load()
        return image.size


@pytest.mark.parametrize(
    "arguments",
    [
        ["filters"],
        ["features", "photos/0.png", "--layer", "conv1", "--num_units", "4"],
        ["deconvnet", "photos", "--layer", "conv2", "--num_units", "2", "--top", "3"],
        ["saliency", "photos/*.png", "--method", "integrated", "--class", "7"],
        ["gradcam", "photos", "--layer", "conv2"],
        ["occlusion", "photos/1.png", "--size", "8", "--stride", "8"],
        ["maximize", "--units", "1,2", "--steps", "2"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_kind_writes_its_picture(arguments, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(files)
    out = tmp_path / "picture.png"
    command = ["visualize", *arguments, *network(files), "--out", str(out)]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"Wrote {out}.\n"
    width, height = png_size(out)
    assert width > 300 and height > 150
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gradcam", "photos", "--layer", "conv9"], "layer 'conv9' is unknown.*did you mean"),
        (["gradcam", "photos", "--layer", "fc2"], "no height and width"),
        (["deconvnet", "photos", "--layer", "conv2", "--units", "99"], "unit 99 does not exist"),
        (["deconvnet", "photos", "--units", "one"], "--units=one must be numbers"),
        (["deconvnet", "photos", "--top", "0"], "--top=0 must be at least 1"),
        (["deconvnet", "photos", "--top", "17"], "--top=17 must be at most 16"),
        (["occlusion", "photos", "--size", "33"], "does not fit"),
        (["gradcam", "photos", "--data_dir", "."], "--data_dir is for the images of a run"),
        (["filters", "--units", "6"], "--units=6 does not exist"),
        (["maximize", "--class", "3", "--units", "5"], "--class and --units"),
        (["maximize", "--seed", "99999999999999999999"], "--seed"),
        (["saliency", "photos", "--class", "cat"], "--class=cat is unknown"),
        (["saliency"], "No image is named"),
        (["saliency", "empty"], "empty"),
        (["saliency", "torn.png"], "torn.png"),
        (["filters", "--layer", "fc1"], "--layer=fc1 is no convolution"),
        (["filters", "--out", "picture.pdf"], "must end in .png"),
        (["filters", "--out", "nowhere/picture.png"], "there is no folder nowhere"),
        (["maximize", "--layer", "conv1", "--units", "6"], "unit 6 does not exist"),
    ],
)
def test_mistakes_are_one_sentence(arguments, words, files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(files)
    (files / "empty").mkdir(exist_ok=True)
    (files / "torn.png").write_bytes((files / "photos" / "0.png").read_bytes()[:90])
    out = [] if "--out" in arguments else ["--out", str(tmp_path / "picture.png")]
    assert cli.main(["visualize", *arguments, *network(files), *out]) == 2
    error = capsys.readouterr().err
    assert re.search(words, error) and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def leave_run(workdir, name, **arguments):
    """What is left of a run on digits, not trained."""
    config = resolve(open_config(name, "digits"))
    config.model_args.update(arguments)
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(as_json(config)))
    (workdir / "classes.json").write_text(json.dumps([str(digit) for digit in range(10)]))
    model = make_model(config, 10)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 1)))
    convert.save_torch(workdir / "weights.safetensors", variables)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "folder:/nowhere"}, "there is no folder '/nowhere'"),
        ({"eval": {"split": "holdout"}}, "holdout"),
    ],
)
def test_images_of_a_run_that_are_gone(change, words, data_dir, tmp_path, capsys):
    broken = tmp_path / "broken"
    leave_run(broken, "lenet5")
    config = json.loads((broken / "config.json").read_text())
    for key, value in change.items():
        config[key] = config[key] | value if isinstance(value, dict) else value
    (broken / "config.json").write_text(json.dumps(config))
    out = tmp_path / "picture.png"
    command = ["visualize", "gradcam", "--workdir", str(broken), "--data_dir", data_dir]
    assert cli.main([*command, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not out.exists()


def test_weights_of_another_model_are_refused(files, tmp_path, capsys):
    command = ["visualize", "filters", "--model", "nin", "--out", str(tmp_path / "picture.png")]
    assert cli.main([*command, "--weights", str(files / "lenet.safetensors")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_the_command_runs_as_a_process(files, tmp_path):
    command = ["visualize", "filters", *network(files), "--out", str(tmp_path / "picture.png")]
    result = subprocess.run(
        [sys.executable, "-m", "jaxcnn", *command], cwd=ROOT, capture_output=True, text=True
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert png_size(tmp_path / "picture.png")


@pytest.fixture(scope="module")
def documented_run(tmp_path_factory, data_dir):
    """A run of the network that the documentation shows."""
    folder = tmp_path_factory.mktemp("documented")
    blocks = ((1, 32), (1, 64), (2, 128))
    leave_run(folder / "runs" / "vgg", "vgg", blocks=blocks, batch_norm=True)
    open_source("digits", "test", data_dir)  # prepares it
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", documented_commands("docs/looking-inside.md", "visualize"))
def test_documented_commands(line, documented_run, data_dir):
    kind = line.split()[2]
    light = line.replace("--steps 256", "--steps 2")
    more = "" if kind in ("filters", "maximize") else f" --data_dir {data_dir}"
    result = run_documented(light + more, {}, documented_run, {}, heavy=("tensorflow", "torch"))
    assert (result.returncode, result.stderr) == (0, "")
    assert png_size(documented_run / f"{kind}.png")
