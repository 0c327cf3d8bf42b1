"""The page: valid, self-contained, small, complete, and computed from the run folder alone."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from cutaway import report, train
from cutaway.data import Dataset
from cutaway.errors import RunFolderError
from cutaway.report import adversarial, signals
from cutaway.report.subject import read_subject
from cutaway.report.write import CHAPTERS, chapter

VOID = {"meta", "img", "link", "br", "hr", "input"}


class Checker(HTMLParser):
    """Collects what is wrong with a page, its figures, links and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open, self.faults, self.links, self.ids = [], [], [], []
        self.captions, self.figures, self.words, self.failed = [], 0, [], 0

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.links += [given[name] for name in ("src", "href", "action", "data", "poster") if name in given]
        self.figures += tag == "figure"
        self.ids += [given["id"]] if "id" in given else []
        self.failed += "failed" in (given.get("class") or "").split()
        if tag == "img" and not given.get("alt"):
            self.faults.append("an image without a text for those who cannot see it")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
        if "figcaption" in self.open:
            self.captions.append(data.strip())


def checked(text: str) -> Checker:
    found = Checker()
    found.feed(text)
    found.close()
    assert found.faults == []
    assert found.open == []
    return found


@pytest.fixture(scope="module")
def page(run_folder):
    kept = adversarial.STRETCH, adversarial.EXAMPLES
    adversarial.STRETCH, adversarial.EXAMPLES = (1.0, 2.0), (16, 16)
    try:
        return report.write(run_folder, progress=False).read_text("utf-8")
    finally:
        adversarial.STRETCH, adversarial.EXAMPLES = kept


def test_the_page_is_balanced_and_every_chapter_is_made(page):
    found = checked(page)
    assert found.failed == 0
    assert [text for text in CHAPTERS if f">{text}</h2>" not in page] == []


def test_the_page_needs_no_network_and_runs_no_script(page):
    links = checked(page).links
    assert links
    assert all(link.startswith(("data:image/", "#")) for link in links)
    assert not re.search(r"https?://|@import|<script|javascript:|url\((?!#)", page)


def test_links_within_the_page_lead_somewhere(page):
    found = checked(page)
    assert {link[1:] for link in found.links if link.startswith("#")} <= set(found.ids)


def test_the_page_is_small(page):
    assert len(page.encode()) < 5_000_000


def test_every_figure_has_one_sentence_that_says_what_to_look_for(page):
    found = checked(page)
    assert found.figures == len(found.captions) >= 10
    for caption in found.captions:
        assert caption.startswith("Look ")
        assert caption.endswith(".")
        assert not re.search(r"[a-z)]\. [A-Z]", caption), "one sentence"


def test_the_page_shows_the_run_s_own_numbers(page, run_folder):
    record = json.loads((run_folder / "run.json").read_text())
    test = record["result"]["test"]
    assert f"{100 * test['accuracy']:.1f}\u00a0%" in page
    low, high = test["interval"]
    assert f"{100 * low:.1f}\u00a0% to {100 * high:.1f}\u00a0%" in page
    assert f"{record['model']['parameters']:,} parameters" in page
    for one in record["replicates"]:
        assert f"{100 * one['test_accuracy']:.2f} %" in page


def test_all_methods_have_a_score_for_eight_digits(page):
    assert len(re.findall(r"<small>score \d\.\d\d</small>", page)) == 24


def test_the_page_has_both_colour_schemes_and_a_viewport(page):
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page


def test_a_second_writing_gives_the_same_page_and_leaves_the_run(page, run_folder, quick_attacks):
    before = {path.name: path.read_bytes() for path in run_folder.iterdir() if path.is_file()}
    assert report.write(run_folder, progress=False).read_text("utf-8") == page
    assert {path.name: path.read_bytes() for path in run_folder.iterdir() if path.is_file()} == before


def test_a_chapter_that_fails_says_so_and_the_others_stay():
    def broken(subject):
        raise ValueError("no such layer")

    section = chapter("What it looks at", broken, None)
    assert section.failed
    assert "ValueError: no such layer" in section.missing[0]
    assert section.title == "What it looks at"


def test_without_initial_weights_the_start_is_left_out(run_folder, tmp_path):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    (folder / "initial.safetensors").unlink()
    made = signals.section(read_subject(folder))
    assert len(made.figures) == 2
    assert "holds no initial weights" in made.missing[0]
    assert "Before training" not in made.words[0]


def test_a_network_without_convolution_says_why_there_is_no_grad_cam(tmp_path, quick_attacks):
    train.run("mlp", "digits", tmp_path / "mlp", epochs=1, progress=False)
    text = report.write(tmp_path / "mlp", progress=False).read_text("utf-8")
    assert checked(text).failed == 0
    assert "There is no Grad-CAM: the network has no convolution" in text


def colour_images(n: int) -> Dataset:
    y = torch.arange(n) % 3
    x = 0.3 * torch.rand(n, 3, 12, 12)
    x[torch.arange(n), y] += 0.6  # the class is the channel that is bright
    return Dataset(x, y, ("red", "green", "blue"), "colours")


def test_colour_images_from_python(tmp_path, quick_attacks):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(400, 3))
    parts = colour_images(60), colour_images(20), colour_images(30)
    train.fit(net, *parts, out=tmp_path / "run", epochs=3, lr=0.01, progress=False)
    text = report.write(tmp_path / "run", data=parts, model=net, progress=False).read_text("utf-8")
    assert checked(text).failed == 0
    assert "12×12 colour images" in text
    assert "red" in text


def table(n: int) -> Dataset:
    x = torch.randn(n, 5)
    return Dataset(x, (x[:, 0] > 0).long(), ("low", "high"), "table")


def test_tables_say_what_cannot_be_shown(tmp_path):
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))
    parts = table(80), table(40), table(40)
    train.fit(net, *parts, out=tmp_path / "run", epochs=2, lr=0.01, progress=False)
    text = report.write(tmp_path / "run", data=parts, model=net, progress=False).read_text("utf-8")
    assert checked(text).failed == 0
    for told in ("no Grad-CAM", "no pixels can be attacked", "not images", "column 0"):
        assert told in text


def test_data_that_were_not_loaded_by_name_are_asked_for(tmp_path):
    net = nn.Sequential(nn.Linear(5, 2))
    train.fit(net, table(20), table(10), out=tmp_path / "run", epochs=1, progress=False)
    with pytest.raises(RunFolderError, match="pass them"):
        report.write(tmp_path / "run", model=net)


def test_large_networks_are_attacked_briefly():
    small, large = adversarial.effort(400_000), adversarial.effort(2_000_000_000)
    assert (small.examples, small.steps, small.checks) == (200, 20, True)
    assert (large.examples, large.steps, large.checks) == (8, 10, False)
    costs = [adversarial.effort(n).examples for n in (10**4, 10**6, 10**7, 10**8, 10**9, 10**10)]
    assert costs == sorted(costs, reverse=True)


def test_a_page_that_cannot_be_written_is_said(run_folder, tmp_path, quick_attacks):
    folder = shutil.copytree(run_folder, tmp_path / "copy")
    (folder / "report.html").unlink(missing_ok=True)
    (folder / "report.html").mkdir()
    (folder / "report.html" / "in the way").touch()
    with pytest.raises(RunFolderError, match="cannot be written"):
        report.write(folder, progress=False)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"run\.json is missing"):
        report.write(tmp_path)
