"""Search ranking, and the word-level diff of two texts."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.views.search import differing_words, search

PROMPTS = [
    ("What is a synonym of 'sad'?", "", "A word close to 'sad' is 'unhappy'."),
    ("Suggest an alternate word for 'happy'.", "", "joyful."),
    ("What is the opposite of 'happy'?", "", "It is 'sad'."),
    ("Provide a synonym for 'happy'.", "", "One is 'cheerful'."),
    ("Give an antonym of 'sad'.", "", "An antonym is 'happy'."),
    ("Name an antonym of 'bright'.", "", "dull"),
    ("Give another word for 'quick'.", "", "fast"),
    ("Find a synonym for 'begin'.", "", "start"),
    ("What is the capital city of Norway?", "", "Oslo is the capital of Norway."),
    ("What is the capital of Peru?", "", "Lima."),
    ("Name the largest lake of Canada.", "", "Great Bear Lake."),
    ("Change 30 kilometers into meters.", "", "30 kilometers are 30000 meters."),
    ("Convert 5 pounds to kilograms.", "", "About 2.27 kilograms."),
    ("How many grams are in a kilogram?", "", "1000."),
    ("Translate the phrase into French.", "Good night", "Bonne nuit"),
    ("Say this in German.", "Good morning", "Guten Morgen"),
    ("Turn this into a question.", "The train is late.", "Is the train late?"),
    ("Rewrite the sentence in the passive voice.", "The boy kicked the ball.", "It was kicked."),
    ("Rewrite the sentence in the active voice.", "The cake was eaten by Tim.", "Tim ate it."),
    ("Correct the spelling.", "I recieve many leters.", "I receive many letters."),
    ("Fix the grammar of this sentence.", "She don't like tea.", "She doesn't like tea."),
    ("Write a rhyme about a cat.", "", "A cat in a hat sat on a mat."),
    ("Describe a sonnet.", "", "A poem of fourteen lines with a rhyme scheme."),
    ("Give a simile for 'brave'.", "", "As brave as a lion."),
    ("Write a metaphor about time.", "", "Time is a thief."),
    ("Sort the animals into mammals and birds.", "owl, bat, whale", "Mammals: bat, whale"),
    ("Which of these does not belong?", "rose, oak, granite", "granite"),
    ("Classify the words by their kind.", "run, blue, table", "verb, adjective, noun"),
    ("Explain photosynthesis.", "", "Plants make sugar out of light."),
    ("What do plants need to grow?", "", "Light and water, for photosynthesis."),
    ("What is the chemical formula of table salt?", "", "NaCl"),
    ("State the boiling point of water.", "", "100 degrees Celsius."),
    ("State the freezing point of water.", "", "0 degrees Celsius."),
    ("Who wrote 'Don Quixote'?", "", "Miguel de Cervantes."),
    ("What is the plural of 'goose'?", "", "geese"),
    ("Give the past tense of 'swim'.", "", "swam"),
    ("Sum up the story in one line.", "A fox could not reach the grapes.", "Sour grapes."),
    ("List three kinds of cheese.", "", "Gouda, Brie, Feta"),
    ("Calculate the square root of 81.", "", "9"),
    ("Name the author of the longest novel you know.", "", "Proust"),
]
TEXTS = [" ".join(parts) for parts in PROMPTS]


def matching_instructions(query: str) -> list[str]:
    """Return the matching instructions, best match first."""
    return [PROMPTS[i][0] for i in search(TEXTS, query)]


def test_synonyms_of_happy_rank_above_prompts_about_sad() -> None:
    names = matching_instructions("synonym for happy")
    expected = {"Suggest an alternate word for 'happy'.", "Provide a synonym for 'happy'."}
    assert set(names[:2]) == expected


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("another word for happy", "Suggest an alternate word for 'happy'."),
        ("synonim happpy", "Provide a synonym for 'happy'."),
        ("hpapy synonym", "Provide a synonym for 'happy'."),
        ("opposite of bright", "Name an antonym of 'bright'."),
        ("Norwey", "What is the capital city of Norway?"),
        ("capital of peru", "What is the capital of Peru?"),
        ("passive", "Rewrite the sentence in the passive voice."),
        ("french", "Translate the phrase into French."),
        ("kilometers to meters", "Change 30 kilometers into meters."),
        ("spelling of recieve", "Correct the spelling."),
        ("square roots", "Calculate the square root of 81."),
        ("PLURAL of Goose?!", "What is the plural of 'goose'?"),
        ("freezing water", "State the freezing point of water."),
        ("who wrote don quixote", "Who wrote 'Don Quixote'?"),
        ("goose's plural", "What is the plural of 'goose'?"),
    ],
)
def test_best_match_comes_first(query: str, first: str) -> None:
    assert matching_instructions(query)[0] == first


def test_search_includes_input_and_reference() -> None:
    assert matching_instructions("granite")[0] == "Which of these does not belong?"
    assert matching_instructions("good night")[0] == "Translate the phrase into French."
    assert matching_instructions("Cervantes") == ["Who wrote 'Don Quixote'?"]
    assert matching_instructions("geese")[0] == "What is the plural of 'goose'?"


def test_instruction_matches_rank_above_answer_matches() -> None:
    assert matching_instructions("rhyme") == ["Write a rhyme about a cat.", "Describe a sonnet."]
    assert matching_instructions("photosynthesis")[:2] == [
        "Explain photosynthesis.",
        "What do plants need to grow?",
    ]

    texts = ["Describe a sonnet. It has a rhyme.", "Write a rhyme on a cat, a hat and a mat. Rat."]
    assert search(texts, "rhyme") == [1, 0]


def test_paraphrase_ranks_above_a_shared_word() -> None:
    texts = ["Use 'happy' in a sentence for me.", "Suggest an alternate word for 'happy'."]
    assert search(texts, "synonym for happy") == [1, 0]


def test_word_prefix_matches() -> None:
    assert matching_instructions("photosyn")[0] == "Explain photosynthesis."


def test_common_word_alone_does_not_match() -> None:
    """Half of the prompts contain `for` or `of`."""
    assert not {"Describe a sonnet.", "List three kinds of cheese."} & set(
        matching_instructions("plural of goose")
    )


@pytest.mark.parametrize("query", ["", "   ", "?!", "'"])
def test_empty_query_returns_all_texts_in_order(query: str) -> None:
    assert search(TEXTS, query) == list(range(len(TEXTS)))


def test_unknown_word_matches_nothing() -> None:
    assert search(TEXTS, "zzyzx") == []
    assert search([], "happy") == []
    assert search([""], "happy") == []


def test_equal_texts_keep_their_order() -> None:
    assert search(["a cat", "a dog", "a cat"], "cat") == [0, 2]


@given(st.lists(st.text(max_size=30), max_size=8), st.text(max_size=20))
def test_any_query_returns_valid_positions(texts: list[str], query: str) -> None:
    result = search(texts, query)
    assert len(set(result)) == len(result)
    assert set(result) <= set(range(len(texts)))


@given(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=8), st.data())
def test_every_word_of_a_text_matches_it(texts: list[str], data: st.DataObject) -> None:
    i = data.draw(st.integers(0, len(texts) - 1))
    word = data.draw(st.sampled_from([w.strip("'.?!,:") for w in texts[i].split()]))
    assert i in search(texts, word)


def test_indexing_is_linear_and_cached() -> None:
    texts = [f"{TEXTS[i % len(TEXTS)]} {i} {i * 7919 % 100003:x}" for i in range(5000)]

    def timed(texts: list[str], query: str) -> tuple[float, list[int]]:
        start = time.process_time()
        result = search(texts, query)
        return time.process_time() - start, result

    fifth_s, _ = timed(texts[:1000], "synonym for happy")
    first_s, first = timed(texts, "synonym for happy")
    second_s, _ = timed(list(texts), "what is the opposite of happy")
    assert {first[0] % len(TEXTS), first[1] % len(TEXTS)} <= {1, 3}
    assert first_s < 15 * fifth_s, "quadratic time would take 25 times as long"
    assert second_s < first_s / 2


def test_words_missing_from_the_other_text_are_marked() -> None:
    assert differing_words("The cat sat here.", "A cat sat there") == [
        ("The", True),
        (" cat", False),
        (" sat", False),
        (" here.", True),
    ]


def test_case_and_surrounding_punctuation_are_ignored() -> None:
    marked = differing_words("Paris, it's (very) NICE", "paris it's very nice!")
    assert not any(flag for _, flag in marked)
    assert differing_words("-5", "5") == [("-5", True)]


def test_reordered_words_are_marked() -> None:
    assert sum(flag for _, flag in differing_words("one two three", "three one two")) == 1


@pytest.mark.parametrize("text", ["", " ", "\n\t", "x", "  x", "x \n", " a  b \n c\n\n"])
def test_white_space_is_preserved_and_never_marked(text: str) -> None:
    marked = differing_words(text, "")
    assert "".join(piece for piece, _ in marked) == text
    assert not any(flag for piece, flag in marked if not piece.strip())


@given(st.text(max_size=60), st.text(max_size=60))
def test_joined_words_match_the_text(text: str, other: str) -> None:
    assert "".join(piece for piece, _ in differing_words(text, other)) == text
    assert not any(flag for _, flag in differing_words(text, text))


prose = st.lists(st.sampled_from(["red", "Red.", "blue", "(blue)", "7"]), max_size=8).map(" ".join)


@given(prose, prose)
def test_unmarked_words_do_not_exceed_the_other_text(text: str, other: str) -> None:
    unmarked_counts = [
        sum(not flag for _, flag in differing_words(*text_pair))
        for text_pair in ((text, other), (other, text))
    ]
    assert unmarked_counts[0] <= len(other.split())
    assert unmarked_counts[1] <= len(text.split())
