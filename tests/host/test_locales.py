"""Names and tooltips in English, Chinese and Japanese: as many in each as the nodes have."""

from __future__ import annotations

import importlib.util
import json
import re
import urllib.request
from typing import Any

import pytest
from comfy_host import ROOT, Comfy


def words(language: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text())


def test_the_english_words_are_the_nodes_own(comfy: Comfy) -> None:
    spec = importlib.util.spec_from_file_location("english", ROOT / "locales" / "english.py")
    english = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(english)
    assert words("en") == english.of_pack(comfy.get("/object_info")), "run: python locales/english.py"


@pytest.mark.parametrize(("language", "letters"), [("zh", "[\u4e00-\u9fff]"), ("ja", "[\u3040-\u30ff]")])
def test_every_other_language_says_all_of_it(comfy: Comfy, language: str, letters: str) -> None:
    there = words(language)
    assert there.keys() == words("en").keys()
    for name, node in words("en").items():
        for part in ("inputs", "outputs"):
            assert there[name][part].keys() == node[part].keys(), (name, part)
            for socket, text in there[name][part].items():
                assert text["name"] and re.search(letters, text["tooltip"]), (name, socket)
        assert re.search(letters, there[name]["description"]), name
    served = comfy.get("/i18n")[language]
    assert served["nodeDefs"] == there and served["nodeCategories"]["TADiSR"] == "TADiSR"


@pytest.mark.parametrize("page", ["{}.md", "{}/zh.md"])
def test_every_node_has_a_help_page_that_names_its_sockets_and_has_an_image(comfy: Comfy, page: str) -> None:
    folder = f"{comfy.url}/extensions/tadisr/docs/"  # from where the page resolves a help page's links, Chinese or not
    for name, node in words("en").items():
        with urllib.request.urlopen(folder + page.format(name)) as answer:
            text = answer.read().decode()
        for socket in [*node["inputs"], *(output["name"] for output in node["outputs"].values())]:
            assert f"`{socket}`" in text, (name, socket)
        pictures = re.findall(r"!\[.+?\]\((.+?)\)", text)
        assert pictures, name
        for picture in pictures:
            with urllib.request.urlopen(folder + picture) as answer:
                assert answer.read(2) == b"\xff\xd8", (name, picture)
