"""What README and docs tell a reader to type, and how a test types it: with files of its own, in small."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from medexp import console

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))
READ = [page for page in PAGES if page.name not in ("CONTRIBUTING.md", "CHANGELOG.md")]
"""Pages whose commands are run: those of CONTRIBUTING.md are by tests/test_contributing.py; CHANGELOG.md tells of the past."""


def commands(page: Path) -> list[str]:
    """The commands of a page, in code blocks and between backticks, without what a line says of them."""
    found = []
    for line in re.sub(r"\\\n\s*", " ", page.read_text()).splitlines():
        code = [line[4:].removeprefix("$ ")] if line.startswith("    ") else re.findall(r"`([^`]+)`", line)
        for text in code:
            if "…" not in text and re.match(
                r"(\w+=\S+ )*(mlflow run \. -e [a-z]|medexp [a-z-]+( |$)|python -m entry_points\.[a-z])", text
            ):
                bare = re.split(r"\s{2,}|\s+#\s|; | \(or:| > ", text)[0]
                found.append(re.sub(r"^(\w+=\S+ )+", "", bare))
    return found


def words_of(command: str) -> list[str]:
    """A command's words, with those that may be left out."""
    return shlex.split(re.sub(r"\[(--[^\]]+)\]", r"\1", command))


def keys_of(command: str) -> tuple[str, dict[str, str]] | None:
    """The phase that a command runs and the keys that it gives; None where it runs none."""
    words = words_of(command)
    if words[0] == "mlflow":
        phase, given = words[words.index("-e") + 1], [word for at, word in enumerate(words) if words[at - 1] == "-P"]
    elif words[0] == "python":
        phase, given = words[2].removeprefix("entry_points."), [word.removeprefix("--") for word in words[3:]]
    else:
        return None
    return phase, {key: value for key, _, value in (word.partition("=") for word in given)}


def typed(by: str) -> list[str]:
    """What the pages tell to type that runs a phase, or, of `medexp`, the console; each once."""
    every = sorted({command for page in READ for command in commands(page)})
    return [one for one in every if by == (((phase := keys_of(one)) and phase[0]) or "medexp") and "--help" not in one]


def in_place(text: str, files: Mapping[str, object]) -> str:
    """A text with what stands for a reader's own files and names, such as FOLDER, replaced."""
    for name, file in files.items():
        text = re.sub(rf"(?<![\w.]){re.escape(name)}(?!\w)", str(file), text)
    return text


def run_console(command: str, files: Mapping[str, object]) -> int:
    """Run a command `medexp …`, with files in the place of a reader's; the exit code."""
    return console.main(words_of(in_place(command, files))[1:])
