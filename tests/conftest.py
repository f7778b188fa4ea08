"""What every test shares: no network, one thread, and the folder of shared material when it is there."""

import os
from pathlib import Path

import pytest

# Before any library is imported by a test module.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("OMP_NUM_THREADS", "2")  # the models under test are tiny; more threads only wait
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real images and reference numbers that lies beside the project on a developer's
    machine."""
    if not SHARED.is_dir():
        pytest.skip(
            "there is no folder 'shared' beside the project, so the checks on real material are left out"
        )
    return SHARED
