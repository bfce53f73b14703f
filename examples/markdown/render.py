"""Turns Markdown into a web page.

Parsing the stylesheet of the code colours once, in the initializer, keeps it out of every call.
"""

import html
import re

import markdown
from pygments.formatters import HtmlFormatter

EXTENSIONS = ["fenced_code", "tables", "toc", "codehilite", "sane_lists"]
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ max-width: 46rem; margin: 2rem auto; font: 1rem/1.5 system-ui, sans-serif; }}
td, th {{ border: 1px solid #ccc; padding: .2rem .6rem; }}
{style}
</style>
</head>
<body>
{body}
</body>
</html>
"""

style = ""


def initializer(context):
    global style
    style = HtmlFormatter(style="friendly").get_style_defs(".codehilite")


def handler(event, context):
    text = source(event)
    body = markdown.markdown(
        text,
        extensions=EXTENSIONS,
        extension_configs={"codehilite": {"guess_lang": False}},
        output_format="html",
    )
    heading = re.search(r"^#\s+(.+?)\s*#*$", text, re.MULTILINE)
    title = heading.group(1) if heading else "Untitled"
    return {
        "statusCode": 200,
        "headers": {"Content-Type": "text/html; charset=utf-8"},
        "body": PAGE.format(title=html.escape(title), style=style, body=body),
    }


def source(event):
    """The text itself, or a JSON object with the key "markdown"."""
    if isinstance(event, bytes):
        return event.decode("utf-8")
    if isinstance(event, dict):
        return event["markdown"]
    return str(event)
