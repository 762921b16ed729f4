"""Initial weights have the distributions of torchvision's, leaf by leaf."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torchvision
from compare import ours_by_torchs_names
from families import FAMILIES
from scipy import stats
from tiers import tiers

SAMPLE = 20_000
# By chance one leaf in a hundred million differs; a few thousand are compared.
P_VALUE = 1e-8


ONE_PER_FAMILY = [(*family.fast, *family.steps)[0] for family in FAMILIES.values()]
QUICKLY_INITIALIZED = {"squeezenet1_1"}


@pytest.mark.parametrize(
    "name", tiers(ONE_PER_FAMILY, fast=QUICKLY_INITIALIZED, slow=ONE_PER_FAMILY)
)
def test_initial_weights_have_torchvisions_distribution(name):
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)().state_dict()
    ours = ours_by_torchs_names(name, jax.random.key(0), jnp.float32)
    rng = np.random.default_rng(0)
    for leaf, reference in theirs.items():
        if leaf.endswith("num_batches_tracked"):
            continue
        value, reference = ours[leaf].ravel(), reference.numpy().ravel()
        if np.ptp(reference) == 0:
            np.testing.assert_array_equal(value, reference, err_msg=leaf)
            continue
        chosen = rng.permutation(value.size)[:SAMPLE]
        a, b = value[chosen], reference[chosen]
        assert stats.ks_2samp(a, b).pvalue > P_VALUE, leaf
        # The test above is hardly sensitive to bounds; extremes of so many values are stable.
        if len(chosen) > 1000:
            assert 0.6 < np.abs(a).max() / np.abs(b).max() < 1 / 0.6, leaf
            assert 0.9 < a.std() / b.std() < 1 / 0.9, leaf
