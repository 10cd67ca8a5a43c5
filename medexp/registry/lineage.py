"""Where a registered model comes from, and what was built on it."""


def upstream_tag(name: str, version: str | None, digest: str) -> dict[str, str]:
    """The tag that says of a run, or of a version, which model it was built on.

    Args:
        name: Name of the model.
        version: Its version; None where it is not registered.
        digest: Digest of its package; of its weights where it is not registered.
    """
    return {f"medexp.upstream.{name}": f"{version or 'unregistered'} {digest}"}
