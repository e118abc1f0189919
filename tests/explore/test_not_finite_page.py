"""The page of a network whose values are NaN or infinite, of one channel and one class: nothing breaks, all is said."""

import torch
from torch import nn

from vertebra.explore.document import build_document
from vertebra.explore.observation import build_structure, observe
from vertebra.explore.options import Options
from vertebra.explore.photo import read_photo
from vertebra.explore.subject import load_subject


class Broken(nn.Module):
    """0 / 0 after the first convolution; an addition, a concatenation and a norm without parameters behind it."""

    input_size = (1, 16, 16)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4, affine=False), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        y = self.norm(self.second(x / (x * 0))) + x
        return self.head(torch.cat([x, y], 1).mean((2, 3)).nan_to_num(0, 0, 0))


def test_what_is_no_number_is_said(show, noise):
    torch.manual_seed(0)
    subject = load_subject(Broken().eval())
    observation = observe(build_structure(subject), read_photo(noise(16, 16), subject.preprocessing))
    page = show(build_document([observation], Options()), width=1300, height=900)
    said = ""
    for part in observation.structure.parts:
        page.evaluate("part => { location.hash = part }", part)
        page.locator(f'[data-part="{part}"][aria-selected="true"]').wait_for()
        said += page.locator(".inspectors").inner_text()
    assert "NaN / ∞" in said and "null" not in said and "undefined" not in said
    assert "one channel" in page.locator(".photo-way").inner_text()
    notes = page.locator(".notes").text_content()
    assert "Some values are NaN or infinite" in notes and "one output" in notes
