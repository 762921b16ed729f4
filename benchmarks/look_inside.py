"""Look into every network: a deconvnet and Grad-CAM of its last map, for docs/looking-inside.md.

    python benchmarks/look_inside.py [--only=NAME,NAME]
    python benchmarks/look_inside.py --shapes
    python benchmarks/look_inside.py --markdown

Each network has its initial weights, and one image of noise of the smallest size that it takes, but
at least 64 pixels. Each result is written to benchmarks/look_inside.json as it comes, and what is
there is not computed again (unless named by ``--only``). A network runs in a process of its own,
which gives its memory back.

``--shapes`` only checks the shapes of both, for all networks, without computing anything.
``--markdown`` writes the table into the document.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "look_inside.json"
DOCUMENT = ROOT / "docs" / "looking-inside.md"


def look_into(name: str) -> dict[str, object]:
    import jax
    import numpy as np

    from jaxcnn import models, visualize
    from jaxcnn.models.classifier import smallest_image_size
    from jaxcnn.visualize.layers import default_map, layer_shapes

    model = models.create_model(name, num_classes=10)
    size = max(64, smallest_image_size(model, train=False) or model.input_size)
    images = np.random.default_rng(0).standard_normal((1, size, size, 3), np.float32)
    variables = model.init(jax.random.key(0), images)
    layer = default_map(model, images.shape)
    shape = layer_shapes(model, images.shape)[layer]
    found = visualize.top_activations(model, variables, [images], layer, num_units=1, top=1)
    started = time.perf_counter()
    projection = visualize.deconvnet(model, variables, images, layer, int(found.units[0]))
    pixels = np.asarray(projection.pixels)
    maps = np.asarray(visualize.grad_cam(model, variables, images, layer=layer))
    return {
        "size": size,
        "layer": layer,
        "map": list(shape[1:]),
        "finite": bool(np.isfinite(pixels).all() and np.isfinite(maps).all()),
        "reached": float(np.mean(np.any(pixels != 0, axis=-1))),
        "seconds": time.perf_counter() - started,
    }


def measure(only: list[str] | None) -> None:
    from jaxcnn import models

    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for name in only or models.list_models():
        if only is None and name in results:
            continue
        child = subprocess.run(
            [sys.executable, __file__, f"--child={name}"], stdout=subprocess.PIPE, check=True
        )
        results[name] = json.loads(child.stdout)
        print(name, results[name], flush=True)
        RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")


def check_shapes() -> None:
    import jax
    import jax.numpy as jnp

    from jaxcnn import models, visualize
    from jaxcnn.models.classifier import smallest_image_size
    from jaxcnn.visualize.layers import default_map, layer_shapes

    for number, name in enumerate(models.list_models(), 1):
        model = models.create_model(name, num_classes=10)
        size = max(64, smallest_image_size(model, train=False) or model.input_size)
        images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        light = model.clone(weight_init=0.0)  # random weights take long to trace
        variables = jax.eval_shape(light.init, jax.random.key(0), images)
        layer = default_map(model, images.shape)
        numbers = jax.ShapeDtypeStruct((2,), jnp.int32)
        project = visualize.deconvnets._projector(model, layer, False)
        pixels, *_ = jax.eval_shape(project, variables, images, numbers)
        assert pixels.shape == images.shape, name
        grad_cam = visualize.attributions._grad_cam(model, layer)
        maps = jax.eval_shape(grad_cam, variables, images, numbers)
        assert maps.shape == layer_shapes(model, images.shape)[layer][:3], name
        print(number, name, layer, maps.shape, flush=True)


def write_document() -> None:
    results = json.loads(RESULTS.read_text())
    table = "| network | pixels | layer | map | finite | pixels reached |\n"
    table += "|---|---:|---|---|---|---:|\n"
    for name, row in results.items():
        table += (
            f"| `{name}` | {row['size']} | `{row['layer']}` | {' x '.join(map(str, row['map']))} "
            f"| {'yes' if row['finite'] else 'no'} | {row['reached']:.0%} |\n"
        )
    text = DOCUMENT.read_text()
    marker = r"(<!-- all networks -->\n).*?(<!-- end -->)"
    DOCUMENT.write_text(re.sub(marker, lambda m: m[1] + table + m[2], text, flags=re.DOTALL))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=lambda text: text.split(","))
    parser.add_argument("--shapes", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(look_into(arguments.child)))
    elif arguments.shapes:
        check_shapes()
    elif arguments.markdown:
        write_document()
    else:
        measure(arguments.only)


if __name__ == "__main__":
    main()
