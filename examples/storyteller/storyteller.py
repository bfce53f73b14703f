"""Tells a story, word by word, in the manner of a book it has read.

Every pair of words of the book is remembered with the words that followed it; a story is a walk
through that memory. The words are written to the stream as they are found, so a client that asks
for `text/event-stream` reads along. The same seed tells the same story.
"""

import os
import random
import time

BOOK = os.path.join(os.path.dirname(os.path.abspath(__file__)), "text", "alice.txt")
ENDS = (".", "!", "?", ".'", "!'", "?'")

memory = {}
openings = []


def initializer(context):
    with open(BOOK, encoding="ascii") as book:
        words = book.read().split()
    for first, second, third in zip(words, words[1:], words[2:]):
        memory.setdefault((first, second), []).append(third)
        if first.endswith(ENDS) and second[:1].isupper():
            openings.append((second, third))
    context.getLogger().info("read %d words", len(words))


def handler(event, context):
    length = min(int(event.get("words", 60)), 2000)
    pause = min(float(event.get("pause_seconds", 0)), 1.0)
    stream = context.get_stream()
    told = []
    for word in walk(random.Random(event.get("seed")), length):
        told.append(word)
        stream.write(word)
        time.sleep(pause)
    return {"words": len(told), "story": " ".join(told)}


def walk(rng, length):
    """At least `length` words, and then on to the end of the sentence."""
    pair = rng.choice(openings)
    count = 0
    for word in pair:
        count += 1
        yield word
    while True:
        followers = memory.get(pair)
        if not followers or (count >= length and pair[1].endswith(ENDS)):
            return
        word = rng.choice(followers)
        pair = (pair[1], word)
        count += 1
        yield word
