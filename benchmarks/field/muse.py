"""MUSE (arXiv 2407.06460, CC BY 4.0), News or Books: verbatim text, knowledge, privacy leakage.

Read is one corpus's folder as `constants.py` of swj0419/muse_bench names its files (splits of the
hub's muse-bench/MUSE-News and MUSE-Books): `verbmem/forget.json` with {"prompt", "gt"}; `knowmem/`
`forget_qa.json`, `forget_qa_icl.json`, `retain_qa.json`, `retain_qa_icl.json` with {"question",
"answer"} (the `_icl` ones are worked examples put before each question); `privleak/` `forget.json`,
`retain.json`, `holdout.json`, lists of texts or of {"text"}. Older copies call "retain" "retain2".

As in MUSE's own code texts and questions go in plain, without a chat's turns. Three differences: no
blank after "Answer:" (byte-level tokenizers would read another token), ROUGE-L compares words in
compatibility form, and what exceeds the model's context is cut.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.field import Entry, check_files, read_entries, spread
from benchmarks.field.figures import context, continuations, rouge_l_f1, text_logps
from workers.base_models import BaseModel
from workers.probes.membership import MIN_K, lowest
from workers.statistics import auc

VERBATIM_TOKENS, ANSWER_TOKENS = 128, 32
FILES = (
    "verbmem/forget.json",
    "knowmem/forget_qa.json",
    "knowmem/forget_qa_icl.json",
    "knowmem/retain_qa.json",
    "knowmem/retain_qa_icl.json",
    "privleak/forget.json",
    "privleak/retain.json",
    "privleak/holdout.json",
)
_AFTER_ANSWER = re.compile(r"\n\n|\nQuestion|Question:")
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Data:
    """Prompts with what follows them; questions with answers, and worked examples; texts."""

    verbatim: Pairs
    forget_qa: Pairs
    forget_examples: Pairs
    retain_qa: Pairs
    retain_examples: Pairs
    forget: tuple[str, ...]
    retain: tuple[str, ...]
    holdout: tuple[str, ...]


def read(folder: Path) -> Data:
    """Raises FieldDataError."""
    check_files(folder, FILES, about="the folder of one corpus of the public data set MUSE")
    return Data(
        verbatim=_pairs(folder, "verbmem/forget.json", ("prompt", "gt")),
        forget_qa=_pairs(folder, "knowmem/forget_qa.json"),
        forget_examples=_pairs(folder, "knowmem/forget_qa_icl.json"),
        retain_qa=_pairs(folder, "knowmem/retain_qa.json"),
        retain_examples=_pairs(folder, "knowmem/retain_qa_icl.json"),
        forget=tuple(map(_text, read_entries(folder, "privleak/forget.json"))),
        retain=tuple(map(_text, read_entries(folder, "privleak/retain.json"))),
        holdout=tuple(map(_text, read_entries(folder, "privleak/holdout.json"))),
    )


def _pairs(folder: Path, name: str, keys: tuple[str, str] = ("question", "answer")) -> Pairs:
    one, other = keys
    return tuple((entry.text(one), entry.text(other)) for entry in read_entries(folder, name))


def _text(entry: Entry) -> str:
    return entry.text("text") if isinstance(entry.value, dict) else entry.whole()


def limited(data: Data, limit: int | None) -> Data:
    """At most `limit` of each part; all worked examples."""
    parts = ("verbatim", "forget_qa", "retain_qa", "forget", "retain", "holdout")
    return replace(data, **{name: spread(getattr(data, name), limit) for name in parts})


def measure(data: Data, base: BaseModel) -> dict[str, Any]:
    """VerbMem, KnowMem on both sides (mean ROUGE-L F1), and what PrivLeak is made of: how often a
    text to be forgotten is less likely (Min-K 40%) than one never seen."""
    tokenizer = base.tokenizer
    told = continuations(
        base, [tokenizer(prompt)["input_ids"] for prompt, _ in data.verbatim], VERBATIM_TOKENS
    )
    truths = [
        tokenizer.decode(tokenizer(truth, add_special_tokens=False)["input_ids"][:VERBATIM_TOKENS])
        for _, truth in data.verbatim
    ]
    parts = (data.forget, data.retain, data.holdout)
    forget, retain, holdout = (
        [-lowest(p, MIN_K) for p in text_logps(base, part)] for part in parts
    )
    return {
        "verbmem": _mean_f1(told, truths),
        "knowmem_forget": _knowledge(base, data.forget_qa, data.forget_examples),
        "knowmem_retain": _knowledge(base, data.retain_qa, data.retain_examples),
        "min_k_40": {
            "n": [len(part) for part in parts],
            "context": context(base),
            "forget_over_holdout": auc(forget, holdout).value,
            "retain_over_holdout": auc(retain, holdout).value,
        },
    }


def _knowledge(base: BaseModel, asked: Pairs, examples: Pairs) -> dict[str, Any]:
    shots = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in examples)
    prompts = [f"{shots}Question: {question}\nAnswer:" for question, _ in asked]
    said = continuations(
        base, [base.tokenizer(prompt)["input_ids"] for prompt in prompts], ANSWER_TOKENS
    )
    return _mean_f1([answered(text) for text in said], [a for _, a in asked])


def answered(text: str) -> str:
    """What comes before the next question that a model may ask itself."""
    return _AFTER_ANSWER.split(text)[0]


def _mean_f1(said: Sequence[str], truths: Sequence[str]) -> dict[str, Any]:
    values = [rouge_l_f1(text, truth) for text, truth in zip(said, truths, strict=True)]
    return {"n": len(values), "rouge_l_f1": fmean(values)}


def privacy_leakage(
    own: Mapping[str, Any], control: Mapping[str, Any] | None
) -> dict[str, float | str | None]:
    """PrivLeak in percent of the control's area: about -100 where nothing is forgotten, 0 as for a
    model that never saw the texts, above 0 where they are conspicuously unlikely."""
    if control is None:
        why = "not measured: it is a difference from a model retrained without the texts; give one "
        return {"value": None, "why": why + "with --control"}
    never = control["min_k_40"]["forget_over_holdout"]
    if never == 0:
        why = "not measured: the control finds every text to be forgotten likelier than any other"
        return {"value": None, "why": why}
    return {"value": 100 * (own["min_k_40"]["forget_over_holdout"] - never) / never, "why": None}
