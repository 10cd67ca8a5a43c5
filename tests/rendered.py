"""Markdown as a page shows it."""

import re

from markdown_it import MarkdownIt


def tables(text: str) -> list[list[list[str]]]:
    """The tables of a text: of each its rows, of each row its cells, the head first."""
    found: list[list[list[str]]] = []
    cell = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        match token.type:
            case "table_open":
                found.append([])
            case "tr_open":
                found[-1].append([])
            case "th_open" | "td_open" | "th_close" | "td_close":
                cell = token.type.endswith("open")
            case "inline" if cell:
                found[-1][-1].append("".join(part.content for part in token.children or []))
    return found


def rows_as_written(text: str) -> list[str]:
    """The lines that are meant as rows of tables, but those that rule a head off."""
    return [line for line in text.splitlines() if line.startswith("|") and ("-" not in line or set(line) - set("|- "))]


def cells_as_written(line: str) -> int:
    """How many cells a row has as it is written: a page shows no more than its head has, and drops the rest without a word."""
    return re.sub(r"\\.", "", line).count("|") - 1
