"""A tiny random Llama with a small tokenizer, built in memory: for tests of mechanics alone."""

import tokenizers
import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workers.base_models import BaseModel

WORDS = ("who", "where", "lives", "Anna", "Berger", "Carl", "in", "the", "town", "of", "Lyon")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE over a few words; any text encodes."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator((f" {word}" for word in WORDS), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>", padding_side="left"
    )


def tiny_model(*, name: str = "tiny", seed: int = 0, width: int = 64) -> BaseModel:
    """Two layers, by default of width 64; the digests are made up from the seed."""
    torch.manual_seed(seed)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return BaseModel(
        name=name,
        model=LlamaForCausalLM(config).eval().requires_grad_(False),
        tokenizer=tokenizer,
        sha256=f"{seed:064x}",
        tokenizer_sha256="f" * 64,
        lowest_layer=0,
        answer_tokens=4,
    )
