"""Studies: what a run measures once over some of its arms together, one study a file."""

from __future__ import annotations

from rwkvgate.experiment.studies.registry import STUDIES as STUDIES
from rwkvgate.experiment.studies.registry import Studies as Studies
from rwkvgate.experiment.studies.registry import ensure_studies as ensure_studies
from rwkvgate.experiment.studies.registry import no_studies as no_studies
