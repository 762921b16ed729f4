"""Prove that a Flax module computes what a PyTorch module computes, in float64.

The tests of :mod:`jaxcnn.models` use it, and so can those of other networks. It needs PyTorch.

Example::

    from jaxcnn import testing

    comparison = testing.compare(flax_module, torch_module, images)  # prints a table
    assert comparison.equal, comparison.first_difference
    assert max(testing.compare_gradients(flax_module, torch_module, images).values()) < 1e-9
    assert max(testing.compare_steps(flax_module, torch_module, images).values()) < 1e-9
"""

from jaxcnn.testing.arrays import relative_error
from jaxcnn.testing.layers import Comparison, LayerRow, compare
from jaxcnn.testing.randomize import randomize, use_exact_hardsigmoid
from jaxcnn.testing.steps import compare_gradients, compare_steps

__all__ = [
    "Comparison",
    "LayerRow",
    "compare",
    "compare_gradients",
    "compare_steps",
    "randomize",
    "relative_error",
    "use_exact_hardsigmoid",
]
