"""The parts of the house that say the same thing in several places say the same thing."""

import ast
import difflib
import gzip
import hashlib
import importlib.metadata
import itertools
import re
import tomllib
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from mlflow.utils.environment import _PythonEnv
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from transformers import Gemma3Config

import medexp
from medexp.data.images import transforms as image_transforms
from medexp.data.oct import transforms as oct_transforms
from medexp.data.volumes import transforms
from medexp.data.volumes.cases import CHANNELS
from medexp.models.meanflow import KINDS
from medexp.models.vision_language.network import inputs_of
from medexp.phases.phase1.config import Phase1Config
from medexp.registry.definitions import InputContract, known_models, load_definition
from tests.configured import configured

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = yaml.safe_load((ROOT / "conda.yaml").read_text())
ENTRY_POINTS = yaml.safe_load((ROOT / "MLproject").read_text())["entry_points"]
LOCK = [line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and not line.startswith("#")]
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LOCK)}
DEPENDENCIES = [Requirement(text) for text in PROJECT["dependencies"]]
DEVELOPMENT = [Requirement(text) for text in PROJECT["optional-dependencies"]["dev"]]
ACCELERATOR = ("nvidia-", "cuda-", "triton")  # what torch brings for a GPU, on machines that have one


def test_every_phase_has_all_its_parts_and_no_part_lacks_its_phase():
    phases = set(ENTRY_POINTS)
    assert {path.stem for path in (ROOT / "entry_points").glob("*.py")} - {"__init__"} == phases
    assert phases == set(medexp.phases.phases())
    for name, phase in medexp.phases.phases().items():
        assert phase.name == name and set(phase.profiles) == {"demo", "full"}
        module = ROOT / f"{phase.recipe.replace('.', '/')}.py"
        functions = [node.name for node in ast.parse(module.read_text()).body if isinstance(node, ast.FunctionDef)]
        assert "run" in functions, module


@pytest.mark.parametrize("phase", ENTRY_POINTS)
def test_an_entry_point_starts_its_own_phase(phase):
    assert ENTRY_POINTS[phase] == {
        "parameters": {"profile": {"type": "string", "default": "demo"}},
        "command": f"python -m entry_points.{phase} --profile {{profile}}",  # unquoted: MLflow quotes
    }
    assert f'raise SystemExit(main("{phase}"))' in (ROOT / "entry_points" / f"{phase}.py").read_text()


def test_a_phase_that_can_be_studied_has_all_that_a_study_needs():
    assert set(medexp.phases.recovered()) <= set(medexp.phases.studied())
    for name in medexp.phases.studied():
        tree = ast.parse((ROOT / f"medexp/phases/{name}/recipe.py").read_text())
        named = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        for node in tree.body:
            named |= {name.id for name in ast.walk(node) if isinstance(node, ast.Assign) and isinstance(name, ast.Name)}
        assert {"run", "objective", "warm_up"} <= named


RECIPES = sorted(ROOT.glob("medexp/phases/*/recipe.py"))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.parent.name)
def test_a_recipe_reads_in_one_sitting(recipe):
    assert len(recipe.read_text().splitlines()) < 250


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(RECIPES, 2)), ids=lambda path: path.parent.name)
def test_recipes_are_no_copies_of_each_other(one, other):
    """Of what is code and no import, the longest run that two share."""
    first, second = (code_of(path) for path in (one, other))
    shared = difflib.SequenceMatcher(a=first, b=second, autojunk=False).find_longest_match()
    assert shared.size <= 6, "\n".join(first[shared.a : shared.a + shared.size])


def code_of(path):
    tree = ast.parse(path.read_text())
    body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    return [line.strip() for line in ast.unparse(ast.Module(body, [])).splitlines() if line.strip()]


@pytest.mark.parametrize("phase", ENTRY_POINTS)
def test_every_shipped_configuration_holds(phase):
    fields = medexp.phases.phase(phase).config.__dataclass_fields__.keys()
    has = fields | (Phase1Config.__dataclass_fields__.keys() if phase == "sweep" else set())
    given = {"data_dir": "d", "slices_dir": "s", "checkpoint": "c", "table": "t", "run": "r", "input": "i"}
    given = {key: value for key, value in given.items() if key in has}
    given |= {"paths.data": "d", "paths.checkpoint_path": "c"} if "paths" in has else {}
    given |= {"scenarios": "s.jsonl"} if "scenarios" in has and "data_dir" not in has else {}
    given |= {"base": "models:/meanflow_base@champion"} if "vae" in has else {}
    assert configured(phase, run=given.get("run")).profile == "demo"
    assert configured(phase, given, profile="full").profile == "full"


@pytest.mark.parametrize("requirement", [*DEPENDENCIES, *DEVELOPMENT], ids=lambda requirement: requirement.name)
def test_the_lock_pins_what_the_project_asks_for(requirement):
    assert requirement.specifier.contains(PINS[canonicalize_name(requirement.name)])


def test_the_lock_pins_all_that_is_brought_along():
    wanted, seen, unpinned = [*DEPENDENCIES, *DEVELOPMENT], set(), set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in seen or name.startswith(ACCELERATOR):
            continue
        seen.add((name, *requirement.extras))
        if name not in PINS:
            unpinned.add(name)
            continue
        for text in importlib.metadata.requires(name) or []:
            needed = Requirement(text)
            extras = [{"extra": extra} for extra in requirement.extras or [""]]
            if not needed.marker or any(needed.marker.evaluate(extra) for extra in extras):
                wanted.append(needed)
    assert not unpinned


def test_the_lock_installs_anywhere():
    assert [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_conda_yaml_is_the_projects_environment():
    python, pip, packages = CONDA["dependencies"]
    assert pip == "pip"
    assert SpecifierSet(PROJECT["requires-python"]).contains(python.removeprefix("python="))
    constraint, *pins = packages["pip"]
    assert constraint == "-c requirements.lock"
    assert pins == [f"{requirement.name}=={PINS[canonicalize_name(requirement.name)]}" for requirement in DEPENDENCIES]
    assert CONDA["channels"] == ["conda-forge"]


def test_conda_yaml_reads_as_mlflow_reads_it_for_virtualenv_and_uv():
    environment = _PythonEnv.from_conda_yaml(ROOT / "conda.yaml")
    assert environment.python == "3.11.7"
    assert environment.build_dependencies == ["pip"]
    assert len(environment.dependencies) == len(DEPENDENCIES) + 1


def test_every_library_that_is_imported_is_a_dependency():
    declared = {canonicalize_name(requirement.name) for requirement in DEPENDENCIES}
    known = importlib.metadata.packages_distributions()
    missing = {}
    for path in [*ROOT.glob("medexp/**/*.py"), *ROOT.glob("entry_points/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            else:
                continue
            for name in (name.partition(".")[0] for name in names):
                owners = {canonicalize_name(owner) for owner in known.get(name, [])}
                if owners and not owners & {*declared, "medexp"}:
                    missing[name] = path.name
    assert not missing


@pytest.mark.parametrize("name", known_models())
def test_a_registered_model_takes_what_is_made_of_images_of_volumes_of_oct_or_of_scenarios_or_latents(name):
    contract = load_definition(name).input
    if not isinstance(contract, InputContract):
        latents = KINDS["meanflow_unet"].inputs({"channels": 4})
        takes = latents if "z" in contract else inputs_of(Gemma3Config().to_dict())
        assert {given: one.dtype for given, one in contract.items()} == {given: spec.dtype for given, spec in takes.items()}
        return
    one = {"mri": image_transforms.INPUT, "oct": oct_transforms.INPUT}
    made = one[contract.channels[0]] if contract.shape[1] == 1 else {**transforms.INPUT, "channels": list(CHANNELS)}
    given = {**asdict(contract), "channels": list(contract.channels)}
    assert {key: given[key] for key in made} == made


def test_the_viewer_that_is_shipped_is_the_file_that_its_note_names():
    report = ROOT / "medexp/report"
    digest = hashlib.sha256(gzip.decompress((report / "niivue.umd.js.gz").read_bytes())).hexdigest()
    assert f"sha256 of the unpacked file: {digest}." in (report / "NIIVUE.md").read_text()


def test_versions_agree():
    assert PROJECT["version"] == medexp.__version__
    (mlflow,) = (requirement for requirement in DEPENDENCIES if requirement.name == "mlflow")
    assert mlflow.specifier == SpecifierSet(">=3.17,<3.18")  # tracking/project_backend.py rests on it


@pytest.mark.parametrize(
    "name", ["pyproject.toml", "requirements.lock", "conda.yaml", "Makefile", ".ci/run", ".pre-commit-config.yaml"]
)
def test_what_is_installed_comes_from_wherever_the_user_gets_packages(name):
    assert not re.search(r"://|index-url|find-links|trusted-host", (ROOT / name).read_text())
