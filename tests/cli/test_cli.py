"""The command line: every verb explains itself, works on real input, and says in one paragraph what is wrong."""

import csv
import inspect
import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

import cutaway
from cutaway import cli, nets, train
from cutaway.data import load
from cutaway.errors import ArgumentError
from cutaway.report import adversarial, open_model

VERBS = sorted(command.callback.__name__ for command in cli.app.registered_commands)


def call(*words: str):
    return CliRunner().invoke(cli.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "demo"
    train.run("lenet5", "digits", folder, epochs=1, progress=False)
    return folder


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    found = call(verb, "--help")
    assert found.exit_code == 0
    assert f"Example: cutaway {verb} " in " ".join(found.stdout.split())


def test_help_lists_the_verbs_and_version_is_printed():
    listed = call("--help").stdout
    assert all(verb in listed for verb in VERBS)
    assert call("--version").stdout.strip() == cutaway.__version__


def refused(found, *texts: str) -> None:
    """One paragraph on stderr, exit code 2, nothing on stdout, no traceback."""
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr.startswith("Error: ")
    assert found.stderr.count("\n") == 1
    for text in texts:
        assert text in found.stderr


def test_unknown_model_lists_the_nearest(tmp_path):
    refused(call("train", "lenet", "--data", "digits", "--out", tmp_path / "run"), "unknown model 'lenet'", "'lenet5'")
    refused(call("graph", "lenet"), "unknown model 'lenet'", "'lenet5'")
    assert not (tmp_path / "run").exists()


def test_unknown_data_lists_the_nearest(tmp_path):
    refused(call("train", "lenet5", "--data", "digit", "--out", tmp_path / "run"), "'digit'", "'digits'")
    assert not (tmp_path / "run").exists()


def test_unknown_setting_lists_the_nearest(tmp_path):
    found = call("train", "lenet5", "-d", "digits", "-o", tmp_path / "run", "--set", "epoch=1")
    refused(found, "'epoch'", "'epochs'")


def test_a_recipe_fills_in_what_is_not_given_and_an_unknown_one_lists_the_nearest(tmp_path, monkeypatch):
    asked = []

    def run(name, **settings):
        asked.append((name, settings["data"], settings["recipe"], settings.get("lr")))
        raise ArgumentError("enough")

    monkeypatch.setattr(train, "run", run)
    call("train", "--recipe", "cifar10-fast", "-o", tmp_path / "a")
    call("train", "resnet20_cifar", "-d", "cifar100", "--recipe", "cifar10-fast", "--lr", "0.1", "-o", tmp_path / "b")
    assert asked == [
        ("fast_cifar", "cifar10", "cifar10-fast", None), ("resnet20_cifar", "cifar100", "cifar10-fast", 0.1),
    ]  # fmt: skip
    refused(call("train", "--recipe", "cifar-fast", "-o", tmp_path / "c"), "unknown recipe", "'cifar10-fast'")


@pytest.mark.parametrize("missing", ["model", "data", "out"])
def test_train_says_what_it_needs(missing, tmp_path):
    words = {"model": ["lenet5"], "data": ["--data", "digits"], "out": ["--out", str(tmp_path / "run")]}
    refused(call("train", *(word for name, each in words.items() if name != missing for word in each)), "train needs")


def test_an_existing_run_is_refused(run_folder):
    before = (run_folder / "run.json").read_bytes()
    refused(call("train", "lenet5", "-d", "digits", "-o", run_folder), "holds a run already", "--overwrite", "--resume")
    assert (run_folder / "run.json").read_bytes() == before


def test_train_ends_with_accuracy_interval_and_the_report(tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial, "STRETCH", (1.0,))
    monkeypatch.setattr(adversarial, "EXAMPLES", (8, 8))
    folder = tmp_path / "run"
    found = call("train", "lenet5", "--data", "digits", "--out", folder, "--epochs", "1")
    assert found.exit_code == 0, found.stderr
    test = json.loads((folder / "run.json").read_text())["result"]["test"]
    lines = found.stdout.splitlines()
    low, high = (f"{100 * end:.2f} %" for end in test["interval"])
    assert lines[0] == f"test accuracy {100 * test['accuracy']:.2f} % (95 % interval {low} to {high})"
    assert lines[1:] == [f"run     {folder}", f"report  {folder / 'report.html'}"]
    assert (folder / "report.html").stat().st_size > 50_000


def captured(monkeypatch) -> dict:
    given = {}

    def run(name, **settings):
        given.update(settings, model=name)
        return SimpleNamespace(status="completed", test=None, replicates=())

    monkeypatch.setattr(train, "run", run)
    return given


def test_options_go_before_the_config_file(tmp_path, monkeypatch):
    given = captured(monkeypatch)
    config = tmp_path / "demo.toml"
    config.write_text('model = "mlp"\ndata = "digits"\nepochs = 7\nlr = 0.1\n[model_settings]\nsizes = [64, 10]\n')
    out = tmp_path / "run"
    found = call("train", "--config", config, "--out", out, "--lr", "0.5", "--set", "clip=1.5", "--no-report")
    assert found.exit_code == 0, found.stderr
    assert given["model"] == "mlp"
    assert (given["epochs"], given["lr"], given["clip"]) == (7, 0.5, 1.5)
    assert given["model_settings"] == {"sizes": [64, 10]}


def test_a_broken_config_file_is_named(tmp_path):
    config = tmp_path / "demo.toml"
    config.write_text("epochs = \n")
    refused(call("train", "lenet5", "--config", config), "demo.toml")
    refused(call("train", "lenet5", "--config", tmp_path / "none.toml"), "none.toml")
    refused(call("train", "lenet5", "--set", "epochs"), "name=value")


@pytest.mark.parametrize("how", ["raised", "returned"])
def test_ctrl_c_ends_with_130(how, tmp_path, monkeypatch):
    def run(name, **settings):
        if how == "raised":
            raise KeyboardInterrupt
        return SimpleNamespace(status="interrupted", test=None, replicates=())

    monkeypatch.setattr(train, "run", run)
    found = call("train", "lenet5", "-d", "digits", "-o", tmp_path / "run")
    assert found.exit_code == 130
    assert "Traceback" not in found.stderr


def test_report_refuses_what_is_no_run(tmp_path):
    refused(call("report", tmp_path), "holds no run")


TINY = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
            self.b.weight.copy_(torch.tensor([[5.0, 6.0]]))

    def forward(self, x):
        h = self.a(x)
        return self.b(h) + h.sum(1, keepdim=True)
"""


def test_graph_shows_values_adjoints_paths_and_orders(tmp_path):
    (tmp_path / "tiny.py").write_text(TINY)
    tiny = f"{tmp_path / 'tiny.py'}:Tiny"
    found = call("graph", tiny, "--input", "1,2", "--adjoints", "--paths", "x", "output", "--orders")
    assert found.exit_code == 0, found.stderr
    lines = [" ".join(line.split()) for line in found.stdout.splitlines()]
    assert any(line.startswith("a linear") and line.endswith("6, 7") for line in lines)  # 5 + 1 and 6 + 1
    assert any(line.startswith("x input") and line.endswith("27, 40") for line in lines)  # (6, 7)·[[1, 2], [3, 4]]
    assert any(line.startswith("x → a → b → add") and line.endswith("23, 34") for line in lines)
    assert any(line.startswith("x → a → sum → add") and line.endswith("4, 6") for line in lines)
    assert "sum 27, 40" in lines
    assert any(line.startswith("reverse 8 ") for line in lines)  # 1·1·2 twice, and 1·2·2


def test_graph_pulls_a_seed_along_the_paths_of_a_large_network():
    found = call("graph", "resnet20_cifar", "--input", "1,3,32,32", "--paths", "layer3.0", "output")
    assert found.exit_code == 0, found.stderr
    assert "along 4 paths" in found.stdout
    shares = [float(line.split()[-2]) for line in found.stdout.splitlines() if line.rstrip().endswith("%")]
    assert len(shares) == 4 and sum(shares) == pytest.approx(100, abs=0.3)


def test_graph_measures_what_forward_and_backward_cost():
    found = call("graph", "lenet5", "--input", "4,1,32,32", "--cost")
    assert found.exit_code == 0, found.stderr
    assert "416,520" in found.stdout and "1.72 in multiply-adds" in found.stdout and "batch 4" in found.stdout


def test_graph_refuses_inputs_that_do_not_fit():
    refused(call("graph", "resnet20_cifar", "--input", "1,4,32,32"), "(4, 32, 32)", "3 channels")
    refused(call("graph", "lenet5", "--input", "large"), "large", "1,3,224,224")
    refused(call("graph", "lenet5", "--paths", "x", "c33"), "'c33'", "c3")


def test_graph_prints_and_saves_the_costs(tmp_path):
    found = call("graph", "lenet5", "--out", tmp_path / "cost.csv")
    assert found.exit_code == 0, found.stderr
    assert "61,706" in found.stdout
    rows = list(csv.DictReader((tmp_path / "cost.csv").open()))
    assert sum(int(row["parameters"]) for row in rows) == 61_706
    assert call("graph", "lenet5", "--out", tmp_path / "net.svg").exit_code == 0
    assert "<svg" in (tmp_path / "net.svg").read_text()


def test_explain_writes_a_picture_and_prints_classes_and_scores(run_folder, tmp_path):
    picture = tmp_path / "explain.png"
    found = call("explain", "3", "--model", run_folder, "--method", "gradient,grad_cam", "--out", picture)
    assert found.exit_code == 0, found.stderr
    assert "true class" in found.stdout
    assert "grad_cam" in found.stdout
    assert picture.stat().st_size > 5_000


def test_attack_writes_a_picture_and_says_what_happened(run_folder, tmp_path):
    picture = tmp_path / "attack.png"
    found = call("attack", "3", "--model", run_folder, "--eps", "64/255", "--out", picture)
    assert found.exit_code == 0, found.stderr
    assert "random noise" in found.stdout
    assert "allowed 0.251" in found.stdout
    assert picture.stat().st_size > 5_000


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("deepfool", []),
        ("fgsm", ["--norm", "l2", "--eps", "2"]),
        ("square", ["--eps", "0.3", "--set", "queries=20"]),
        ("hop_skip_jump", ["--set", "steps=1", "--set", "probes=10"]),
        ("jsma", ["--set", "share=0.05"]),
    ],
)
def test_attacks_with_and_without_a_radius(method, more, run_folder, tmp_path):
    picture = tmp_path / "attack.png"
    found = call("attack", "3", "--model", run_folder, "--method", method, *more, "--out", picture)
    assert found.exit_code == 0, found.stderr
    assert f"after {method}" in found.stdout and "random noise" in found.stdout
    assert ("allowed" in found.stdout) == ("--eps" in more)
    assert picture.stat().st_size > 5_000


def test_every_attack_that_fits_one_image_is_offered():
    several = {"patch", "physical", "universal"}  # want many images, or a channel
    functions = {name: getattr(cutaway.attack, name) for name in cutaway.attack.__all__ if name[0].islower()}
    fitting = {name for name, one in functions.items() if {"model", "x", "y"} <= set(inspect.signature(one).parameters)}
    assert set(cli.attack.ATTACKS) == fitting - several


def test_attack_refuses_what_cannot_be(run_folder, tmp_path):
    one = ("attack", "3", "-m", run_folder)
    refused(call(*one, "--eps", "8"), "--eps 8/255")
    refused(call(*one, "--method", "deepfool", "--eps", "0.1"), "takes no --eps")
    refused(call(*one, "--norm", "l2"), "wants an --eps")
    refused(call(*one, "--norm", "l3"), "unknown norm 'l3'")
    refused(call(*one, "--set", "step=3"), "unknown setting of pgd 'step'", "'steps'")
    refused(call(*one, "--method", "auto_attack", "--to", "3"), "takes no target")
    refused(call(*one, "--method", "hop_skip_jump", "--to", "3"), "--start")
    refused(call(*one, "--to", "threee"), "unknown class 'threee'")
    true = int(load("digits")[2].y[3])
    refused(call(*one, "--to", str(true)), "is the picture's label")
    text = tmp_path / "photo.jpg"
    text.write_text("no picture")
    refused(call("attack", text, "-m", run_folder), "cannot be read as a picture")


def test_a_networks_name_finds_its_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CUTAWAY_DATA", str(tmp_path))
    photo = tmp_path / "photo.png"
    Image.new("RGB", (40, 40), "green").save(photo)
    for verb in ("attack", "explain"):
        found = call(verb, photo, "-m", "squeezenet1_1")
        assert found.exit_code == 2 and found.stdout == ""
        assert "no weights for pictures, squeezenet1_1, untrained, was found" in found.stderr
        assert str(tmp_path) in found.stderr
    save_file(cutaway.nets.make("squeezenet1_1").state_dict(), tmp_path / "squeezenet1_1.safetensors")
    picture = tmp_path / "attack.png"
    found = call("attack", photo, "-m", "squeezenet1_1", "--method", "fgsm", "--to", "ostrich", "-o", picture)
    assert found.exit_code == 0, found.stderr
    assert "distance" in found.stdout and picture.stat().st_size > 5_000
    found = call("explain", photo, "-m", "squeezenet1_1", "--method", "gradient", "-o", picture)
    assert found.exit_code == 0, found.stderr


def test_diagnose_prints_a_verdict_and_writes_a_picture(run_folder, tmp_path):
    picture = tmp_path / "diagnose.png"
    found = call("diagnose", "--model", run_folder, "--out", picture)
    assert found.exit_code == 0, found.stderr
    assert "Layers: " in found.stdout
    assert "Depth: " in found.stdout
    assert picture.stat().st_size > 5_000


def test_wrong_words_are_answered_with_the_nearest(run_folder):
    refused(call("explain", "3", "-m", run_folder, "--method", "gradcam"), "'grad_cam'")
    refused(call("attack", "3", "-m", run_folder, "--method", "pgdd"), "'pgd'")
    refused(call("attack", "3", "-m", run_folder, "--eps", "much"), "8/255")
    refused(call("explain", "9999", "-m", run_folder), "examples 0 … 358")
    refused(call("explain", "none.png", "-m", run_folder), "none.png")
    refused(call("explain", "3", "-m", run_folder, "--out", "map.gif"), ".png")


def test_pictures_from_files_are_read(run_folder, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 30), (200, 30, 30)).save(tmp_path / "photo.jpg")
    found = call("explain", tmp_path / "photo.jpg", "-m", run_folder, "--method", "gradient", "-o", tmp_path / "e.png")
    assert found.exit_code == 0, found.stderr


def test_models_from_functions_and_weights(run_folder, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n\n\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    asked = f"{tmp_path / 'mine.py'}:net"
    assert "650" in call("graph", asked, "--data", "digits").stdout
    refused(call("graph", f"{tmp_path / 'mine.py'}:nett"), "'net'")
    refused(call("graph", f"{tmp_path / 'none.py'}:net"), "none.py")
    assert "61,706" in call("graph", run_folder / "model.safetensors").stdout
    torch.save({"a": torch.zeros(1)}, tmp_path / "strange.pth")
    refused(call("graph", tmp_path / "strange.pth"), "which network")
    refused(call("graph", tmp_path / "no_folder/"), "no such file or folder")


def test_weights_converted_from_tensorflow_get_its_pixels_and_padding(tmp_path):
    made = nets.make("mobilenet_v2", seed=0, padding="same").eval()
    words = {"input": "RGB, v/127.5 - 1 (range -1..1)", "note": "stride 2 wants TensorFlow SAME padding"}
    save_file(made.state_dict(), tmp_path / "mobilenet_v2.safetensors", words)
    x = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        found = open_model(str(tmp_path / "mobilenet_v2.safetensors")).model(x)
        assert torch.allclose(found, made(2 * x - 1), atol=1e-5)
