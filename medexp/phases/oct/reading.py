"""The participants and their volumes, from a folder or a bucket, or the embedded phantoms."""

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd

from medexp.addresses import local_path
from medexp.data.oct.facts import ODD, read_volume
from medexp.data.oct.phantoms import ensure_oct_phantoms
from medexp.data.oct.prepared import PreparedVolumes, prepare_oct
from medexp.data.storage import local_file, place
from medexp.errors import ConfigError
from medexp.phases.oct import checks
from medexp.phases.oct.config import OctConfig
from medexp.phases.shared.context import Context
from medexp.tracking.figures import gallery

_SHOWN = 6  # volumes
_ENDPOINT = "S3_ENDPOINT_URL"


def read_data(ctx: Context[OctConfig]) -> PreparedVolumes:
    """All volumes of the participants, each read, checked and described, in the splits of their table.

    Logs the keys that are used (keys.csv), class counts by split, what failed (data_errors.csv) and who is in no split
    (left_out.csv); adds OCT-DATA.

    Raises:
        DataError: Volumes or labels cannot be used, or more of them fail than may.
        StorageError: The bucket does not answer.
    """
    config, reporter = ctx.config, ctx.run.reporter
    where = config.paths.volumes
    cache = local_path(config.data.cache_dir).absolute() if config.data.cache_dir else ctx.cache
    with ctx.accelerator.main_process_first():
        folder = where or str(ensure_oct_phantoms(config.phantoms.participants, config.phantoms.seed, ctx.cache))
    with ctx.accelerator.main_process_first():  # the others find what was fetched and described
        found = prepare_oct(
            place(folder, cache, config.data.cache_limit_gb),
            config.classes.mapping,
            ctx.cache,
            labels=local_file(config.paths.labels_tsv, cache) if config.paths.labels_tsv else None,
            most_failed=config.data.max_failures,
            jobs=config.data.jobs,
            refresh=config.data.refresh,
        )
    data = found.prepared
    if where is None:
        data = replace(data, source="OCT phantoms", phantoms=True)
    failed, people = len(found.errors), int(found.counts.to_numpy().sum())
    odd = Counter(name for fact in data.facts.values() for name in fact.odd)
    ctx.check(checks.data(len(data.cases) + failed, failed, people, found.lost, {name: odd[name] for name in ODD}))
    reporter.table(found.errors, "data_errors.csv")
    reporter.table(found.without, "left_out.csv")
    entries = {volume.id: volume.entry for volume in data.cases.values()}
    keys = data.manifest[["case", "patient", "split", "key"]]
    used = [entries[case] for case in keys["case"]]
    reporter.table(keys.assign(size=[one.size for one in used], etag=[one.etag for one in used]), "keys.csv")
    if ctx.accelerator.is_main_process:
        print(_counted(found.counts), flush=True)
    return data


def show_volumes(ctx: Context[OctConfig], data: PreparedVolumes) -> None:
    """Log `figures/volumes.png`: the middle B-scan of a few volumes as they are read, the vitreous above where they lie as
    encoders suppose; odd ones first, then one of each device.

    Raises:
        DataError: A volume cannot be read any more.
    """
    if not ctx.accelerator.is_main_process:
        return
    facts = [data.facts[case] for case in data.manifest["case"]]
    rows = data.manifest.assign(even=[not fact.odd for fact in facts])
    rows = rows.assign(turn=rows.groupby(["even", "device"]).cumcount()).sort_values(["even", "turn"])[:_SHOWN]
    images, captions = [], []
    for case, patient, eye, device in rows[["case", "patient", "laterality", "device"]].itertuples(index=False, name=None):
        voxels = read_volume(data.cases[case]).voxels
        images.append(np.asarray(voxels[len(voxels) // 2], np.float32))
        captions.append("\n".join([f"{patient} {eye}", device, *data.facts[case].odd.values()]))
    title = "Middle B-scans; the vitreous belongs above"
    ctx.run.reporter.figure(gallery(images, captions, title, of=len(facts), across=3), "figures/volumes.png")


def answers_at(config: OctConfig) -> None:
    """Have the server of all that lies in a bucket be the one that `s3.endpoint_env` names.

    Raises:
        ConfigError: The environment lacks that variable.
    """
    paths, variable = config.paths, config.s3.endpoint_env
    places = [paths.volumes or "", paths.labels_tsv or "", *(one.partition("s3://")[1] for one in paths.checkpoints)]
    if variable == _ENDPOINT or not any(where.startswith("s3://") for where in places):
        return
    if variable not in os.environ:
        raise ConfigError(
            f"s3.endpoint_env: found {variable}, which is not in the environment; set it to the server's address"
        )
    os.environ[_ENDPOINT] = os.environ[variable]


def _counted(counts: pd.DataFrame) -> str:
    told = [f"{label}: {', '.join(f'{count} {split}' for split, count in row.items())}" for label, row in counts.iterrows()]
    return f"{int(counts.to_numpy().sum())} participants. " + "; ".join(told)
