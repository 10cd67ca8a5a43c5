"""Settings as they are typed after `mlflow run . -e PHASE`, in quotes where a shell needs them, and no more of them."""

import re
import shlex
from collections.abc import Mapping

from medexp.files import dump_yaml

_EXPANDED = re.compile(r'["$`\\!]')  # by bash, between double quotes


def flag(key: str, value: object) -> str:
    """A setting, such as `-P rank=8`, `-P 'data.exclude=[0012]'` or `-P "data.exclude=['a, b']"`.

    Args:
        key: The key.
        value: Text as it stands, or a list of texts, none of which is taken for a number.
    """
    word = f"{key}={dump_yaml(value, in_a_line=True, only_text=True) if isinstance(value, list) else value}"
    return "-P " + (f'"{word}"' if "'" in word and not _EXPANDED.search(word) else shlex.quote(word))


def flags(settings: Mapping[str, object]) -> str:
    """Settings one after the other; those that are None are left out."""
    return " ".join(flag(key, value) for key, value in settings.items() if value is not None)
