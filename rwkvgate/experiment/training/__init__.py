"""Training: rows, the loop, checkpoints to resume from, several processes, predicted memory and time."""

from rwkvgate.experiment.training.loop import TrainingLog, train
from rwkvgate.experiment.training.rows import close_row, collate, document_rows, pack_rows
from rwkvgate.rwkv6.loss import IGNORED

__all__ = ["IGNORED", "TrainingLog", "close_row", "collate", "document_rows", "pack_rows", "train"]
