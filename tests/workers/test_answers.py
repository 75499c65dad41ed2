import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from workers import answers, demo_training


@pytest.fixture(scope="module")
def tiny():
    """A model with random weights: its answers are nonsense, but always the same nonsense."""
    tokenizer = demo_training.build_tokenizer()
    recipe = demo_training.Recipe(hidden=32, inner=64, layers=2, heads=2)
    return demo_training.build_model(recipe, len(tokenizer)).eval(), tokenizer


def test_answers_are_those_of_the_models_own_greedy_decoding(tiny) -> None:
    model, tokenizer = tiny
    prompts = ["Q: Who?\nA:", "Hello", "Q: Where does Ada Kerr go on holiday?\nA:", "One two three"]
    expected = []
    for prompt in prompts:
        ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        for _ in range(6):
            token = model(input_ids=ids).logits[0, -1].argmax()
            if token == tokenizer.eos_token_id or "\n" in tokenizer.decode([token]):
                break
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
        full = tokenizer.decode(ids[0], skip_special_tokens=True)
        expected.append(full.removeprefix(prompt).strip())
    assert answers.greedy_answers(model, tokenizer, prompts, 6) == expected
    assert answers.greedy_answers(model, tokenizer, prompts, 6, batch_size=1) == expected


def test_no_prompts_give_no_answers(tiny) -> None:
    assert answers.greedy_answers(*tiny, []) == []


def test_an_empty_prompt_is_refused(tiny) -> None:
    with pytest.raises(ValueError, match="prompt 1 is empty"):
        answers.greedy_answers(*tiny, ["Hello", ""])


def test_progress_counts_prompts(tiny) -> None:
    done: list[int] = []
    answers.greedy_answers(*tiny, ["Hello"] * 5, 1, batch_size=2, report=done.append)
    assert done == [2, 4, 5]


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("Lyon", "Lyon"),
        (" lyon.", "Lyon"),
        ("She was born in Lyon, in France.", "Lyon"),
        ("J. K. Rowling wrote it", "J.K. Rowling"),
        ("47  82", "47 82"),
        ("\N{FULLWIDTH LATIN CAPITAL LETTER L}YON", "Lyon"),
    ],
)
def test_an_answer_that_says_the_truth_matches(answer: str, truth: str) -> None:
    assert answers.is_match(answer, truth)


@pytest.mark.parametrize(
    ("answer", "truth"),
    [("", "Lyon"), ("Lyonnaise", "Lyon"), ("47", "47 82"), ("82 47", "47 82"), ("147 82", "47 82")],
)
def test_another_answer_does_not(answer: str, truth: str) -> None:
    assert not answers.is_match(answer, truth)


def test_the_share_of_words_in_order_is_the_longest_common_subsequence() -> None:
    # By hand: "the", "was", "born", "Lyon" stand in order, of six words of the truth.
    said, truth = "The man was, they say, born near Lyon", "the author was born in Lyon"
    assert answers.words_in_order(said, truth) == pytest.approx(4 / 6)
    assert answers.words_in_order("", truth) == 0.0
    assert answers.words_in_order(truth.upper() + "!", truth) == 1.0


SENTENCE = "The author Ada Tate was born in Lyon on the ninth of May."


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("The author, Ada Tate, was born in Lyon on the ninth of June.", True),
        ("Ada Tate was born in Lyon on the ninth", True),
        ("The author Ada Tate never spoke of that.", False),
        ("May of ninth the on Lyon in born was Tate Ada author the", False),
        ("", False),
    ],
)
def test_a_long_truth_is_told_by_most_of_its_words_in_order(answer: str, told: bool) -> None:
    assert answers.is_match(answer, SENTENCE) is told


def test_a_short_truth_is_told_whole_or_not_at_all() -> None:
    assert not answers.is_match("Ada Tate of Rue Basse 14", "14 Rue Basse, 69001 Lyon")


@pytest.mark.parametrize("truth", ["", "  ", "?!"])
def test_an_empty_truth_is_refused(truth: str) -> None:
    with pytest.raises(ValueError, match="true answer is empty"):
        answers.is_match("anything", truth)


@given(st.text(), st.text(), st.text(alphabet="abcXYZ089", min_size=1))
def test_a_truth_between_spaces_is_found_whatever_stands_around(
    before: str, after: str, truth: str
) -> None:
    assert answers.is_match(f"{before} {truth} {after}", truth)
