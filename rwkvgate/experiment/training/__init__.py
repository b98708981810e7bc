"""Training: rows, the loop, checkpoints that survive, several processes, memory and time foreseen."""

from rwkvgate.experiment.training.loop import TrainingLog, build_optimizer, train, train_best
from rwkvgate.experiment.training.rows import close_row, collate, document_rows, pack_rows
from rwkvgate.rwkv6.loss import IGNORED

__all__ = [
    "IGNORED",
    "TrainingLog",
    "build_optimizer",
    "close_row",
    "collate",
    "document_rows",
    "pack_rows",
    "train",
    "train_best",
]
