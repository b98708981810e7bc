"""Measured tables, as the tests of the metrics make them."""

from tests.metrics.conftest import *  # noqa: F403
