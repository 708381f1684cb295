"""The normalisation of short answers in VQA's evaluation: punctuation, numbers, articles and contractions.

Written after the description at https://visualqa.org/evaluation.html. Its quirks are kept, see `normalised`.
"""

from __future__ import annotations

import re

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
DIGITS = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
ARTICLES = ("a", "an", "the")
# A word without one of its apostrophes gets it back. Words that are others without one (we'd, I'll) are absent.
CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's
how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock
oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd
they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd
where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all
y'all'll y'all'd've you'd you'd've you'll you're you've
""".split()
WITH_APOSTROPHE = {
    word[: match.start()] + word[match.end() :]: word for word in CONTRACTIONS for match in re.finditer("'", word)
}


def normalised(answer: str) -> str:
    """Normalise a short answer as VQA's evaluation does.

    Quirks: punctuation next to a space is deleted, and becomes a space otherwise. An answer that is only an article
    becomes empty. "none" becomes 0. Numbers above ten stay words.
    """
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    words = without_punctuation(text.replace("\n", " ").replace("\t", " ").strip()).lower().split()
    words = [DIGITS.get(word, word) for word in words]
    return " ".join(WITH_APOSTROPHE.get(word, word) for word in words if word not in ARTICLES)


def without_punctuation(text: str) -> str:
    """Delete punctuation next to a space, replace other punctuation by a space, and delete dots outside numbers.

    If a comma separates thousands, all punctuation is deleted.
    """
    has_thousands = re.search(r"\d,+\d", text) is not None
    result = text
    for mark in PUNCTUATION:
        is_deleted = has_thousands or f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if is_deleted else " ")
    return re.sub(r"\.(?!\d)", "", result)
