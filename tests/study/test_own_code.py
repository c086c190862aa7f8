"""A user's own network: the README's own lines, and names that are never confused."""

import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import ldct_jax
from ldct_jax import cli, record, user_script
from ldct_jax.errors import CheckpointError, UsageError
from ldct_jax.losses import mse
from ldct_jax.models.unet import UNet
from ldct_jax.study.scripts import load_study
from ldct_jax.train.checkpoint import load_model

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(autouse=True)
def nothing_stays_imported(monkeypatch):
    """Each test begins as a new process does, with no script named."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, user_script.OWN, raising=False)
    yield
    sys.modules.pop(user_script.OWN, None)


def forget():
    sys.modules.pop(user_script.OWN, None)


def script_of_the_readme() -> str:
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.S)
    (own,) = (block for block in blocks if block.startswith("# own.py\n"))
    return own


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The README's script, trained at the smoke scale by its own command."""
    folder = tmp_path_factory.mktemp("own")
    script = folder / "own.py"
    script.write_text(script_of_the_readme())
    command = ["train", str(script), "--scale", "smoke", "--out", str(folder / "run")]
    assert cli.run(command) == 0
    forget()
    return folder


@pytest.mark.promise("own-network", "code-is-named")
def test_the_readmes_script_trains_and_denoises(trained, tmp_path, capfd):
    script, run = trained / "own.py", trained / "run" / "mine"
    assert len(script.read_text().splitlines()) <= 16
    np.save(tmp_path / "x.npy", np.zeros((1, 32, 32), np.float32))
    denoise = ["denoise", str(tmp_path / "x.npy"), str(tmp_path / "out"), "--model", str(run)]
    assert cli.run(denoise) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "--code own.py" in error
    assert not (tmp_path / "out" / "x.npy").exists()
    assert cli.run([*denoise, "--code", str(script)]) == 0
    assert np.load(tmp_path / "out" / "x.npy").shape == (1, 32, 32)
    found = ldct_jax.load(run, code=script)(np.load(tmp_path / "x.npy"))
    np.testing.assert_array_equal(found, np.load(tmp_path / "out" / "x.npy"))


@pytest.mark.promise("own-script")
def test_the_script_stands_in_the_run_with_its_digest(trained, capfd):
    text = (trained / "own.py").read_bytes()
    code = {"file": "own.py", "sha256": hashlib.sha256(text).hexdigest()}
    for folder in (trained / "run", trained / "run" / "mine"):
        assert (folder / "own.py").read_bytes() == text
    config = json.loads((trained / "run" / "mine" / "config.json").read_text())
    assert config["record"]["code"] == code
    assert config["record"]["experiment"]["model"] == {"type": "own_code:Mine"}
    assert json.loads((trained / "run" / "study.json").read_text())["code"] == code


def test_without_blocks_the_report_shows_scores_training_and_images(trained):
    page = (trained / "run" / "report.html").read_text()
    for wanted in ("The answer", 'id="image_quality_on', 'id="training"', 'id="a_test_slice"'):
        assert wanted in page, wanted


@pytest.mark.promise("code-is-named")
def test_the_report_is_rebuilt_from_the_copy_when_it_is_named(trained, capfd):
    run = trained / "run"
    before = (run / "report.html").read_bytes()
    assert cli.run(["report", str(run)]) == 1
    assert "--code own.py" in capfd.readouterr().err
    (run / "report.html").unlink()
    assert cli.run(["report", str(run), "--code", str(run / "own.py")]) == 0
    assert len((run / "report.html").read_bytes()) == pytest.approx(len(before), rel=0.05)


def test_a_changed_script_is_said_and_its_run_kept(trained, tmp_path, capfd):
    changed = tmp_path / "renamed.py"
    changed.write_text((trained / "own.py").read_text() + "# a later thought\n")
    run = trained / "run"
    ldct_jax.load(run / "mine", code=changed)
    assert "warning: renamed.py is not the script" in capfd.readouterr().err
    assert cli.run(["train", str(changed), "--scale", "smoke", "--out", str(run)]) == 0
    said = capfd.readouterr().err
    assert "finished before, kept" in said
    assert "own.py was changed since this run was trained" in said and "--out" in said


def test_own_names_are_not_taken_for_the_packages(tmp_path):
    own = tmp_path / "own.py"
    own.write_text(
        "import flax.linen as nn\n"
        "from ldct_jax.losses import l1\n"
        "from ldct_jax.study import Experiment, Study\n"
        "class UNet(nn.Module):\n"
        "    width: int = 3\n"
        "    activation: object = nn.silu\n"
        "def mse(prediction, target):\n"
        "    return abs(prediction - target).mean((1, 2, 3))\n"
        "ROWS = {'own': Experiment(UNet(), loss=mse), 'l1': Experiment(UNet(), l1)}\n"
        "STUDY = Study('names', ROWS)\n"
    )
    experiment = load_study(str(own)).rows("paper")["own"]
    written = json.loads(json.dumps(experiment.record()))
    assert written["model"]["type"] == "own_code:UNet"
    assert written["model"]["activation"] == {"function": "jax.nn:silu"}
    assert written["loss"] == {"function": "own_code:mse"}
    assert record.from_record(written) == experiment
    assert record.from_record({"type": "UNet"}) == UNet()
    assert record.from_record({"function": "mse"}) is mse
    assert load_study(str(own)).rows("paper")["l1"].record()["loss"] == {
        "function": "ldct_jax.losses:l1"
    }
    with pytest.raises(UsageError, match="own_code:mse and ldct_jax"):
        experiment.but(loss=mse).with_overrides(["loss=mse"])
    assert experiment.with_overrides(["loss=ldct_jax.losses:mse"]).loss is mse
    forget()
    with pytest.raises(CheckpointError, match="--code"):
        record.from_record(written)


def test_what_was_defined_twice_or_elsewhere_is_refused_on_writing(tmp_path):
    own = tmp_path / "own.py"
    text = "import flax.linen as nn\nclass Net(nn.Module):\n    n: int = 1\nfirst = Net()\n"
    own.write_text(text + "class Net(nn.Module):\n    n: int = 2\n")
    module = user_script.use_code(own)
    with pytest.raises(UsageError, match="Net can't be recorded"):
        record.to_record(module.first)
    assert record.to_record(module.Net()) == {"type": "own_code:Net", "n": 2}


def test_a_network_of_another_file_is_recorded_where_the_script_imports_it(tmp_path):
    (tmp_path / "networks_of_mine.py").write_text(
        "import flax.linen as nn\nclass Net(nn.Module):\n    n: int = 1\n"
    )
    own = tmp_path / "own.py"
    own.write_text("from networks_of_mine import Net\nMODEL = Net(4)\n")
    module = user_script.use_code(own)
    assert record.to_record(module.MODEL) == {"type": "own_code:Net", "n": 4}
    assert record.from_record({"type": "own_code:Net", "n": 4}) == module.MODEL


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1\ny = nothing\n", "own.py, line 2: NameError"),
        ("def f(:\n", "own.py, line 1: SyntaxError"),
        ("import not_installed_anywhere\n", "line 1: ModuleNotFoundError"),
        ("x = 1\n", "must define STUDY"),
        (
            "from ldct_jax.study import Study\nSTUDY = Study('s', {'a': 3})\n",
            "not an Experiment",
        ),
    ],
)
def test_a_script_that_fails_is_one_line(tmp_path, capfd, text, words):
    own = tmp_path / "own.py"
    own.write_text(text)
    assert cli.run(["train", str(own), "--out", str(tmp_path / "runs")]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in lines[0], lines


def test_a_run_of_a_package_network_needs_no_script(trained):
    with pytest.raises(CheckpointError, match="--code own"):
        load_model(trained / "run" / "mine")
    assert ldct_jax.load("pcn3").name == "pcn3"


HEAD = (
    "import flax.linen as nn\nimport jax.numpy as jnp\nimport optax\n"
    "from ldct_jax.study import Experiment, Study\n"
    "class Net(nn.Module):\n"
    "    @nn.compact\n"
    "    def __call__(self, y, train=False):\n"
    "        return y + nn.Conv(1, (3, 3))(y)\n"
)
MISTAKES = {
    "network": (
        "class Bad(Net):\n"
        "    @nn.compact\n"
        "    def __call__(self, y, train=False):\n"
        "        return y + jnp.zeros((1, 7, 7, 1))\n"
        "STUDY = Study('s', {'a': Experiment(Bad())})\n",
        "own.py, line 12: TypeError",
    ),
    "arguments": (
        "class Bad(Net):\n"
        "    def __call__(self, y):\n"
        "        return y\n"
        "STUDY = Study('s', {'a': Experiment(Bad())})\n",
        "the network has no parameters",
    ),
    "loss": (
        "def loss(prediction, target):\n"
        "    return prediction - target[0, 0]['x']\n"
        "STUDY = Study('s', {'a': Experiment(Net(), loss=loss)})\n",
        "own.py, line 10:",
    ),
    "scalar": (
        "def loss(prediction, target):\n"
        "    return ((prediction - target) ** 2).mean()\n"
        "STUDY = Study('s', {'a': Experiment(Net(), loss=loss)})\n",
        "one number an image",
    ),
    "channels": (
        "class Bad(Net):\n"
        "    @nn.compact\n"
        "    def __call__(self, y, train=False):\n"
        "        return nn.Conv(3, (3, 3))(y)\n"
        "STUDY = Study('s', {'a': Experiment(Bad())})\n",
        "images (B, H, W, 1)",
    ),
    "optimiser": (
        "STUDY = Study('s', {'a': Experiment(Net(), optimizer=optax.adam(1e-3))})\n",
        "build(steps, steps_per_epoch)",
    ),
    "fixed size": (
        "class Bad(Net):\n"
        "    @nn.compact\n"
        "    def __call__(self, y, train=False):\n"
        "        flat = y.reshape(len(y), -1)\n"
        "        return nn.Dense(flat.shape[1])(flat).reshape(y.shape)\n"
        "STUDY = Study('s', {'a': Experiment(Bad())})\n",
        "networks must take images of every size",
    ),
    "half the size": (
        "class Bad(Net):\n"
        "    @nn.compact\n"
        "    def __call__(self, y, train=False):\n"
        "        return nn.Conv(1, (3, 3), strides=2)(y)\n"
        "STUDY = Study('s', {'a': Experiment(Bad())})\n",
        "a: prediction (8, 12, 12, 1) and target (8, 24, 24, 1) differ in shape\n",
    ),
    "float16 parameters": (
        "class Bad(Net):\n"
        "    @nn.compact\n"
        "    def __call__(self, y, train=False):\n"
        "        return y + nn.Conv(1, (3, 3), param_dtype=jnp.float16)(y)\n"
        "STUDY = Study('s', {'a': Experiment(Bad())})\n",
        "float16 parameters: keep them float32",
    ),
    "dropout": (
        "class Bad(Net):\n"
        "    @nn.compact\n"
        "    def __call__(self, y, train=False):\n"
        "        return nn.Dropout(0.5, deterministic=not train)(nn.Conv(1, (3, 3))(y))\n"
        "STUDY = Study('s', {'a': Experiment(Bad())})\n",
        "draws random numbers",
    ),
    "whole-number loss": (
        "def loss(prediction, target):\n"
        "    return (prediction - target).round().astype(int).sum(axis=(1, 2, 3))\n"
        "STUDY = Study('s', {'a': Experiment(Net(), loss=loss)})\n",
        "the loss returns int32",
    ),
    "a class": (
        "STUDY = Study('s', {'a': Experiment(Net)})\n",
        "give a linen module with its settings",
    ),
    "half an epoch": (
        "STUDY = Study('s', {'a': Experiment(Net(), epochs=2.5)})\n",
        "epochs=2.5: a whole number",
    ),
    "a lambda": (
        "STUDY = Study('s', {'a': Experiment(Net(), loss=lambda p, t: p)})\n",
        "define it with def",
    ),
    "no variants": ("STUDY = Study('s', {})\n", "s has no variants"),
    "own data": (
        "import numpy as np\n"
        "def data(scale, where):\n"
        "    return np.load(f'{where}/low.npy')\n"
        "STUDY = Study('s', {'a': Experiment(Net())}, data=data)\n",
        "own.py, line 11: FileNotFoundError",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_data_are_made(tmp_path, capfd, mistake, monkeypatch):
    monkeypatch.setattr("ldct_jax.study.run._Session", lambda *args: pytest.fail("data are made"))
    text, words = MISTAKES[mistake]
    own = tmp_path / "own.py"
    own.write_text(HEAD + text)
    assert cli.run(["train", str(own), "--scale", "smoke", "--out", str(tmp_path / "runs")]) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and words in f"{lines[0]}\n", lines
    assert not (tmp_path / "runs").exists()


def test_a_network_that_fails_on_whole_slices_is_one_line(tmp_path, capfd):
    own = tmp_path / "own.py"
    own.write_text(
        HEAD.replace(
            "        return",
            "        if y.shape[1] > 100:\n            return y['x']\n        return",
        )
        + "STUDY = Study('s', {'a': Experiment(Net())})\n"
    )
    run = tmp_path / "runs"
    assert cli.run(["train", str(own), "--scale", "smoke", "--out", str(run)]) == 0
    np.save(tmp_path / "x.npy", np.zeros((1, 128, 128), np.float32))
    command = ["denoise", str(tmp_path / "x.npy"), str(tmp_path / "out"), "--model"]
    capfd.readouterr()
    assert cli.run([*command, str(run / "a"), "--code", str(own)]) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "own.py, line 9: TypeError" in error and "Traceback" not in error


def half_trained(folder: Path) -> Path:
    """A run of the README's script that has a checkpoint and no result."""
    script = folder / "own.py"
    script.write_text(script_of_the_readme())
    run = folder / "run"
    assert cli.run(["train", str(script), "--scale", "smoke", "--out", str(run)]) == 0
    (run / "mine" / "result.json").unlink()
    forget()
    return script


def test_a_half_trained_run_doesnt_go_on_with_another_script(tmp_path, capfd):
    script = half_trained(tmp_path)
    run, kept = tmp_path / "run", script.read_bytes()
    before = {p: p.read_bytes() for p in run.rglob("*.json")} | {run / "own.py": kept}
    script.write_text(script.read_text() + "# another loss, say\n")
    command = ["train", str(script), "--scale", "smoke", "--out", str(run)]
    assert cli.run(command) == 1
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert "own.py was changed since the training in" in error and "--out" in error
    assert {p: p.read_bytes() for p in before} == before
    forget()
    assert cli.run(["train", str(run / "mine" / "own.py"), *command[2:]]) == 0
    assert (run / "mine" / "result.json").exists()


def test_strict_refuses_a_changed_script(trained, tmp_path, capfd):
    changed = tmp_path / "own.py"
    changed.write_text((trained / "own.py").read_text() + "# a later thought\n")
    np.save(tmp_path / "x.npy", np.zeros((1, 32, 32), np.float32))
    command = ["denoise", str(tmp_path / "x.npy"), str(tmp_path / "out"), "--code", str(changed)]
    command += ["--model", str(trained / "run" / "mine")]
    assert cli.run([*command, "--strict"]) == 1
    assert "own.py is not the script" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    forget()
    assert cli.run(command) == 0
    said = capfd.readouterr().err
    assert "with the settings that the run recorded" in said
