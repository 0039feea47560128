"""Each adaptation method beats training on the source alone, on the embedded digits shift."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import pytest
from conftest import CONFIGS, composed, method_class
from test_configs import needs

from tl_runner.run import run

# All methods with three seeds take half an hour on two cores: CI takes one.
SEEDS = range(int(os.environ.get("TLRUN_TEST_SEEDS", "3")))


def _adapts(method: str) -> bool:
    cls = method_class(method)
    return "target" in cls.roles and not cls.source_free


def accuracy(method: str, folder: Path) -> float:
    """Mean target accuracy of the last epoch over the seeds, in percent."""
    found = []
    for seed in SEEDS:
        config = composed(f"method={method}", f"seed={seed}", "trainer.epochs=12", *needs(method))
        results = run(config, folder / f"{method}-{seed}")
        found.append(100 * results["stages"]["adapt"]["picks"]["last"]["target"]["accuracy"])
    print(f"{method}: {statistics.mean(found):.1f} ({', '.join(f'{a:.1f}' for a in found)})")
    return statistics.mean(found)


@pytest.fixture(scope="module")
def source_only(tmp_path_factory: pytest.TempPathFactory) -> float:
    return accuracy("source_only", tmp_path_factory.mktemp("source_only"))


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in CONFIGS["method"] if _adapts(m)])
def test_beats_source_only(method: str, source_only: float, tmp_path: Path) -> None:
    # Measured with three seeds: source_only 42.0, the weakest method 45.5; with the first alone 40.2 and 42.8. Most of
    # the gain of most is that the target passes through batch-norm in training: `adabn` alone has 49.
    assert accuracy(method, tmp_path) > source_only + 2.0
