"""BERTScore (arXiv 1904.09675) as a metric of the `evaluate` library, for encoders that lie on this machine.

Each token of a prediction is matched with the most similar token of its reference, by the cosine of their contextual
embeddings, and the other way round. The numbers are those of the `bert-score` package (0.3.13, without baseline
rescaling) to rounding, and so are its rules: texts are stripped, and cut where the model reads no further; [CLS] and
[SEP] weigh nothing but may be matched; with idf a token weighs log((N + 1) / (n + 1)), N being the references and n
those that hold it. Byte-level tokenizers see a space before the first word, as in the package's published numbers of
RoBERTa; under transformers 5 the package itself no longer puts one there.

It departs from the package in three things: what it says of texts without tokens (see `BertScore`); a match of negative
similarity counts as it is, where the package counts 0 if the batch happened to be padded; and the embeddings of a layer
below the last are taken bare, where the package puts the final norm of those encoders that have one upon them (T5,
ModernBERT; not BERT, RoBERTa, DeBERTa).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn.functional import normalize

from rwkvgate import __version__
from rwkvgate.metrics.evaluate_modules import InMemory
from rwkvgate.metrics.inference import at_least_one, device_of, evaluating

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SCORES = ("precision", "recall", "f1")


class BertScore(InMemory):
    """Precision, recall and F1 of predictions by the cosine similarity of contextual embeddings.

    `compute(predictions=, references=, model=, layer=, idf=False, batch_size=16)` gives `precision`, `recall` and `f1`
    (means over documents, at most 1), `per_document` (a list for each), `documents` (what the means are over),
    `empty_predictions`, `empty_references`, `unweighted`, `truncated`, `notes` and `hash`.

    A prediction without tokens scores 0. A reference without tokens gives nan and is left out of the means; so does a
    pair one side of which weighs nothing (`unweighted`), as when idf knows one reference only and every token is in it.
    Each kind is counted, and told in `notes`. `truncated` counts the texts longer than the model reads.

    Args of `compute`:
        model: a folder or hub name of a transformers encoder, or a pair (model, tokenizer). A folder needs no network,
            and is read once for all calls. Code that comes with a model is never run. A model that was passed in stays
            on its device and in its mode.
        layer: whose output is compared, from 0 (the embeddings) to the number of layers. Scores of different layers
            are not comparable; the `bert-score` package names one for each model it knows (roberta-large: 17).
        idf: weigh tokens by their rarity among the references of this call.
        batch_size: pairs read at once.

    Raises:
        ValueError: the model has no such layer, `batch_size` is below 1, or the model needs code of its own.
        OSError: there is no such folder, and no such model on the hub, or no network.
    """

    about = "BERTScore: greedy matching of contextual embeddings by cosine similarity."

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._held: dict[str, tuple[nn.Module, PreTrainedTokenizerBase]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Models carry hooks that cannot be pickled; one named by its folder is read again.
        return self.__dict__ | {"_held": {}}

    def _score(
        self,
        predictions: list[str],
        references: list[str],
        model: str | Path | tuple[nn.Module, PreTrainedTokenizerBase],
        layer: int,
        idf: bool = False,
        batch_size: int = 16,
    ) -> dict[str, Any]:
        at_least_one(batch_size=batch_size)
        name, network, tokenizer = self._loaded(model)
        depth = int(network.config.num_hidden_layers)
        if not 0 <= layer <= depth:
            raise ValueError(f"layer is {layer}; {name} has the layers 0 to {depth}")
        said, due = _Texts(predictions, network, tokenizer), _Texts(references, network, tokenizer)
        weigh = _rarity(due.ids) if idf else _all_but_ends(tokenizer)
        table = [[math.nan if none else 0.0] * len(SCORES) for none in due.empty]
        rows = [row for row in range(len(table)) if not (said.empty[row] or due.empty[row])]
        # Pairs of like length share a batch: less padding.
        rows.sort(key=lambda row: -max(len(said.ids[row]), len(due.ids[row])))
        with evaluating(network):
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                texts = [ids for row in batch for ids in (said.ids[row], due.ids[row])]
                found = embeddings(network, texts, layer, tokenizer.pad_token_id or 0)
                for row, one, other in zip(batch, found[::2], found[1::2], strict=True):
                    table[row] = _match(one, other, *([*map(weigh, texts.ids[row])] for texts in (said, due)))
        return _summary(table, said, due) | {"hash": _hash(name, layer, idf)}

    def _loaded(self, model: Any) -> tuple[str, nn.Module, PreTrainedTokenizerBase]:
        if isinstance(model, tuple | list):
            network, tokenizer = model
            name = str(getattr(network.config, "_name_or_path", "")) or type(network).__name__
        else:
            name = str(model)
            if name not in self._held:
                from transformers import AutoModel, AutoTokenizer

                # Said outright: without it, a terminal would be asked whether to run the model's own code.
                parts = (kind.from_pretrained(name, trust_remote_code=False) for kind in (AutoModel, AutoTokenizer))
                self._held = {name: tuple(parts)}  # type: ignore[dict-item]
            network, tokenizer = self._held[name]
        if getattr(network.config, "is_encoder_decoder", False):
            network = network.get_encoder()
        # Of a folder only its last part: a hash must not differ from machine to machine.
        return PurePath(name).name if Path(name).is_absolute() or Path(name).is_dir() else name, network, tokenizer


class _Texts:
    """Token ids of texts with their special tokens, which of them are empty, and how many were cut."""

    def __init__(self, texts: Sequence[str], network: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
        longest, space = _longest(network, tokenizer), _leading_space(tokenizer)
        blank = list(tokenizer("")["input_ids"])
        self.ids: list[list[int]] = []
        self.truncated = 0
        for text in map(str.strip, texts):
            ids = list(tokenizer(space + text, truncation=True, max_length=longest)["input_ids"]) if text else blank
            self.ids.append(ids)
            if len(ids) == longest:
                self.truncated += len(tokenizer(space + text, verbose=False)["input_ids"]) > longest
        self.empty = [ids == blank for ids in self.ids]


def embeddings(network: nn.Module, texts: Sequence[Sequence[int]], layer: int, pad_id: int) -> list[Tensor]:
    """Unit vectors of the tokens of each text after `layer` layers: (tokens, channel), float32, in order."""
    width = max(map(len, texts))
    ids = torch.tensor([[*text, *[pad_id] * (width - len(text))] for text in texts], device=device_of(network))
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=ids.device)
    hidden = network(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states[layer]
    return [normalize(hidden[row, : len(text)].float(), dim=-1) for row, text in enumerate(texts)]


def _match(said: Tensor, due: Tensor, said_weights: list[float], due_weights: list[float]) -> list[float]:
    """Precision, recall and F1 of one pair; nan where a side weighs nothing."""
    similarity = said @ due.T
    precision = _weighted(similarity.amax(dim=1), said_weights)
    recall = _weighted(similarity.amax(dim=0), due_weights)
    if math.isnan(precision + recall):
        return [math.nan] * len(SCORES)
    whole = precision + recall
    return [precision, recall, 2 * precision * recall / whole if whole else 0.0]


def _weighted(best: Tensor, weights: list[float]) -> float:
    whole = sum(weights)
    return sum(map(float.__mul__, best.tolist(), weights)) / whole if whole > 0 else math.nan


def _all_but_ends(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], float]:
    ends = {tokenizer.cls_token_id, tokenizer.sep_token_id}
    return lambda token: float(token not in ends)


def _rarity(references: Sequence[Sequence[int]]) -> Callable[[int], float]:
    """idf over the references, empty ones among them; tokens that are in all, such as [CLS], weigh 0."""
    holding = Counter(token for ids in references for token in set(ids))
    return lambda token: math.log((len(references) + 1) / (holding[token] + 1))


def _longest(network: nn.Module, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens the model reads at most, special ones included."""
    limits = [int(tokenizer.model_max_length)]
    positions = int(getattr(network.config, "max_position_embeddings", None) or 0)
    if positions > 0:
        tables = [m for name, m in network.named_modules() if name.endswith("position_embeddings")]
        # RoBERTa counts its positions from behind the padding's.
        before = next((m.padding_idx + 1 for m in tables if getattr(m, "padding_idx", None) is not None), 0)
        limits.append(positions - before)
    return min(limits)


def _leading_space(tokenizer: PreTrainedTokenizerBase) -> str:
    """A space where byte-level tokenizers would take a first word for the middle of one, as `bert-score` has it."""
    from transformers import GPT2Tokenizer, RobertaTokenizer

    bytewise = isinstance(tokenizer, GPT2Tokenizer | RobertaTokenizer)
    return " " if bytewise and not getattr(tokenizer, "add_prefix_space", False) else ""


def _summary(table: list[list[float]], said: _Texts, due: _Texts) -> dict[str, Any]:
    columns = {name: [scores[place] for scores in table] for place, name in enumerate(SCORES)}
    defined = [scores for scores in table if not math.isnan(scores[0])]
    counts = {
        "documents": len(defined),
        "empty_predictions": sum(said.empty),
        "empty_references": sum(due.empty),
        "unweighted": len(table) - len(defined) - sum(due.empty),
        "truncated": said.truncated + due.truncated,
    }
    meanings = {
        "empty_predictions": "predictions without tokens, scored 0 where the reference has some",
        "empty_references": "references without tokens, nan and left out of the means",
        "unweighted": "pairs with a side whose tokens all weigh 0, nan and left out of the means",
        "truncated": "texts cut to what the model reads",
    }
    means = {
        name: sum(scores[place] for scores in defined) / len(defined) if defined else math.nan
        for place, name in enumerate(SCORES)
    }
    notes = [f"{meaning}: {counts[name]}" for name, meaning in meanings.items() if counts[name]]
    return {**means, **counts, "notes": notes, "per_document": columns}


def _hash(name: str, layer: int, idf: bool) -> str:
    """As the package writes it, with this package in place of its version: these need not be its numbers."""
    kind = "idf" if idf else "no-idf"
    return f"{name}_L{layer}_{kind}_version=rwkvgate-{__version__}(hug_trans={transformers.__version__})"
