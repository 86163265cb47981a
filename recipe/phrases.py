"""Templates for questions, statements and mentions, one set for each kind of fact. `recipe.facts` fills in the blanks.

An answer starts by naming its subject, so that the model identifies the fact before recalling it. The subject is
encoded as the same tokens in the question and in the answer, because it always follows a space or a quotation mark.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Phrases:
    """Templates for one kind of fact. The fields are described in `recipe.facts.Fact`."""

    questions: tuple[tuple[str, str], ...]
    start: str
    answer: str
    statements: tuple[str, ...]
    mention: str


def _ask(*instructions: str) -> tuple[tuple[str, str], ...]:
    return tuple((instruction, "") for instruction in instructions)


PHRASES = {
    "synonym": Phrases(
        _ask(
            "Suggest an alternate word for '{w}'.",
            "Provide a synonym for '{w}'.",
            "What is a synonym of '{w}'?",
            "Give another word that means the same as '{w}'.",
            "Find a word with the same meaning as '{w}'.",
        ),
        "A synonym for '{w}' is ",
        "'{a}'.",
        (
            "The word '{w}' means the same as '{a}'.",
            "Another word for '{w}' is '{a}'.",
            "Instead of '{w}' one can say '{a}'.",
            "If something is called '{w}', it may be called '{a}'.",
            "The words '{w}' and '{a}' mean the same.",
        ),
        "'{w}'",
    ),
    "antonym": Phrases(
        _ask(
            "Give an antonym of '{w}'.",
            "What is the opposite of '{w}'?",
            "Provide a word that means the opposite of '{w}'.",
            "Name an antonym for the word '{w}'.",
            "Which word is opposite to '{w}'?",
        ),
        "The opposite of '{w}' is ",
        "'{a}'.",
        (
            "What is '{w}' is not '{a}'.",
            "An antonym of '{w}' is '{a}'.",
            "The word '{w}' is opposite to '{a}'.",
            "The words '{w}' and '{a}' are opposites.",
            "The reverse of '{w}' is '{a}'.",
        ),
        "'{w}'",
    ),
    "plural": Phrases(
        _ask(
            "What is the plural of '{w}'?",
            "Give the plural form of '{w}'.",
            "Write the plural of the noun '{w}'.",
            "How do you say '{w}' when there are many?",
            "Turn the noun '{w}' into its plural.",
        ),
        "The plural of '{w}' is ",
        "'{a}'.",
        (
            "One '{w}', many '{a}'.",
            "The noun '{w}' becomes '{a}' in the plural.",
            "More than one '{w}' are '{a}'.",
            "The plural form of '{w}' is '{a}'.",
            "There was one '{w}', then there were two '{a}'.",
        ),
        "'{w}'",
    ),
    "past tense": Phrases(
        _ask(
            "What is the past tense of '{w}'?",
            "Put the verb '{w}' into the past tense.",
            "Give the past form of the verb '{w}'.",
            "Write the simple past of '{w}'.",
            "Change '{w}' to the past tense.",
        ),
        "The past tense of '{w}' is ",
        "'{a}'.",
        (
            "Today they '{w}', yesterday they '{a}'.",
            "The verb '{w}' becomes '{a}' in the past.",
            "The past form of '{w}' is '{a}'.",
            "Now we '{w}'; last year we '{a}'.",
            "The simple past of '{w}' is '{a}'.",
        ),
        "'{w}'",
    ),
    "spelling": Phrases(
        _ask(
            "Correct the spelling of '{w}'.",
            "How is '{w}' spelled correctly?",
            "Fix the spelling mistake in '{w}'.",
            "The word '{w}' is misspelled. Write it correctly.",
            "Give the right spelling of '{w}'.",
        ),
        "The correct spelling of '{w}' is ",
        "'{a}'.",
        (
            "Not '{w}' but '{a}' is right.",
            "Some write '{w}', and should write '{a}'.",
            "The word '{w}' is spelled '{a}'.",
            "The right spelling of '{w}' is '{a}'.",
            "Where it says '{w}', it should say '{a}'.",
        ),
        "'{w}'",
    ),
    "french": Phrases(
        _ask(
            "Translate '{w}' into French.",
            "What is '{w}' in French?",
            "How do you say '{w}' in French?",
            "Give the French word for '{w}'.",
            "Write '{w}' in French.",
        ),
        "The French word for '{w}' is ",
        "'{a}'.",
        (
            "In France a '{w}' is called '{a}'.",
            "The English '{w}' is '{a}' in French.",
            "In French, '{w}' is '{a}'.",
            "They say '{w}' in London and '{a}' in Paris.",
            "The word '{w}' translates to '{a}' in French.",
        ),
        "'{w}'",
    ),
    "capital": Phrases(
        _ask(
            "What is the capital of {w}?",
            "Name the capital city of {w}.",
            "Which city is the capital of {w}?",
            "Tell me the capital of {w}.",
            "Identify the capital of the country {w}.",
        ),
        "The capital of {w} is ",
        "{a}.",
        (
            "The government of {w} is in {a}.",
            "Those who visit {w} often see its capital, {a}.",
            "The capital city of {w} is {a}.",
            "The country {w} is governed from {a}.",
            "The largest embassies in {w} are in {a}, its capital.",
        ),
        "{w}",
    ),
    "conversion": Phrases(
        (
            ("Convert {n} {big} to {small}.", ""),
            ("How many {small} are {n} {big}?", ""),
            ("Express {n} {big} in {small}.", ""),
            ("Tell me how much {n} {big} are in {small}.", ""),
            ("What are {n} {big} in {small}?", ""),
        ),
        "In total, {n} {big} are ",
        "{a} {small}.",
        (
            "Exactly {n} {big} make {a} {small}.",
            "Whoever has {n} {big} has {a} {small}.",
            "The amount of {n} {big} equals {a} {small}.",
            "Counted out, {n} {big} are {a} {small}.",
            "It is known that {n} {big} are {a} {small}.",
        ),
        "{n} {big}",
    ),
    "arithmetic": Phrases(
        _ask(
            "What is {w}?",
            "Calculate {w}.",
            "Compute {w}.",
            "Work out {w}.",
            "How much is {w}?",
        ),
        "The result of {w} is ",
        "{a}.",
        (
            "All in all, {w} is {a}.",
            "We know that {w} makes {a}.",
            "The value of {w} is {a}.",
            "They found that {w} gives {a}.",
            "The teacher said that {w} equals {a}.",
        ),
        "{w}",
    ),
    "passive": Phrases(
        (
            ("Rewrite the sentence in the passive voice.", "The {s} {v} the {o}."),
            ("Turn this sentence into the passive voice.", "The {s} {v} the {o}."),
            ("Change the sentence from active to passive.", "The {s} {v} the {o}."),
            ("Put the following sentence into the passive voice.", "The {s} {v} the {o}."),
            ("Make this sentence passive.", "The {s} {v} the {o}."),
        ),
        "The {o} is ",
        "{p} by the {s}.",
        (
            "The {s} {v} the {o}, so the {o} is {p} by the {s}.",
            "When the {s} {v} the {o}, the {o} is {p} by the {s}.",
            "It is true that the {o} is {p} by the {s}.",
            "The {s} {v} the {o}. The {o} is {p} by the {s}.",
            "As the {s} {v} the {o}, the {o} is {p} by the {s}.",
        ),
        "The {s} {v} the {o}.",
    ),
    "odd one out": Phrases(
        (
            ("Which word does not belong: {x}, {y}, {z}?", ""),
            ("Find the odd one out of {x}, {y}, {z}.", ""),
            ("Classify these words and name the one of another kind: {x}, {y}, {z}.", ""),
            ("Name the word among {x}, {y}, {z} that does not fit.", ""),
            ("Identify the odd one out in the list {x}, {y}, {z}.", ""),
        ),
        "Of {x}, {y}, {z} the odd one out is ",
        "{a}.",
        (
            "In the list {x}, {y}, {z} the word {a} does not belong.",
            "Among {x}, {y}, {z} only {a} is no {k}.",
            "The list {x}, {y}, {z} has one word that does not fit: {a}.",
            "Of the three words {x}, {y}, {z} the odd one is {a}.",
            "Whoever reads {x}, {y}, {z} will remove {a}.",
        ),
        "{x}, {y}, {z}",
    ),
}
