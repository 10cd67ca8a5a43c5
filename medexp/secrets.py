"""What must not be written anywhere: passwords and keys, and the home folder, which names who worked.

Secrets are known by their form, by what they are assigned to, or by the variable of the environment that holds them.

The tools that look for secrets in code say where one begins; here all of it has to go, so the forms are our own.
"""

import functools
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

_FORMS = {
    "a password in a URL": (("://",), r"(?<=://)[^\s/:@]*:(?!\d+/)[^\s'\"]+(?=@)|(?<=://)[^\s/:@]{20,}(?=@)"),
    "a private key": (("PRIVATE KEY",), r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"),
    "an AWS access key": (("AKIA", "ASIA"), r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    "a GitHub token": (
        ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_"),
        r"\b(?:gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,})",
    ),
    "a GitLab token": (("glpat-",), r"\bglpat-[\w-]{20,}"),
    "a Hugging Face token": (("hf_",), r"\bhf_[A-Za-z0-9]{30,}"),
    "a key of an AI service": (("sk-",), r"\bsk-[\w-]{20,}"),
    "a Slack token": (("xox",), r"\bxox[abeoprs]-[\w-]{10,}"),
    "a Google API key": (("AIza",), r"\bAIza[\w-]{35}"),
    "a Databricks token": (("dapi",), r"\bdapi[0-9a-f]{32}"),
    "a PyPI or npm token": (("pypi-", "npm_"), r"\b(?:pypi-[\w-]{50,}|npm_[A-Za-z0-9]{36})"),
    "a JSON web token": (("eyJ",), r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]*"),
}
"""What is told of it; what a text has in it that holds one, which is quickly seen not to be there; its form."""
_HOLDER = r"(?:password|passwd|pwd|passphrase|secret|token|api_?key|access_?key(?:_id)?|secret_?key|credentials?)"
_ASSIGNED = re.compile(
    rf"(?i)({_HOLDER}[\"']?\s*[:=]\s*)(?:([\"'])(?!same-origin\2)([^\s\"']{{6,}})\2|"  # a page's fetch()
    r"(?=[^\s\"',;&]*\d)([A-Za-z0-9+/_=~!$%-]{10,})(?![(\w.]))"
)
_OF_ENVIRONMENT = re.compile(rf"(?i){_HOLDER}$|_pass$|_key$")
_COMPILED = {told: (words, re.compile(form, re.DOTALL)) for told, (words, form) in _FORMS.items()}
_HIDDEN = "***"


@dataclass(frozen=True)
class Masked:
    """A text that may be written.

    Attributes:
        text: With *** in the place of each secret, and ~ in that of the home folder.
        found: What was found, in words; empty where there were no secrets.
    """

    text: str
    found: tuple[str, ...]


def masked(text: str, *, home: bool = True) -> Masked:
    """A text without secrets.

    Args:
        text: Anything that is to be logged.
        home: Whether the home folder is masked too; not in what is read back, such as a configuration.
    """
    found = []
    for name, value in _of_environment(tuple(os.environ.items())).items():
        if value in text:
            found.append(f"the value of {name}")
            text = text.replace(value, _HIDDEN)
    for told, (words, form) in _COMPILED.items():
        if any(word in text for word in words):
            text, count = form.subn(_HIDDEN, text)
            found += [told] * (count > 0)
    text, count = _ASSIGNED.subn(lambda one: f"{one[1]}{one[2] or ''}{_HIDDEN}{one[2] or ''}", text)
    found += ["what a password or key is assigned"] * (count > 0)
    if home and len(place := str(Path.home()).rstrip("/")) > 1:
        text = re.sub(rf"{re.escape(place)}(?![\w.-])", "~", text)
    return Masked(text, tuple(found))


@functools.lru_cache(1)  # every key and every line that is logged asks
def _of_environment(variables: tuple[tuple[str, str], ...]) -> Mapping[str, str]:
    """What variables of the environment keep secret, by their names: their values, and passwords of URLs in them."""
    values = {}
    for name, value in variables:
        if _OF_ENVIRONMENT.search(name) and len(value) >= 8 and not Path(value).is_absolute():
            values[name] = value
        elif password := re.search(r"://[^\s/:@]*:(?!\d+/)(\S+)@", value):
            values[name] = password[1]
    quoted = {f"{name} in a URL": unquote(value) for name, value in values.items() if unquote(value) != value}
    return {name: value for name, value in {**values, **quoted}.items() if len(value) >= 6}
