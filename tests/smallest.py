"""The smallest network of each family, and variables for it without a compilation."""

import jax
import numpy as np

from jaxcnn import models


def smallest_of_families() -> list[str]:
    smallest = {}
    for name in models.list_models():
        info = models.model_info(name)
        best = smallest.get(info.family)
        if best is None or info.parameters < models.model_info(best).parameters:
            smallest[info.family] = name
    return sorted(smallest.values())


def quick_variables(model, images):
    """Random ones, as large as initial ones, without a compilation."""
    shapes = jax.eval_shape(model.clone(weight_init=0.0).init, jax.random.key(0), images)
    random = np.random.default_rng(0)

    def values(path, leaf):
        if path[-1].key == "var":
            return np.ones(leaf.shape, np.float32)
        fan_in = max(1, np.prod(leaf.shape[:-1]))
        return random.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(values, shapes)
