"""What every test shares: one thread per process, and a progress file that is not the reader's."""
import pytest
import torch
import torch.distributed.tensor  # assert_close imports it when first called: seconds that would be counted as some test's own

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DRIFTLAB_HOME", str(tmp_path_factory.mktemp("home")))
