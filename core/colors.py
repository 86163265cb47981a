"""The colors of runs. A run gets its color when it is created and keeps it in every table and chart."""

import zlib

PALETTE = (
    "#3b7dd8", "#d9702b", "#3a9d63", "#b8559b", "#8a6fd1", "#b08d12", "#3399a8", "#d1584f",
)  # fmt: skip
"""Colors of similar lightness, based on Okabe and Ito. Legible on light and dark backgrounds and for color-blind users."""


def color_of_new_run(existing_runs: int) -> str:
    """Return the next color in the palette, so that consecutive runs differ."""
    return PALETTE[existing_runs % len(PALETTE)]


def color_of_old_run(name: str) -> str:
    """Return the color of a run created by a version that did not store colors. Depends only on its name."""
    return PALETTE[zlib.crc32(name.encode()) % len(PALETTE)]
