"""The shape of the repository: imports point down, and what serves needs nothing of what trains."""

import ast
import hashlib
import re
import tomllib
from pathlib import Path

import pytest
from processes import python

ROOT = Path(__file__).parents[2]
MOST_ARGUMENTS = 7
MOST_ROOMS, MOST_LINES = 11, 400
LAYERS = ("runtime", "training", "export")  # each may import itself and what stands before it
NEVER_IN_RUNTIME = {"torch", "healpy", "lightning", "pandas", "scores", "safetensors", "onnx", "onnxscript"}
LATE_IN_RUNTIME = {"scipy", "dask", "distributed", "xarray", "zarr", "numcodecs", "h5netcdf", "h5py", "matplotlib"}
PLUGINS = ("xarray_engine.py", "zarr_codec.py")  # of xarray and zarr, whose classes they derive from
LATE_IN_RUNTIME |= {"onnxruntime", "rich", "tensorrt", "tensorrt_rtx", "cuda", "cfgrib", "eccodes", "gribapi"}


def imports_of(path: Path) -> list[tuple[str, bool]]:
    """Modules a file imports, and whether when it is imported itself (not in a function or for type checking only)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    late = set()
    for node in ast.walk(tree):
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or typing_only:
            late |= {id(inner) for inner in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in late) for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            package = ".".join(("fsae", *path.parent.relative_to(ROOT).parts)) if node.level else ""
            name = ".".join(part for part in (package, node.module or "") if part)
            names = [name, *(f"{name}.{alias.name}" for alias in node.names)] if name == "fsae" else [name]
            found += [(name, id(node) not in late) for name in names]
    return found


def modules(layer: str) -> list[Path]:
    found = sorted((ROOT / layer).rglob("*.py"))
    assert found, f"no modules in {layer}/"
    return found


@pytest.mark.parametrize("layer", LAYERS)
def test_imports_point_down(layer: str) -> None:  # oracle: runtime <- training <- export
    above = {f"fsae.{name}" for name in LAYERS[LAYERS.index(layer) + 1 :]}
    wrong = [
        f"{path.name} imports {name}"
        for path in modules(layer)
        for name, _ in imports_of(path)
        if ".".join(name.split(".")[:2]) in above or name.split(".")[0] in LAYERS
    ]
    assert not wrong


def test_the_runtime_never_imports_what_trains() -> None:  # oracle: the list of what it may install
    wrong = [
        f"{path.name} imports {name}"
        for path in modules("runtime")
        for name, at_once in imports_of(path)
        if name.split(".")[0] in NEVER_IN_RUNTIME
        or (at_once and name.split(".")[0] in LATE_IN_RUNTIME and path.name not in PLUGINS)
    ]
    assert not wrong


def test_tests_have_names_of_their_own() -> None:
    # oracle: pytest imports files by name alone; torch would take a folder `triton` for the library, which is not there
    files = [path.stem for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(name for name in set(files) if files.count(name) > 1) == []
    assert not list((ROOT / "tests").rglob("triton"))
    texts = {path: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    assert [path for path, text in texts.items() if re.search(r"^from (conftest|test_\w+) import", text, re.M)] == []


def test_every_package_is_listed() -> None:
    # oracle: the folders; a package that is not listed can be imported from a checkout and is missing from the wheel
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    folders = {path.parent for layer in LAYERS for path in (ROOT / layer).rglob("*.py")}
    # programs of their own, shipped as files, and recipes of data, which run in environments of their own
    folders -= {ROOT / "export" / "examples", ROOT / "training" / "sample"}
    assert set(listed) == {".".join(("fsae", *folder.relative_to(ROOT).parts)) for folder in folders} | {"fsae.engines"}
    assert len(listed) == len(set(listed))


def test_only_the_default_engine_is_packaged_and_all_are_listed() -> None:
    # oracle: the patterns of the wheel carried out here, and the hashes of the manifests
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    engines = ROOT / "engines"
    packed = {path for pattern in tools["package-data"]["fsae.engines"] for path in engines.glob(pattern)}
    own = {path for path in (engines / "default").iterdir() if path.is_file() and path.name != "verified.json"}
    assert {path for path in packed if path.name != "verified.json"} == own | {engines / "SHA256SUMS"}
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(engines).as_posix()}\n"
        for path in sorted(engines.glob("*/manifest.json"))
    ]
    listed = (engines / "SHA256SUMS").read_text(encoding="ascii")
    assert listed == "".join(sums), "run in engines/: sha256sum */manifest.json > SHA256SUMS"


@pytest.mark.parametrize("layer", LAYERS)
def test_a_wing_has_at_most_eleven_rooms_of_at_most_400_lines(layer: str) -> None:  # oracle: counted here
    rooms: dict[Path, int] = {}
    for path in modules(layer):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES, path
        if path.name != "__init__.py":
            rooms[path.parent] = rooms.get(path.parent, 0) + 1
    assert {folder.name: count for folder, count in rooms.items() if count > MOST_ROOMS} == {}


def arguments_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Names of a function's arguments, without self and cls."""
    named = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
    starred = [argument for argument in (function.args.vararg, function.args.kwarg) if argument is not None]
    return [argument.arg for argument in named + starred if argument.arg not in ("self", "cls")]


@pytest.mark.parametrize("layer", LAYERS)
def test_functions_take_at_most_seven_arguments(layer: str) -> None:
    # oracle: the syntax tree; a network takes what its graph takes
    functions = [
        (path.relative_to(ROOT).as_posix(), node)
        for path in modules(layer)
        if path.parent not in (ROOT / "training" / "networks", ROOT / "export" / "graphs")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [f"{path}: {node.name}" for path, node in functions if len(arguments_of(node)) > MOST_ARGUMENTS] == []


@pytest.mark.parametrize("layer", LAYERS)
def test_docstrings_begin_with_a_verb_or_a_noun(layer: str) -> None:  # oracle: rule 7 of the house style
    refused = re.compile(r"Nothing\b|What\b.*\bis\b")
    wrong = [
        f"{path.relative_to(ROOT)}: {first}"
        for path in modules(layer)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if refused.match(first := (ast.get_docstring(node) or "").partition("\n")[0])
    ]
    assert wrong == []


def test_the_contract_of_the_wings_is_kept() -> None:  # oracle: import-linter
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = python("-c", code, "--no-cache", cwd=ROOT)  # in a process of its own: it switches off all loggers
    assert done.returncode == 0, done.stdout


def loaded_after(code: str, *arguments: str | Path) -> set[str]:
    """Top-level modules, and ours in full, that are loaded after `code` ran in a fresh interpreter."""
    report = "import sys; print('LOADED', *{m if m.startswith('fsae.') else m.split('.')[0] for m in sys.modules})"
    done = python("-W", "error::UserWarning", "-c", f"{code}\n{report}", *arguments)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split("LOADED")[1].split())


def test_help_and_info_load_no_heavy_library(tiny_bundle_path: Path) -> None:  # oracle: the list of heavy ones
    code = "import sys\nfrom fsae.runtime.cli.main import main\nassert main(sys.argv[1:]) == 0"
    heavy = {
        "xarray",
        "zarr",
        "h5netcdf",
        "h5py",
        "onnxruntime",
        "pandas",
        "scipy",
        "healpix",
        "matplotlib",
    } | NEVER_IN_RUNTIME
    for arguments in (
        ("--help",),
        ("generate", "--help"),
        ("plot", "--help"),
        ("score", "--help"),
        ("--version",),
        ("--model", tiny_bundle_path, "info"),
    ):
        assert not loaded_after(code, *arguments) & heavy, arguments


def test_the_package_loads_nothing_until_asked() -> None:  # oracle: PEP 562 lazy names
    loaded = loaded_after("import fsae.runtime\nassert fsae.runtime.__version__")
    assert not loaded & {"numpy", "xarray", "zarr", "onnxruntime"}


def test_what_reads_no_data_needs_neither_xarray_nor_pandas(tiny_bundle_path: Path, tmp_path: Path) -> None:
    # oracle: an interpreter that cannot import them, as where they were uninstalled
    code = """
import sys
sys.modules["xarray"] = sys.modules["pandas"] = None
from fsae.runtime.cli.main import main
model, work = sys.argv[1:]
for words in ("info", "verify --device cpu", *(
    f"generate --device cpu --members 2 --steps 2 --out {work}/{out}"
    for out in ("a.zarr", "a.nc --grid training", "b.nc --statistics mean,q50", "a_{realization}.nc")
)):
    assert main(["--model", model, *words.split()]) == 0, words
"""
    loaded_after(code, tiny_bundle_path, tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_every_verb_runs_without_torch_healpy_or_training(tiny_bundle_path: Path, tmp_path: Path) -> None:
    # oracle: sys.modules of an interpreter that ran every verb
    code = """
import sys
from fsae.runtime.cli.main import main
model, work = sys.argv[1:]
def run(*words):
    device = [] if words[0] in ("info", "climatology") else ["--device", "cpu"]
    assert main(["--model", model, *device, *words]) == 0, words
run("info")
run("verify")
run("generate", "--members", "1", "--steps", "12", "--out", work + "/field.nc")
import xarray as xr
with xr.open_dataset(work + "/field.nc") as made:
    made.isel(realization=0, drop=True).to_netcdf(work + "/one.nc", engine="h5netcdf")
run("climatology", work + "/one.nc", work + "/climatology.nc")
run("compress", work + "/one.nc", work + "/latent.zarr", "--climatology", "training")
run("decompress", work + "/latent.zarr", work + "/back.zarr")
run("superres", work + "/one.nc", work + "/fine.zarr", "--zoom", "1", "--climatology", "training")
"""
    loaded = loaded_after(code, tiny_bundle_path, tmp_path)
    assert not loaded & {"torch", "healpy", "lightning", "fsae.training", "fsae.export"}
