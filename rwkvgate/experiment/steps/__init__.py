"""The steps of a run, each made when it is needed and not finished yet.

Every `ensure_*` function returns a step's outcome and makes it first where it is missing or belongs to other inputs, so
a notebook runs alone, in any order, and a second run repeats nothing. What a step requires is stated in
`rwkvgate.experiment.order`.
"""

from __future__ import annotations

from rwkvgate.experiment.steps.arm import ensure_arm as ensure_arm
from rwkvgate.experiment.steps.base import ensure_base as ensure_base
from rwkvgate.experiment.steps.evaluation import ensure_evaluation as ensure_evaluation
from rwkvgate.experiment.steps.probes import ensure_probes as ensure_probes
from rwkvgate.experiment.steps.texts import Texts as Texts
from rwkvgate.experiment.steps.texts import ensure_texts as ensure_texts
from rwkvgate.experiment.steps.times import ensure_times as ensure_times
