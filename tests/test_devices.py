"""Arrays on several devices."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.training.devices import replicate, split, unreplicate


def test_what_a_step_returns_does_not_compile_it_again():
    traced = []

    def step(state, batch):
        traced.append(1)
        return jax.tree.map(lambda leaf: leaf + jax.lax.pmean(batch.sum(), "batch"), state)

    pmapped = jax.pmap(step, axis_name="batch", donate_argnums=0)
    state, batch = replicate({"w": np.ones((2, 3)), "step": jnp.zeros(())}), split(np.ones((8, 2)))
    for _ in range(3):
        state = pmapped(state, batch)
    assert len(traced) == 1
    assert state["w"].shape == (4, 2, 3)
    np.testing.assert_array_equal(unreplicate(state)["w"], np.full((2, 3), 1 + 3 * 4))
