"""From a wanted size to passes of the network."""

from __future__ import annotations

import math

import pytest

from tadisr import ConfigError
from tadisr.images import output_size
from tadisr.inference.target_size import scale_for, split_passes


@pytest.mark.parametrize(
    ("target", "size", "expected"),
    [
        ("scale", 2.5, (600, 800)), ("shortest side", 1000, (1000, 1333)), ("longest side", 2048, (1536, 2048)),
        ("megapixels", 1.2288, (960, 1280)), ("shortest side", 100, (240, 320)),
    ],
)  # fmt: skip
def test_the_result_has_the_wanted_size(target: str, size: float, expected: tuple[int, int]) -> None:
    """An image that is larger already keeps its size."""
    assert output_size(240, 320, scale_for(240, 320, target, size)) == expected


def test_more_than_4_takes_a_second_pass_and_more_than_16_is_refused() -> None:
    assert split_passes(2.0) == [2.0] and split_passes(4.0) == [4.0]
    assert split_passes(10.0) == [4.0, 2.5] and math.prod(split_passes(16.0)) == 16
    with pytest.raises(ConfigError, match=r"100000 as longest side is 312.5 times the image of 320x240: at most 16"):
        scale_for(240, 320, "longest side", 100000)
    with pytest.raises(ConfigError, match="expected one of scale, shortest side"):
        scale_for(240, 320, "width", 5)
    with pytest.raises(ConfigError, match="expected more than 0"):
        scale_for(240, 320, "megapixels", 0)
