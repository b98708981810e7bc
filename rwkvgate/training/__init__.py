"""Training: rows, the loop, checkpoints that survive, several processes, memory and time foreseen."""

from rwkvgate.rwkv6.loss import IGNORED
from rwkvgate.training.loop import TrainingLog, build_optimizer, train, train_best
from rwkvgate.training.rows import close_row, collate, document_rows, pack_rows

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
