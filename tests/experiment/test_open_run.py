"""Parameters that papermill injects: known ones pass, misspelt ones are refused, other cells are left alone."""

from __future__ import annotations

import pytest

from rwkvgate.experiment.open_run import cells_so_far
from rwkvgate.experiment.parameters import refuse_unknown
from rwkvgate.gate.validation import SettingsError


def test_known_parameters_and_other_cells_pass() -> None:
    refuse_unknown(["", "steps = 3", "# Parameters\nprofile = 'smoke'\ntraining = {'steps': 3}\n", "print(seed)"])
    assert cells_so_far() == []


def test_a_misspelt_one_is_named_with_what_was_meant() -> None:
    with pytest.raises(SettingsError, match="unknown parameter 'traning'; did you mean 'training'"):
        refuse_unknown(["seed = 1", "# Parameters\nseed = 2\ntraning = {}"])
    with pytest.raises(SettingsError, match="unknown parameter 'zzz'; allowed: arm"):
        refuse_unknown(["# Parameters\nzzz = 2"])
