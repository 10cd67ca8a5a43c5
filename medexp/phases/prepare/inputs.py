"""What Module 0 reads."""

from medexp.data.volumes.prepared import ReadsVolumes, prepare_volumes


def inputs(config: ReadsVolumes) -> dict[str, str]:
    """Digests of the cases and of each split, of voxels; with warm caches nothing is read for them."""
    data = prepare_volumes(config)
    return {"data": data.digest, **data.digests}
