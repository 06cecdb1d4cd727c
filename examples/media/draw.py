"""Draws picture.jpg, the upload of the demo: mountains over a lake at dusk.

The picture is ours, as this script is (Apache-2.0), and is checked in so that nobody needs to draw it again:

    python examples/media/draw.py

The same Pillow draws the same picture: nothing in it is random but a seeded generator.
"""

from __future__ import annotations

import math
import random
from itertools import pairwise
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

WIDTH, HEIGHT = 1800, 1200  # pixels
HORIZON = 760  # the lake's upper edge, in pixels from the top
SUN = (1240, 560, 74)  # centre and radius, in pixels

Colour = tuple[int, int, int]

SKY: list[tuple[float, Colour]] = [
    (0.0, (24, 30, 74)),
    (0.45, (120, 70, 128)),
    (0.75, (236, 126, 96)),
    (1.0, (255, 205, 130)),
]
RIDGES: list[tuple[int, int, Colour]] = [  # height above the horizon, roughness, colour; the farthest first
    (330, 150, (122, 84, 130)),
    (240, 120, (84, 62, 108)),
    (150, 90, (52, 44, 82)),
    (70, 50, (26, 26, 52)),
]


def gradient(stops: list[tuple[float, Colour]], height: int) -> Image.Image:
    """A vertical gradient one pixel wide, for `resize` to spread."""
    column = Image.new("RGB", (1, height))
    for y in range(height):
        at = y / max(1, height - 1)
        lower = max(i for i, (stop, _) in enumerate(stops) if stop <= at)
        upper = min(lower + 1, len(stops) - 1)
        (start, first), (end, second) = stops[lower], stops[upper]
        share = 0.0 if end == start else (at - start) / (end - start)
        red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
        column.putpixel((0, y), (red, green, blue))
    return column


def ridge(height: int, roughness: int, rng: random.Random) -> list[tuple[float, float]]:
    """A skyline by midpoint displacement, as a closed polygon down to the horizon."""
    line = [HORIZON - height * rng.uniform(0.5, 1.0) for _ in range(3)]
    swing = float(roughness)
    while len(line) < 513:
        middles = [(a + b) / 2 + rng.uniform(-swing, swing) for a, b in pairwise(line)]
        line = [y for pair in zip(line, middles, strict=False) for y in pair] + [line[-1]]
        swing *= 0.52
    step = WIDTH / (len(line) - 1)
    skyline = [(i * step, min(y, HORIZON - 4.0)) for i, y in enumerate(line)]
    return [(0.0, float(HORIZON)), *skyline, (float(WIDTH), float(HORIZON))]


def draw() -> Image.Image:
    """The whole picture, WIDTH x HEIGHT, RGB."""
    rng = random.Random(1912)  # noqa: S311 - scenery, not secrets
    picture = gradient(SKY, HORIZON).resize((WIDTH, HORIZON)).crop((0, 0, WIDTH, HEIGHT))

    glow = Image.new("L", picture.size)
    x, y, radius = SUN
    ImageDraw.Draw(glow).ellipse((x - 4 * radius, y - 4 * radius, x + 4 * radius, y + 4 * radius), fill=110)
    ImageDraw.Draw(glow).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    halo = glow.filter(ImageFilter.GaussianBlur(60))
    picture.paste((255, 226, 160), mask=halo)
    disc = Image.new("L", picture.size)
    ImageDraw.Draw(disc).ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    picture.paste((255, 244, 206), mask=disc.filter(ImageFilter.GaussianBlur(2)))

    stars = ImageDraw.Draw(picture)
    for _ in range(160):
        star_x, star_y = rng.randrange(WIDTH), rng.randrange(330)
        stars.point((star_x, star_y), fill=(225, 225, 240))

    for height, roughness, colour in RIDGES:
        ImageDraw.Draw(picture).polygon(ridge(height, roughness, rng), fill=colour)

    mirrored = picture.crop((0, 2 * HORIZON - HEIGHT, WIDTH, HORIZON)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    lake = ImageChops.multiply(mirrored, Image.new("RGB", mirrored.size, (150, 160, 190)))
    picture.paste(lake, (0, HORIZON))
    for row in range(lake.height):  # ripples: each row of the reflection swings a little further than the last
        shift = round(math.sin(row * row / 900) * (1 + row / 45))
        picture.paste(lake.crop((0, row, WIDTH, row + 1)), (shift, HORIZON + row))
    return picture.filter(ImageFilter.GaussianBlur(0.6))


if __name__ == "__main__":
    target = Path(__file__).with_name("picture.jpg")
    draw().save(target, quality=88, optimize=True)
    print(f"{target.name}: {WIDTH} x {HEIGHT} pixels, {target.stat().st_size // 1024} KiB")
