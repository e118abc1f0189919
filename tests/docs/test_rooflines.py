"""The figures of the chapter on bytes are drawn from devices.toml and from bench/results/roofline.json as they are."""

import re

import pytest


def numbers(svg):
    """All that is drawn, without what differs between versions of matplotlib."""
    return re.findall(r"<path d=\"[^\"]+\"|<!-- [^>]+ -->", svg)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["rooflines", "predicted"])
def test_figures_are_up_to_date(name, docs_module):
    make = docs_module("make_rooflines")
    for language in make.LANGUAGES:
        path = make.FOLDER / (f"{name}.svg" if language == "en" else f"{name}.{language}.svg")
        assert numbers(path.read_text(encoding="utf-8")) == numbers(make.svg(name, language)), "make_rooflines.py"


def test_both_devices_have_their_ridge_where_their_figures_say(docs_module):
    from matplotlib.figure import Figure

    make = docs_module("make_rooflines")
    for language in make.LANGUAGES:
        canvas = Figure()
        make.draw_rooflines(canvas, language, {"vgg16": 200.0})
        ridges = [line.get_xdata()[0] for line in canvas.axes[0].lines if line.get_marker() == "o"]
        assert ridges == pytest.approx([355 / 76.8, 494.7 / 3.35])
