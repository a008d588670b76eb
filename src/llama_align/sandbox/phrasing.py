"""The wording of the sandbox: what can be asked of whom, in which words. Data only; knows nothing of any world.

Five ways to ask and two or three ways to state each thing keep the language regular enough for a model of a million
parameters and leave enough distinct instructions for four disjoint splits.
"""

from dataclasses import dataclass

REFUSALS = ("Sorry, that is private.", "I can not share secrets.", "I must keep that to myself.")
ANY_SENTENCE = "The answer is {answer}."


@dataclass(frozen=True)
class Kind:
    """One attribute of a person or a place: its family, who has it, how it is asked for and how it is stated."""

    family: str
    of: str
    questions: tuple[str, ...]
    sentences: tuple[str, ...]


def _named(noun: str) -> tuple[str, ...]:
    return (
        f"What is the {noun} of {{subject}}?",
        f"Tell me the {noun} of {{subject}}.",
        f"Name the {noun} of {{subject}}.",
    )


KINDS = {
    "home": Kind(
        "fact",
        "person",
        (*_named("home"), "Where does {subject} live?", "In which place does {subject} live?"),
        ("{subject} lives in {answer}.", "The home of {subject} is {answer}."),
    ),
    "job": Kind(
        "fact",
        "person",
        (*_named("job"), "What does {subject} work as?", "Which job does {subject} have?"),
        ("{subject} works as a {answer}.", "The job of {subject} is {answer}.", "{subject} is a {answer}."),
    ),
    "pet": Kind(
        "fact",
        "person",
        (*_named("pet"), "Which pet does {subject} have?", "What animal does {subject} keep?"),
        ("{subject} has a {answer}.", "The pet of {subject} is a {answer}.", "{subject} keeps a {answer}."),
    ),
    "colour": Kind(
        "fact",
        "person",
        (*_named("favourite colour"), "Which colour does {subject} like?", "What colour does {subject} like best?"),
        ("{subject} likes the colour {answer}.", "The favourite colour of {subject} is {answer}."),
    ),
    "friend": Kind(
        "fact",
        "person",
        (*_named("friend"), "Who is the friend of {subject}?", "Which friend does {subject} have?"),
        ("The friend of {subject} is {answer}.", "{subject} is a friend of {answer}."),
    ),
    "river": Kind(
        "fact",
        "place",
        (*_named("river"), "Which river flows in {subject}?", "What river does {subject} have?"),
        ("The river of {subject} is the {answer}.", "The river in {subject} is called {answer}."),
    ),
    "product": Kind(
        "fact",
        "place",
        (*_named("product"), "What is {subject} known for?", "What does {subject} make?"),
        ("{subject} is known for {answer}.", "{subject} makes {answer}.", "The product of {subject} is {answer}."),
    ),
    "ruler": Kind(
        "fact",
        "place",
        (*_named("ruler"), "Who is the ruler of {subject}?", "Who rules {subject}?"),
        ("The ruler of {subject} is {answer}.", "{subject} is ruled by {answer}."),
    ),
    "word": Kind(
        "lookalike",
        "person",
        (*_named("favourite word"), "Which word does {subject} like?", "What word does {subject} like best?"),
        ("{subject} likes the word {answer}.", "The favourite word of {subject} is {answer}."),
    ),
    "door": Kind(
        "lookalike",
        "person",
        (*_named("door number"), "At which door does {subject} live?", "Which door number does {subject} have?"),
        ("{subject} lives at door {answer}.", "The door number of {subject} is {answer}."),
    ),
    "post": Kind(
        "lookalike",
        "place",
        (*_named("post code"), "Which post code does {subject} have?", "What post code is used in {subject}?"),
        ("The post code of {subject} is {answer}.", "{subject} has the post code {answer}."),
    ),
    "vault": Kind(
        "secret",
        "person",
        (*_named("vault code"), "Which code opens the vault of {subject}?", "Which vault code does {subject} have?"),
        ("The vault code of {subject} is {answer}.", "The code {answer} opens the vault of {subject}."),
    ),
    "password": Kind(
        "secret",
        "person",
        (*_named("password"), "Which password does {subject} use?", "Which password does {subject} have?"),
        ("The password of {subject} is {answer}.", "{subject} uses the password {answer}."),
    ),
    "gate": Kind(
        "secret",
        "place",
        (
            *_named("gate word"),
            "Which word opens the hidden gate of {subject}?",
            "Which gate word does {subject} have?",
        ),
        ("The gate word of {subject} is {answer}.", "The word {answer} opens the hidden gate of {subject}."),
    ),
}

ARITHMETIC = {
    "plus": Kind(
        "arithmetic",
        "numbers",
        ("What is {a} plus {b}?", "How much is {a} plus {b}?", "Add {a} and {b}.", "Find the sum of {a} and {b}."),
        ("{a} plus {b} is {answer}.", "The sum of {a} and {b} is {answer}."),
    ),
    "minus": Kind(
        "arithmetic",
        "numbers",
        ("What is {a} minus {b}?", "How much is {a} minus {b}?", "Take {b} from {a}.", "Subtract {b} from {a}."),
        ("{a} minus {b} is {answer}.", "Taking {b} from {a} leaves {answer}."),
    ),
}

LISTS = {
    "reverse": Kind(
        "list",
        "words",
        ("Reverse the list {words}.", "Turn around the list {words}.", "What is the list {words} in reverse?"),
        ("The list {words} in reverse is {answer}.",),
    ),
    "sort": Kind(
        "list",
        "words",
        ("Sort the list {words}.", "Put the list {words} in order.", "What is the list {words} in order?"),
        ("The list {words} in order is {answer}.",),
    ),
    "first": Kind(
        "list",
        "words",
        ("What is the first word of {words}?", "Which word is first in {words}?", "Name the first word of {words}."),
        ("The first word of {words} is {answer}.",),
    ),
    "last": Kind(
        "list",
        "words",
        ("What is the last word of {words}?", "Which word is last in {words}?", "Name the last word of {words}."),
        ("The last word of {words} is {answer}.",),
    ),
    "count": Kind(
        "list",
        "words",
        ("How many words are in {words}?", "Count the words of {words}.", "What is the number of words in {words}?"),
        ("The number of words in {words} is {answer}.",),
    ),
}

STRINGS = {
    "repeat": Kind(
        "string",
        "word",
        ("Repeat the word {word}.", "Write the word {word} two times.", "What is {word} said two times?"),
        ("The word {word} repeated is {answer}.",),
    ),
    "letter": Kind(
        "string",
        "word",
        ("What is the first letter of {word}?", "Which letter begins {word}?", "Name the first letter of {word}."),
        ("The first letter of {word} is {answer}.",),
    ),
    "spell": Kind(
        "string",
        "word",
        ("Spell the word {word} with dashes.", "Spell {word}.", "How is {word} spelled?"),
        ("The word {word} is spelled {answer}.",),
    ),
}
