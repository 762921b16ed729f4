"""Networks with downloaded weights, and those of files."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from file_server import FileServer, served

from jaxcnn import convert, models
from jaxcnn.convert import load_pretrained, pretrained, pretrained_weights
from jaxcnn.convert.state_dict import classes_of_heads
from jaxcnn.errors import UserError
from jaxcnn.models.published import PUBLISHED, PublishedWeights


@pytest.fixture(scope="module")
def resnet() -> torch.nn.Module:
    """A network whose statistics are not the initial ones."""
    torch.manual_seed(0)
    module = torchvision.models.resnet18()
    with torch.no_grad():
        module(torch.randn(4, 3, 64, 64))
    return module.eval()


@pytest.fixture(scope="module")
def path(resnet, tmp_path_factory):
    """A file with its weights and ten classes."""
    state = resnet.state_dict()
    state |= {f"fc.{leaf}": state[f"fc.{leaf}"][:10].clone() for leaf in ("weight", "bias")}
    path = tmp_path_factory.mktemp("pretrained") / "ten.pth"
    torch.save(state, path)
    return path


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("JAXCNN_CACHE", str(tmp_path / "cache"))
    with served(FileServer()) as server:
        monkeypatch.setattr(PublishedWeights, "url", property(lambda w: server.url(w.file)))
        yield server


def publish(server, monkeypatch, state: dict[str, torch.Tensor], name: str) -> None:
    """Serve these weights instead of torchvision's weights for the network."""
    file = io.BytesIO()
    torch.save(state, file)
    served = server.add(file.getvalue(), name)
    rows = [dataclasses.replace(r, file=served) if r.model == name else r for r in PUBLISHED]
    monkeypatch.setattr(pretrained, "PUBLISHED", tuple(rows))


def zeros(model, channels: int) -> dict[str, torch.Tensor]:
    """A state dict of the model."""
    images = jnp.zeros((1, model.input_size, model.input_size, channels))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    return {name: torch.from_numpy(array) for name, array in convert.to_torch(variables).items()}


# --- the table of published weights


def test_published_table_equals_torchvisions():
    architectures = sorted({weights.model for weights in PUBLISHED})
    ours, theirs = [], []
    for architecture in architectures:
        enum = torchvision.models.get_model_weights(architecture)
        size = models.model_info(architecture).input_size
        for weights in enum:
            transforms, meta = weights.transforms(), weights.meta
            metrics = meta["_metrics"].get("ImageNet-1K", {})
            # The features of a VGG-16, without a classifier, have no figures.
            top1, top5 = metrics.get("acc@1"), metrics.get("acc@5")
            theirs.append(
                (
                    architecture,
                    weights.name,
                    weights.url,
                    meta["num_params"],
                    # In billions, of an image of the weights' own size.
                    meta["_ops"] if transforms.crop_size == [size] else None,
                    None if top1 is None or np.isnan(top1) else round(top1 / 100, 9),
                    None if top5 is None or np.isnan(top5) else round(top5 / 100, 9),
                    transforms.resize_size[0],
                    transforms.crop_size[0],
                    transforms.interpolation.value,
                    tuple(transforms.mean),
                    tuple(transforms.std),
                    weights is enum.DEFAULT,
                )
            )
    for weights in PUBLISHED:
        how = weights.preprocessing
        size = models.model_info(weights.model).input_size
        ours.append(
            (
                weights.model,
                weights.name,
                weights.url,
                weights.num_params,
                round(weights.multiply_adds / 1e9, 3) if how.crop_size == size else None,
                None if weights.top1 is None else round(weights.top1, 9),
                None if weights.top5 is None else round(weights.top5, 9),
                how.resize_size,
                how.crop_size,
                how.interpolation,
                tuple(how.mean),
                tuple(how.std),
                weights.default,
            )
        )
    assert len(PUBLISHED) == 98
    assert sorted(ours, key=str) == sorted(theirs, key=str)


def test_published_table_covers_all_torchvision_models():
    published = {weights.model for weights in PUBLISHED}
    theirs = set(torchvision.models.list_models(torchvision.models))
    assert set(models.list_models()) & theirs <= published


def test_pretrained_weights_lists_the_default_first():
    assert {weights.model for weights in pretrained_weights()} <= set(models.list_models())
    for name in models.list_models():
        weights = pretrained_weights(name)
        assert weights == [w for w in pretrained_weights() if w.model == name]
        assert [w.default for w in weights] == [True, False, False, False][: len(weights)]
    assert [w.name for w in pretrained_weights("resnet50")] == ["IMAGENET1K_V2", "IMAGENET1K_V1"]
    assert pretrained_weights("lenet5") == []
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        pretrained_weights("resnet81")


@pytest.mark.parametrize("name", ["resnet50", "wide_resnet50_2", "resnext101_64x4d"])
def test_torchvision_weight_names_are_accepted(name):
    enum = torchvision.models.get_model_weights(name)
    for weights in enum:
        for spelling in (weights.name, str(weights)):
            assert pretrained.published_weights(name, spelling).url == weights.url
    for spelling in ("DEFAULT", f"{enum.__name__}.DEFAULT"):
        assert pretrained.published_weights(name, spelling).url == enum.DEFAULT.url


# --- published weights


def test_published_weights_download_once_and_match_torchvision_logits(resnet, server, monkeypatch):
    publish(server, monkeypatch, resnet.state_dict(), "resnet18")
    enum = torchvision.models.ResNet18_Weights.IMAGENET1K_V1
    for weights in ("DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1", enum):
        model, variables = load_pretrained("resnet18", weights)
        assert model == models.resnet18()
    images = np.random.default_rng(0).standard_normal((2, 64, 64, 3), np.float32)
    with torch.no_grad():
        expected = resnet(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    logits = jax.jit(model.apply)(variables, images)
    assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
    assert len(server.requests) == 1


def test_invalid_model_argument_raises_before_download(resnet, server, monkeypatch):
    publish(server, monkeypatch, resnet.state_dict(), "resnet18")
    with pytest.raises(UserError, match="unexpected argument 'widht'"):
        load_pretrained("resnet18", widht=2)
    assert server.requests == []
    model, variables = load_pretrained("resnet18", dtype=jnp.bfloat16)
    assert model.dtype == jnp.bfloat16
    assert variables["params"]["conv1"]["kernel"].dtype == jnp.float32
    logits = jax.eval_shape(model.apply, variables, jnp.zeros((1, 64, 64, 3)))
    assert logits.dtype == jnp.bfloat16


def test_wrong_num_classes_raises(resnet, server, monkeypatch):
    publish(server, monkeypatch, resnet.state_dict(), "resnet18")
    with pytest.raises(UserError, match=r"1000 classes .*num_classes is 10; .*skip=\('fc',\)"):
        load_pretrained("resnet18", num_classes=10)


class Toy(models.LeNet5):
    """Has the arguments of the networks with auxiliary heads."""

    transform_input: bool = False
    aux_logits: bool = False


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_tensorflow_networks_get_their_default_arguments(name, server, monkeypatch, tmp_path):
    monkeypatch.setattr(pretrained, "create_model", lambda name, **kwargs: Toy(**kwargs))
    monkeypatch.setattr(pretrained, "builder_arguments", lambda name: {})
    state = zeros(Toy(num_classes=1000), channels=3)
    publish(server, monkeypatch, state, name)
    model, _ = load_pretrained(name)
    assert model.transform_input and model.aux_logits and model.num_classes == 1000
    model, _ = load_pretrained(name, transform_input=False)
    assert not model.transform_input and model.aux_logits

    # Without the auxiliary heads their weights are dropped.
    head = "aux1.fc" if name == "googlenet" else "AuxLogits.fc"
    publish(server, monkeypatch, state | {f"{head}.weight": torch.zeros(1000, 7)}, name)
    with pytest.raises(UserError, match=f"unexpected {head}"):
        load_pretrained(name)
    model, _ = load_pretrained(name, aux_logits=False)
    assert not model.aux_logits

    # These are arguments for the published weights only.
    torch.save(state, tmp_path / "own.pth")
    model, _ = load_pretrained(name, tmp_path / "own.pth")
    assert not model.transform_input and not model.aux_logits


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("lenet5", "DEFAULT", "no weights for lenet5; give the path of a file"),
        ("resnet18", "IMAGENET1K_V2", "did you mean 'IMAGENET1K_V1'"),
        ("resnet18", "ResNet50_Weights.IMAGENET1K_V1", "did you mean"),
        ("resnet18", None, "known: IMAGENET1K_V1"),
        ("resnet81", "DEFAULT", "did you mean 'resnet18'"),
        ("resnet18", "nowhere.pth", "nowhere.pth cannot be opened"),
        ("resnet18", "folder/nowhere", "nowhere cannot be opened"),
    ],
)
def test_unknown_weights_raise(name, weights, words):
    with pytest.raises(UserError, match=words):
        load_pretrained(name, weights)


# --- files


def test_num_classes_is_inferred_from_file(path):
    for weights in (path, str(path)):
        model, variables = load_pretrained("resnet18", weights)
        assert model.num_classes == 10
        expected = convert.from_torch(torch.load(path), model)
        jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert load_pretrained("resnet18", path, num_classes=10)[0] == model


def test_file_without_extension_loads(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(path.read_bytes())
    assert load_pretrained("resnet18", "weights")[0].num_classes == 10


def test_flax_file_and_file_with_several_dicts_load(path, tmp_path):
    expected = convert.from_torch(convert.load_checkpoint(path), models.resnet18(num_classes=10))
    convert.save(tmp_path / "flax.safetensors", expected)
    torch.save({"model": {}, "ema": torch.load(path)}, tmp_path / "several.pth")
    for weights, key in ((tmp_path / "flax.safetensors", None), (tmp_path / "several.pth", "ema")):
        model, variables = load_pretrained("resnet18", weights, key=key)
        assert model.num_classes == 10
        jax.tree.map(np.testing.assert_array_equal, variables, expected)


def test_half_precision_is_kept(path, tmp_path):
    state = {k: v.half() if v.is_floating_point() else v for k, v in torch.load(path).items()}
    torch.save(state, tmp_path / "half.pth")
    _, variables = load_pretrained("resnet18", tmp_path / "half.pth")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float16)}


def test_weights_of_another_network_raise(path):
    with pytest.raises(UserError, match=r"does not fit this ResNet: .*\n.*missing layer1\.2"):
        load_pretrained("resnet34", path)


def test_head_of_another_size_raises_unless_skipped(tmp_path):
    state = {name: value + 1 for name, value in zeros(models.lenet5(), channels=1).items()}
    torch.save(state, tmp_path / "other.pth")
    headless = {name: value for name, value in state.items() if not name.startswith("fc3.")}
    torch.save(headless, tmp_path / "none.pth")
    for file, words in (
        ("other.pth", r"10 classes .*leave num_classes out"),
        ("none.pth", r"missing fc3\.bias"),
    ):
        with pytest.raises(UserError, match=words):
            load_pretrained("lenet5", tmp_path / file, num_classes=7)
        model, variables = load_pretrained(
            "lenet5", tmp_path / file, num_classes=7, skip=("fc3",), rng=jax.random.key(0)
        )
        assert model.num_classes == 7 and variables["params"]["fc3"]["kernel"].shape == (84, 7)
        assert (variables["params"]["fc2"]["kernel"] == 1).all()
        assert (variables["params"]["fc3"]["kernel"] != 1).all()


@pytest.mark.parametrize("name", ["lenet5", "resnet18"])
def test_heads_are_found_in_any_name_order(name):
    model = models.create_model(name, num_classes=5)
    state = zeros(model, channels=1)
    head = {"lenet5": "fc3", "resnet18": "fc"}[name]
    for keys in (sorted(state), sorted(state, reverse=True)):
        reordered = {key: state[key] for key in keys}
        assert classes_of_heads(reordered, models.create_model(name)) == {head: 5}
