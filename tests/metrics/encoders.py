"""Tiny encoders of transformers with weights that no version of a library decides, and a tokenizer for any script."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, RobertaConfig, RobertaModel

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "a", "san", "found", "dead", "who", "had", "him", "in", "at", "of", "was", "28", "year", "chef", "mall"]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 160,
}


def wordpieces() -> PreTrainedTokenizerFast:
    """BERT's uncased tokenizer over a few words, and the letters of four scripts."""
    letters = string.ascii_lowercase + string.digits + "".join(map(chr, range(0x621, 0x64B)))
    pieces = [*SPECIALS, *WORDS, *letters, *(f"##{letter}" for letter in letters), *string.punctuation]
    pieces += [*"从前有一只狐狸的猫", "🦊", "##🦊"]
    vocabulary = {piece: place for place, piece in enumerate(dict.fromkeys(pieces))}
    inner = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = ("pad", "unk", "cls", "sep", "mask")
    specials: Any = {f"{name}_token": token for name, token in zip(names, SPECIALS, strict=True)}
    return PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=160, **specials)


def bert(seed: int = 0) -> BertModel:
    return drawn(BertModel(BertConfig(vocab_size=len(wordpieces()), **SIZES)), seed)


def roberta(vocab_size: int, seed: int = 0) -> RobertaModel:
    sizes = SIZES | {"max_position_embeddings": 66, "pad_token_id": 1, "type_vocab_size": 1}
    return drawn(RobertaModel(RobertaConfig(vocab_size=vocab_size, **sizes)), seed)


def drawn(model: Any, seed: int) -> Any:
    """Every parameter drawn anew by numpy's legacy generator, whose stream is fixed, in the order of their names."""
    random = np.random.RandomState(seed)
    norms = tuple(name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm))
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.from_numpy(random.standard_normal(tuple(parameter.shape))).to(parameter.dtype)
            parameter.copy_(1 + 0.1 * noise if name.startswith(norms) and name.endswith("weight") else 0.3 * noise)
    return model.eval()
