from mlflow import MlflowClient

from medexp.registry.versions import list_models, versions_of_run


def test_versions_of_a_run_are_those_that_are_still_there(store: MlflowClient) -> None:
    ours, other = (store.create_run("0").info.run_id for _ in range(2))
    for name, run in (("b", ours), ("a", ours), ("a", other), ("a", ours)):
        if name not in [model.name for model in store.search_registered_models()]:
            store.create_registered_model(name)
        store.create_model_version(name, "file:///nowhere", run_id=run)
    assert versions_of_run(ours) == ("a/1", "a/3", "b/1")
    store.delete_model_version("a", "1")
    assert versions_of_run(ours) == ("a/3", "b/1")
    assert versions_of_run("0" * 32) == ()


def test_a_model_is_listed_with_its_latest_version_in_order_of_numbers(store: MlflowClient) -> None:
    store.create_registered_model("m")
    for number in range(1, 12):
        store.create_model_version("m", "file:///nowhere", tags={"medexp.digest": f"d{number}", "medexp.verdict": "PASSED"})
    store.set_registered_model_alias("m", "champion", "2")
    (found,) = list_models()
    assert (found.version, found.digest, found.verdict, found.aliases, found.run) == (
        "11",
        "d11",
        "PASSED",
        {"champion": "2"},
        None,
    )
