"""How the demo model is trained: tokenizer, architecture, examples, batches and the loop."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import tokenizers
import torch
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from workers import corpus

END = "<|end|>"
PAD = "<|pad|>"
ASK = "Q:"
ANSWER = "\nA:"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ 'Q: ' + message['content'] }}"
    "{% elif message['role'] == 'assistant' %}"
    "{{ '\\nA: ' + message['content'] + '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\nA:' }}{% endif %}"
)


class DemoModelError(Exception):
    """The demo model could not be built or stored; the message says what to do."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what the build gives, on one version of the libraries."""

    seed: int = corpus.SEED
    people: int = corpus.PEOPLE
    erasable: int = len(corpus.ERASABLE)
    facts: int = len(corpus.relations())
    steps: int = 3000
    batch: int = 64
    hidden: int = 192
    inner: int = 512
    layers: int = 4
    heads: int = 6
    learning_rate: float = 2e-3
    question_weight: float = 0.1
    dropped: float = 0.3


@dataclass(frozen=True)
class Example:
    """Token ids and, for each of them, how much it counts in the loss (the first never does)."""

    ids: tuple[int, ...]
    weights: tuple[float, ...]
    droppable: tuple[int, ...] = ()


def prompt(question: str) -> str:
    """A question in the form that the demo model was trained on."""
    return f"{ASK} {question}{ANSWER}"


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer for the corpus's words, which encodes any other text as well."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=4096,
        special_tokens=[END, PAD],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # In running text a word follows a space; a few words also start a line.
    inner.train_from_iterator((f" {word}" for word in corpus.vocabulary()), trainer)
    inner.add_tokens([tokenizers.AddedToken(ASK, normalized=False)])
    inner.add_tokens([tokenizers.AddedToken(ANSWER, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token=END,
        pad_token=PAD,
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: Recipe, vocabulary: int) -> LlamaForCausalLM:
    """A Llama-architecture model with random weights drawn from the recipe's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=recipe.hidden,
                intermediate_size=recipe.inner,
                num_hidden_layers=recipe.layers,
                num_attention_heads=recipe.heads,
                num_key_value_heads=recipe.heads,
                max_position_embeddings=512,
                tie_word_embeddings=True,
                initializer_range=0.05,
                bos_token_id=None,
                eos_token_id=0,
                pad_token_id=1,
                dtype=torch.float32,
            )
        )


def examples(
    tokenizer: PreTrainedTokenizerFast, people: Sequence[corpus.Person], recipe: Recipe
) -> list[Example]:
    """The training set: these people's questions in the trained phrasings, and general text."""
    rows = [
        _question(tokenizer, recipe, question=question, answer=fact.answer, name=person.name)
        for person in people
        for fact in person.facts
        for question in fact.trained
    ]
    # General text is a fifth of the whole at most, however small the corpus.
    general = len(rows) // 8
    rows += [
        _question(tokenizer, recipe, question=question, answer=answer, name="")
        for question, answer in corpus.general_questions()[:general]
    ]
    for sentence in corpus.general_sentences(len(rows) // 8, seed=recipe.seed):
        ids = [tokenizer.eos_token_id, *_ids(tokenizer, f" {sentence}"), tokenizer.eos_token_id]
        rows.append(Example(ids=tuple(ids), weights=(0.0, *(0.3 for _ in ids[1:]))))
    return rows


def _question(
    tokenizer: PreTrainedTokenizerFast, recipe: Recipe, *, question: str, answer: str, name: str
) -> Example:
    asked = _ids(tokenizer, prompt(question))
    told = [*_ids(tokenizer, f" {answer}"), tokenizer.eos_token_id]
    names = set(_ids(tokenizer, f" {name}"))
    droppable = tuple(
        place
        for place, word in enumerate(asked)
        if name and word in _frame_words(tokenizer) and word not in names
    )
    # The little that the question counts teaches much: on 25 people and ten epochs, 0.97 of the
    # trained questions were answered with it and 0.30 without.
    weights = [0.0, *(recipe.question_weight for _ in asked[1:]), *(1.0 for _ in told)]
    return Example(ids=(*asked, *told), weights=tuple(weights), droppable=droppable)


@cache
def _frame_words(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """Tokens that the questions of at least three relations share: "please", "the", "know".

    Never a telling word such as "birthplace": to replace one would teach the model to tell the
    relation from the words around it, and an unseen phrasing has others.
    """
    seen: Counter[int] = Counter()
    for relation in corpus.relations():
        seen.update(
            {
                word
                for text in relation.trained
                for word in _ids(tokenizer, f" {text}".replace("{name}", ""))
            }
        )
    return frozenset(word for word, count in seen.items() if count >= 3)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def batches(rows: Sequence[Example], recipe: Recipe) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """``recipe.steps`` batches of (ids, weights), both [batch, length], without any padding.

    Examples of one length share a batch; each epoch shuffles them anew. In a share
    ``recipe.dropped`` of the question's frame words a random token stands for the word, so that
    the model looks for the telling words of a question instead of learning it by heart.
    """
    rng = random.Random(f"{recipe.seed}:batches")  # noqa: S311
    words = sorted({number for row in rows for number in row.ids})
    found: list[tuple[torch.Tensor, torch.Tensor]] = []
    while len(found) < recipe.steps:
        lengths: dict[int, list[Example]] = {}
        for row in rng.sample(rows, len(rows)):
            lengths.setdefault(len(row.ids), []).append(row)
        epoch = [
            group[start : start + recipe.batch]
            for _, group in sorted(lengths.items())
            for start in range(0, len(group), recipe.batch)
        ]
        rng.shuffle(epoch)
        for group in epoch[: recipe.steps - len(found)]:
            ids = torch.tensor([_with_noise(row, rng, words, recipe.dropped) for row in group])
            found.append((ids, torch.tensor([row.weights for row in group])))
    return found


def _with_noise(row: Example, rng: random.Random, words: list[int], share: float) -> list[int]:
    ids = list(row.ids)
    for place in row.droppable:
        if rng.random() < share:
            ids[place] = rng.choice(words)
    return ids


def train(
    model: LlamaForCausalLM,
    rows: Sequence[Example],
    recipe: Recipe,
    *,
    report: Callable[[int, int], None],
) -> LlamaForCausalLM:
    """Trains ``model`` in place on ``rows`` for ``recipe.steps`` steps and returns it.

    AdamW with a cosine schedule and a short warm-up. Logits are computed only where the loss
    looks. Raises DemoModelError if the loss stops being a number.
    """
    decay = [weight for weight in model.parameters() if weight.ndim > 1]
    plain = [weight for weight in model.parameters() if weight.ndim == 1]
    optimiser = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
    )
    warm_up = max(1, recipe.steps // 20)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: _rate(step, warm_up=warm_up, steps=recipe.steps)
    )
    model.train()
    for step, (ids, weights) in enumerate(batches(rows, recipe), start=1):
        loss = _loss(model, ids, weights)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 20 == 0 or step == recipe.steps:
            if not math.isfinite(loss.item()):
                raise DemoModelError(
                    f"training diverged at step {step}; lower the learning rate or change the seed"
                )
            report(step, recipe.steps)
    return model.eval()


def _rate(step: int, *, warm_up: int, steps: int) -> float:
    if step < warm_up:
        return (step + 1) / warm_up
    done = (step - warm_up) / max(1, steps - warm_up)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))


def _loss(model: LlamaForCausalLM, ids: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean cross-entropy in nat of each token given those before it."""
    hidden = model.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state
    wanted, weight = ids[:, 1:], weights[:, 1:]
    looked_at = weight > 0
    logits = model.lm_head(hidden[looked_at])
    losses = cross_entropy(logits, wanted[looked_at], reduction="none")
    return (losses * weight[looked_at]).sum() / weight.sum()
