"""Examples in docstrings start from the same random state in every run, as the tests do."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
