"""What every test shares: one thread per process, and a progress file that is not the reader's."""
import signal

import pytest
import torch
import torch.distributed.tensor  # assert_close imports it when first called: seconds that would be counted as some test's own

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("DRIFTLAB_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture
def at_a_terminal():
    """Ctrl-C interrupts, as at a terminal. A shell has what it starts in the background ignore it, and so would our children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
