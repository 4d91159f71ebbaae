"""What several test modules share: a toy dataset, and runs trained on it once a session."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    """Folder of the toy dataset; read only."""
    from toy import write_toy

    return write_toy(tmp_path_factory.mktemp("toy") / "dataset")


@pytest.fixture(scope="session")
def toy_runs(tmp_path_factory, toy_data) -> Path:
    """Folder of one finished run of every training verb; read only."""
    from toy import train_all

    return train_all(toy_data, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session", params=["hybrid", "vision"])
def world(request, tmp_path_factory) -> tuple[str, Path]:
    """Mode, and a folder with a dataset of pictures, its eyes, and one run of every verb behind them; read only."""
    from toy_eyes import train_with_eyes

    folder = tmp_path_factory.mktemp(request.param)
    train_with_eyes(folder, request.param)
    return request.param, folder
