"""Every move of an alias, in order and for good; aliases are moved here and nowhere else.

An entry is an MLflow experiment `medexp.journal/<model>/<number>` whose tag holds it. A name of an experiment is taken once in
every store, also by one that was deleted, and an experiment is created with its tags in one transaction: of several processes
that write entry N exactly one does, and an entry is there whole or not at all. Nobody holds a lock, so nobody who is killed
blocks another. The experiment is deleted at once, so that no list shows it.

Then the alias follows its entry, the model's description shows the journal as a table, the run that made the champion is
marked (`CHAMPION_OF`), the former one no longer, and at last a tag of the model repeats the entry: that outlives `mlflow gc`,
and says that the move is finished. What a killed process left unfinished is finished by the next that moves an alias of the
model (`settle`). Each entry carries the sha256 of the one before. Another tag of the model says of an entry that has to be
tried out that it was (`note_tried`): who makes a champion may be killed before loading it.
"""

import getpass
import hashlib
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage, ViewType
from mlflow.exceptions import MlflowException

from medexp.errors import RegistryError
from medexp.markdown import as_markdown
from medexp.registry.client import MISSING, answering, pages, quoted, registered_model
from medexp.registry.links import to_run
from medexp.registry.tags import CHAMPION_OF

CHAMPION, CANDIDATE = "champion", "candidate"
TO_BE_TRIED = "to_be_tried"
"""Evidence of a move whose version has to be loaded and run afterwards."""
_PREFIX, _TRIED = "medexp.journal", "medexp.tried"
_TAG = "medexp.entry"
_HEADING = "\n\n## Journal of aliases\n\n"
_TRIES = 5  # of what the database refuses though nobody else seems to have done it
_ROOM = 5000  # characters that every database keeps of a description


@dataclass(frozen=True)
class Entry:
    """One move of an alias.

    Attributes:
        number: Its place in the model's journal, from 1.
        model: Name of the model.
        alias: The alias.
        start: Version that it stood at; None where there was none.
        to: Version that it stands at now; None: it was taken away.
        digest: Digest of that version's package.
        kind: nominate, promote, rollback, or undo of a promotion whose model did not load.
        reason: Why, in words.
        evidence: The figures that it rests on.
        who: User and machine.
        when: UTC, ISO 8601.
        run: The run that holds the evidence; None where there is none.
        previous: sha256 of the entry before, empty for the first.
    """

    number: int
    model: str
    alias: str
    start: str | None
    to: str | None
    digest: str | None
    kind: str
    reason: str
    evidence: Mapping[str, float | int | str | bool | None]
    who: str
    when: str
    run: str | None
    previous: str

    def __str__(self) -> str:
        move = f"{self.alias} {self.start or 'none'} -> {self.to or 'none'}"
        return f"{self.number} {self.when} {self.kind} {move} by {self.who}: {self.reason}"

    @property
    def text(self) -> str:
        """The entry as it is written, JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @property
    def shown(self) -> str:
        """The entry as the model's tag repeats it: a line to read, then the entry."""
        return f"{self}\n{self.text}"

    @property
    def digest_of_entry(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Journal:
    """A model's journal as it stands.

    Attributes:
        model: Name of the model.
        entries: In order.
        finished: Numbers of the entries whose alias has followed.
        tried: Numbers of the entries whose version was loaded and run afterwards.
        visible: Ids of the experiments that stand for an entry and that a killed process left in the list.
        damaged: What is wrong with it, in words: edited entries, gaps, a broken chain.
    """

    model: str
    entries: tuple[Entry, ...] = ()
    finished: frozenset[int] = frozenset()
    tried: frozenset[int] = frozenset()
    visible: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def head(self) -> int:
        """Number of the last entry, 0 for none."""
        return self.entries[-1].number if self.entries else 0

    @property
    def aliases(self) -> dict[str, str]:
        """The version that each alias should stand at."""
        last = {entry.alias: entry.to for entry in self.entries}
        return {alias: version for alias, version in last.items() if version is not None}

    @property
    def untried(self) -> Entry | None:
        """The move that made the present champion, where nobody has loaded it since; None where it was, or had not to be."""
        moved = next((entry for entry in reversed(self.entries) if entry.alias == CHAMPION), None)
        waits = moved is not None and TO_BE_TRIED in moved.evidence and moved.number not in self.tried
        return moved if waits else None


@dataclass(frozen=True)
class Move:
    """What is to be written.

    Attributes:
        alias: The alias.
        to: Version that it goes to; None takes it away.
        digest: Digest of that version's package.
        kind: As in Entry.
        reason: Why.
        evidence: The figures that it rests on.
        run: The run that holds the evidence.
    """

    alias: str
    to: str | None
    digest: str | None
    kind: str
    reason: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    run: str | None = None


class Outrun(RegistryError):
    """Another process moved the alias while this one was judging."""


@answering()
def read(model: str) -> Journal:
    """The journal of a model; empty for one that has none.

    Args:
        model: Name of the model; it need not exist any more.
    """
    client = MlflowClient()
    claims = [found for found in _search(client, f"{_PREFIX}/{model}/%") if _owner(found) == model]
    return _assembled(model, claims, _tags(client, model))


@answering()
def read_all(models: Sequence[str]) -> dict[str, Journal]:
    """The journals of several models, read at once."""
    client = MlflowClient()
    claims: dict[str, list[Experiment]] = {model: [] for model in models}
    for found in _search(client, f"{_PREFIX}/%"):
        claims.setdefault(_owner(found), []).append(found)
    return {model: _assembled(model, found, _tags(client, model)) for model, found in claims.items()}


@answering()
def move(model: str, wanted: Move, after: int | None = None) -> Entry:
    """Write an entry and let the alias follow it.

    Args:
        model: Name of the model.
        wanted: What is to be written.
        after: Number of the last entry when the decision was taken; None for a move that holds whatever the others did.

    Raises:
        Outrun: The alias was moved since; the message says by whom and where to. Moves of other aliases do not matter.
    """
    client = MlflowClient()
    while True:
        present = settle(model)
        if after is not None and (since := [e for e in present.entries if e.number > after and e.alias == wanted.alias]):
            raise Outrun(
                f"{model}: another process moved {wanted.alias} while this one was judging ({'; '.join(map(str, since))}). "
                "Nothing was changed here; run the same again, to be judged against what stands now"
            )
        entry = Entry(
            number=present.head + 1,
            model=model,
            alias=wanted.alias,
            start=standing(model).get(wanted.alias),
            to=wanted.to,
            digest=wanted.digest,
            kind=wanted.kind,
            reason=wanted.reason,
            evidence=dict(wanted.evidence),
            who=_who(),
            when=_now(),
            run=wanted.run,
            previous=present.entries[-1].digest_of_entry if present.entries else "",
        )
        try:
            client.create_experiment(_name(model, entry.number), tags={_TAG: entry.text})
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            continue  # taken by another process just now
        settle(model)
        return entry


@answering()
def note_tried(entry: Entry) -> None:
    """Say that the version of an entry was loaded and run after the move. Safe to be said twice, also at once."""
    try:
        MlflowClient().set_registered_model_tag(entry.model, _tag(entry.number, _TRIED), f"{_who()} {_now()}")
    except MlflowException:
        if entry.number not in read(entry.model).tried:
            raise


@answering()
def settle(model: str) -> Journal:
    """Finish what is unfinished: aliases follow their entries, entries are repeated as tags. Safe at any time, by anybody.

    An alias that was moved by hand after its entry was finished is left alone: that is for `medexp audit` to say.

    Returns:
        The journal afterwards.
    """
    client = MlflowClient()
    touched: set[str] = set()
    refused = 0
    while True:
        journal = read(model)
        for experiment in journal.visible:
            _delete(client, experiment)
        unfinished = [entry for entry in journal.entries if entry.number not in journal.finished]
        found, wanted = standing(model), journal.aliases
        # Who slept since reading may have set an alias to what an older entry said: what was touched is looked at again.
        wrong = {alias for alias in touched if found.get(alias) != wanted.get(alias)} | {e.alias for e in unfinished}
        if not wrong:
            return journal
        try:
            for alias in sorted(wrong):
                if alias in wanted:
                    client.set_registered_model_alias(model, alias, wanted[alias])
                elif alias in found:
                    client.delete_registered_model_alias(model, alias)
            if CHAMPION in wrong:
                before = {entry.start for entry in unfinished if entry.alias == CHAMPION}
                _mark_runs(client, model, {*before, found.get(CHAMPION), wanted.get(CHAMPION)})
            if unfinished:
                client.update_registered_model(model, _described(registered_model(model).description or "", journal.entries))
            for entry in unfinished:
                client.set_registered_model_tag(model, _tag(entry.number), entry.shown)
        except MlflowException:
            # Of two processes that finish one entry at once a database refuses the second's row: the first did the work, which
            # may be to be seen a moment later. Who wrote an entry must come to try what it made the champion.
            nothing_changed = read(model).finished == journal.finished and standing(model) == found
            refused = refused + 1 if nothing_changed else 0
            if refused == _TRIES:
                raise
        touched |= wrong


def _mark_runs(client: MlflowClient, model: str, versions: Iterable[str | None]) -> None:
    """Say of the runs that made these versions whose champions they made, where runs are listed; of others nothing."""
    for version in sorted(filter(None, versions)):
        try:
            run = client.get_run(client.get_model_version(model, version).run_id or "")
        except MlflowException as error:
            if error.error_code not in (MISSING, "INVALID_PARAMETER_VALUE"):
                raise
            continue  # version or run was removed for good, or there never was a run
        if run.info.lifecycle_stage != LifecycleStage.ACTIVE:
            continue
        made = pages(client.search_model_versions, filter_string=f"run_id = '{run.info.run_id}'", max_results=200)
        names = sorted(one.name for one in made if standing(one.name).get(CHAMPION) == str(one.version))
        if names:
            client.set_tag(run.info.run_id, CHAMPION_OF, ", ".join(names))
        elif CHAMPION_OF in run.data.tags:
            client.delete_tag(run.info.run_id, CHAMPION_OF)


def _described(description: str, entries: Sequence[Entry]) -> str:
    """A model's description with its journal below, the latest first, as far as there is room."""
    about = description.partition(_HEADING)[0].rstrip()
    rows = [
        [
            str(cell or "")
            for cell in (one.number, one.when, one.alias, one.start, one.to, one.kind, one.reason, one.who, _run_of(one.run))
        ]
        for one in reversed(entries)
    ]
    text = f"{about}{_HEADING}"
    for line in as_markdown(("", "when", "alias", "from", "to", "kind", "why", "who", "run"), rows).splitlines(keepends=True):
        if len(text) + len(line) > _ROOM:
            break
        text += line
    return text.rstrip("\n") + "\n"


def _run_of(run_id: str | None) -> str | None:
    """A link to a run; the id of one that is in another store, or that was removed since."""
    if run_id is None:
        return None
    try:
        return to_run(MlflowClient(), run_id)
    except MlflowException:
        return run_id


def _search(client: MlflowClient, pattern: str) -> list[Experiment]:
    found = pages(
        client.search_experiments, view_type=ViewType.ALL, filter_string=f"name LIKE {quoted(pattern)}", max_results=1000
    )
    return [experiment for experiment in found if _TAG in experiment.tags]


def _assembled(model: str, claims: Sequence[Experiment], tags: Mapping[str, str]) -> Journal:
    """Claims tell what was written; after `mlflow gc` has removed them, the copies in the model's tags do."""
    copies = _numbered(tags, _PREFIX)
    written = {int(claim.name.rpartition("/")[2]): claim.tags[_TAG] for claim in claims}
    damaged: list[str] = []
    entries: list[Entry] = []
    for number in sorted({*written, *copies}):
        text = written[number] if number in written else copies[number].rpartition("\n")[2]
        try:
            entry = Entry(**json.loads(text))
        except (ValueError, TypeError):
            damaged.append(f"entry {number}: is no entry any more; it was edited")
            continue
        if copies.get(number, entry.shown) != entry.shown:
            damaged.append(f"entry {number}: its copy, tag {_tag(number)}, was edited")
        before = entries[-1].digest_of_entry if entries else ""
        if entry.number != number or entry.previous != before:
            damaged.append(f"entry {number}: does not follow from the one before; one of them was edited or is lost")
        entries.append(entry)
    visible = tuple(claim.experiment_id for claim in claims if claim.lifecycle_stage == LifecycleStage.ACTIVE)
    return Journal(model, tuple(entries), frozenset(copies), frozenset(_numbered(tags, _TRIED)), visible, tuple(damaged))


def _tags(client: MlflowClient, model: str) -> dict[str, str]:
    try:
        return dict(client.get_registered_model(model).tags)
    except MlflowException as error:
        if error.error_code != MISSING:
            raise
        return {}


def _numbered(tags: Mapping[str, str], kind: str) -> dict[int, str]:
    """The tags `kind.NUMBER`, by number."""
    numbers = {key: key.removeprefix(f"{kind}.") for key in tags}
    return {int(number): tags[key] for key, number in numbers.items() if number != key and number.isdecimal()}


@answering()
def standing(model: str) -> dict[str, str]:
    """The version that each alias of a model stands at in the registry.

    Raises:
        RegistryError: There is no such model.
    """
    return {alias: str(version) for alias, version in registered_model(model).aliases.items()}


def _delete(client: MlflowClient, experiment: str) -> None:
    try:
        client.delete_experiment(experiment)
    except MlflowException as error:  # another process did meanwhile
        if client.get_experiment(experiment).lifecycle_stage == LifecycleStage.ACTIVE:
            raise error from None


def _name(model: str, number: int) -> str:
    return f"{_PREFIX}/{model}/{number:06d}"


def _owner(experiment: Experiment) -> str:
    return str(experiment.name).removeprefix(f"{_PREFIX}/").rpartition("/")[0]


def _tag(number: int, kind: str = _PREFIX) -> str:
    return f"{kind}.{number:06d}"


def _who() -> str:
    return f"{getpass.getuser()}@{platform.node()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
