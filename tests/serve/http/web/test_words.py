"""The page's words and files, read from the source: complete in both languages, and nothing from elsewhere."""

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from seedvr2_ray.media.codecs import CODECS, IMAGE_CONTAINERS
from seedvr2_ray.serve.http.page import read_page
from seedvr2_ray.serve.http.problem_bodies import all_kinds
from seedvr2_ray.serve.jobs import JobState
from seedvr2_ray.settings import Codec, ColourMatch, Container

WEB = Path(__file__).parents[4] / "seedvr2_ray" / "serve" / "http" / "web"
SCRIPTS = sorted((WEB / "js").glob("*.js"))
PAGES = sorted(WEB.glob("*.html"))
VENDORED = {"tus.min.js": "2370de43c57969760dfdab84e2b50a675c5459b91e4c8f809e6fda0f8376c892"}
MAX_LINES = 450
# Words looked up by a name that the service gives, or that a script puts together.
FAMILIES = (
    *("problem.", "model.", "state.", "refused.", "colour."),
    *("frames.", "live.speed.", "pending.changes.", "announce.added.", "start.many."),
)


def words_of(language):
    return json.loads((WEB / "languages" / f"{language}.json").read_text(encoding="utf-8"))


class _Texts(HTMLParser):
    """Collects what the page's HTML says under each key."""

    def __init__(self):
        super().__init__()
        self.texts = []
        self._open = None

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.texts += [
            (key, values[name.removeprefix("data-t-")]) for name, key in values.items() if name.startswith("data-t-")
        ]
        self._open = values.get("data-t")

    def handle_data(self, data):
        if self._open:
            self.texts.append((self._open, " ".join(data.split())))
            self._open = None


def texts_of_the_page():
    parser = _Texts()
    for page in PAGES:
        parser.feed(page.read_text(encoding="utf-8"))
    return parser.texts


def keys_in_scripts():
    source = "\n".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    plain = set(re.findall(r'\bt\(\s*"([a-z][\w.-]+)"', source))
    chosen = {key for pair in re.findall(r'\? "([a-z_]+\.[\w.]+)" : "([a-z_]+\.[\w.]+)"', source) for key in pair}
    plurals = {f"{key}.{form}" for key in re.findall(r'\bplural\("([\w.]+)"', source) for form in ("one", "other")}
    return plain | chosen | plurals


def test_both_languages_say_everything():
    english, chinese = words_of("en"), words_of("zh")
    assert list(english) == list(chinese)
    for key, text in english.items():
        assert text.strip() and chinese[key].strip(), key
        assert set(re.findall(r"\{\w+\}", text)) == set(re.findall(r"\{\w+\}", chinese[key])), key


def test_the_html_says_in_english_what_the_table_says():
    english = words_of("en")
    texts = texts_of_the_page()
    assert len(texts) > 40
    for key, text in texts:
        assert english[key] == text, key


def test_scripts_use_words_that_exist_and_no_word_is_left_over():
    english = set(words_of("en"))
    used = keys_in_scripts() | {key for key, _ in texts_of_the_page()}
    assert used - english == set()
    assert {key for key in english - used if not key.startswith(FAMILIES)} == set()


def test_every_kind_of_problem_and_every_state_has_words():
    english = words_of("en")
    for kind in (*all_kinds(), "offline"):
        assert {f"problem.{kind}.title", f"problem.{kind}.remedy"} <= set(english)
    for state in JobState:
        assert f"state.{state}" in english
    for choice in ColourMatch.__args__:
        assert f"colour.{choice}" in english


def test_codecs_and_containers_of_the_page_are_those_of_the_encoders():
    html = (WEB / "index.html").read_text(encoding="utf-8")
    options = re.findall(
        r'<option value="(\w+)" data-containers="([\w ]+)"(?: data-crf="(\d+)" data-max-crf="(\d+)")?>', html
    )
    told = {name: (tuple(held.split()), int(crf or -1), int(most or 0)) for name, held, crf, most in options}
    videos = {name: facts for name, facts in CODECS.items() if name not in IMAGE_CONTAINERS}
    assert told == {
        name: (facts.containers, -1 if facts.crf is None else facts.crf, facts.max_crf)
        for name, facts in videos.items()
    }
    chosen = {
        field: re.findall(r'<option value="(\w+)"', part)
        for field, part in re.findall(r'<select id="(\w+)"(.*?)</select>', html, re.DOTALL)
    }
    assert set(chosen["container"]) == set(Container.__args__)
    assert set(chosen["codec"]) | set(chosen["picture"]) == set(Codec.__args__)


def test_files_that_can_be_chosen_are_not_refused_by_their_names():
    html = (WEB / "index.html").read_text(encoding="utf-8")
    accepted = re.findall(r"\.(\w+)(?=[,\"])", re.search(r'accept="([^"]+")', html)[1])
    script = (WEB / "js" / "pending.js").read_text(encoding="utf-8")
    known = {
        name
        for names in re.findall(r"^const (?:VIDEO|IMAGE) = \[(.+)\];", script, re.MULTILINE)
        for name in re.findall(r"\w+", names)
    }
    assert set(accepted) == known


def test_code_that_is_not_ours_is_what_its_table_says_it_is():
    assert {path.name for path in (WEB / "vendor").glob("*.js")} == set(VENDORED)
    for name, digest in VENDORED.items():
        assert hashlib.sha256((WEB / "vendor" / name).read_bytes()).hexdigest() == digest
        assert (WEB / "vendor" / f"{name.split('.')[0]}.LICENSE").is_file()


def test_the_page_names_no_other_host():
    ours = {path: file for path, file in read_page().items() if not path.startswith("vendor/")}
    for path, file in ours.items():
        text = file.content.decode().replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z0-9-]+\.[a-z]", text), path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_nothing_in_the_html_is_inline(page):
    html = page.read_text(encoding="utf-8")
    assert not re.search(r"\s(style|on\w+)=|<style|javascript:|<script(?![^>]*\ssrc=)", html)


@pytest.mark.parametrize("path", [*SCRIPTS, *sorted((WEB / "css").glob("*.css"))], ids=lambda path: path.name)
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES
