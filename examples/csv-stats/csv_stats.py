"""Describes a CSV file, column by column: the first look at data that someone sent you.

The body is the file. Its encoding and its separator are found out; a column in which every filled
cell is a number gets the statistics of numbers, any other column its most frequent values.
"""

import csv
import io
import statistics
from collections import Counter

from charset_normalizer import from_bytes

MISSING = {"", "na", "n/a", "nan", "null", "none", "-"}


def handler(event, context):
    if isinstance(event, bytes):
        text, encoding = decode(event)
    elif isinstance(event, str):
        text, encoding = event, "utf-8"
    else:
        raise ValueError("send a CSV file as the request body")

    rows = csv.reader(io.StringIO(text, newline=""), dialect(text))
    header = next(rows, None)
    if not header:
        raise ValueError("the file is empty")
    columns = [[] for _ in header]
    count = 0
    for row in rows:
        if not row:
            continue
        count += 1
        for index, column in enumerate(columns):
            column.append(row[index].strip() if index < len(row) else "")
    context.getLogger().info("%d rows, %d columns, %s", count, len(header), encoding)
    return {
        "rows": count,
        "encoding": encoding,
        "columns": {name: describe(cells) for name, cells in zip(header, columns)},
    }


def decode(data):
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        guess = from_bytes(data).best()
        if guess is None:
            raise ValueError("the file is not text in any encoding we know")
        return str(guess), guess.encoding


def dialect(text):
    try:
        return csv.Sniffer().sniff(text[:8192], delimiters=",;\t|")
    except csv.Error:  # a single column has no separator to find
        return csv.excel


def describe(cells):
    filled = [cell for cell in cells if cell.lower() not in MISSING]
    summary = {"missing": len(cells) - len(filled)}
    try:
        summary.update(of_numbers([float(cell) for cell in filled]))
    except ValueError:
        summary.update(of_texts(filled))
    return summary


def of_numbers(numbers):
    if len(numbers) < 2:
        raise ValueError("too few to tell")
    low, middle, high = statistics.quantiles(numbers, n=4, method="inclusive")
    return {
        "type": "number",
        "min": min(numbers),
        "max": max(numbers),
        "mean": round(statistics.fmean(numbers), 4),
        "stdev": round(statistics.stdev(numbers), 4),
        "quartiles": [round(low, 4), round(middle, 4), round(high, 4)],
    }


def of_texts(texts):
    counts = Counter(texts)
    frequent = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:5]
    return {"type": "text", "distinct": len(counts), "frequent": dict(frequent)}
