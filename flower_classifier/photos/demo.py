"""Draw a small set of flower pictures, so that everything can be tried without photos and without a network.

    python -m flower_classifier.photos.demo demo/flowers

Writes train/, valid/ and test/, each with one folder per species, numbered as in cat_to_name.json.
"""

import colorsys
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from flower_classifier.base import process
from flower_classifier.base.messages import InputError
from flower_classifier.base.parser import Parser

SIZE = 96  # pixels a side of the finished picture
OVERSAMPLING = 3  # pictures are drawn this many times larger, then reduced, for smooth edges
PICTURES = {"train": 60, "valid": 15, "test": 15}  # a species

Color = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class Species:
    """How a species is drawn. Colours of different species overlap, so that shapes have to be learned."""

    petals: tuple[int, int]  # fewest and most, in the outermost ring
    rings: int
    width: float  # of a petal, as a share of its length
    pointed: float  # 0 round, 1 sharp
    hues: tuple[float, ...]  # of the petals, in degrees
    saturation: tuple[float, float]
    centre: float  # radius, as a share of the flower's
    centre_hue: float
    centre_value: float

    def draw(self, rng: np.random.Generator, size: int = SIZE) -> Image.Image:
        """Draw a flower: a blurred garden, rings of petals from the outside in, a speckled centre, then the weather."""
        canvas = draw_garden(rng, size * OVERSAMPLING)
        draw = ImageDraw.Draw(canvas)
        radius = canvas.width * rng.uniform(0.28, 0.46)
        centre = tuple(canvas.width * rng.uniform(0.4, 0.6, 2))
        tilt = rng.uniform(0.7, 1.0)  # seen from the side, a flower is an ellipse
        hue, saturation = rng.choice(self.hues), rng.uniform(*self.saturation)
        petals, turn = int(rng.integers(self.petals[0], self.petals[1] + 1)), rng.uniform(0, 2 * math.pi)
        for ring in range(self.rings):
            length = radius * (1 - ring / (self.rings + 0.6))
            shade = rng.uniform(0.82, 1.0) * (1 - 0.08 * ring)
            for petal in range(petals - ring):
                angle = turn + 2 * math.pi * (petal + 0.5 * (ring % 2)) / (petals - ring) + rng.normal(0, 0.05)
                color = hsv(hue + rng.normal(0, 4), saturation, shade * rng.uniform(0.88, 1.0))
                outline = self.petal(length * rng.uniform(0.9, 1.05))
                draw.polygon(placed(outline, angle, centre, tilt), fill=color, outline=darker(color, 0.8))
                vein = [(0.25 * length, 0.0), (0.75 * length, 0.0)]
                draw.line(placed(vein, angle, centre, tilt), fill=darker(color, 0.9), width=OVERSAMPLING)
        (x, y), disc, color = centre, radius * self.centre, hsv(self.centre_hue, 0.75, self.centre_value)
        draw.ellipse((x - disc, y - disc * tilt, x + disc, y + disc * tilt), fill=color)
        for distance, angle in zip(disc * np.sqrt(rng.random(30)), rng.uniform(0, 2 * math.pi, 30), strict=True):
            dot_x, dot_y = x + distance * math.cos(angle), y + distance * math.sin(angle) * tilt
            draw.ellipse((dot_x - 2, dot_y - 2, dot_x + 2, dot_y + 2), fill=darker(color, rng.uniform(0.6, 1.1)))
        picture = canvas.resize((size, size), Image.Resampling.LANCZOS)
        blurred = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.0)))  # sharpness, light and noise vary
        light = rng.uniform(0.6, 1.2) * rng.uniform(0.9, 1.1, 3)  # brightness and white balance
        values = np.asarray(blurred, dtype=np.float64) * light + rng.normal(0, rng.uniform(2, 14), (*picture.size, 3))
        return Image.fromarray(values.clip(0, 255).astype(np.uint8))

    def petal(self, length: float) -> list[Point]:
        """Return a petal that grows from the origin along the x axis: half-width sin(pi t^k), k by how pointed."""
        along = np.linspace(0, 1, 16)
        half = 0.5 * self.width * length * np.sin(math.pi * along ** (1.6 - self.pointed))
        upper = list(zip(along * length, half, strict=True))
        return upper + [(x, -y) for x, y in reversed(upper)]


SPECIES = {
    "49": Species((14, 20), 1, 0.22, 0.2, (50,), (0.0, 0.08), 0.26, 48, 0.95),  # oxeye daisy
    "51": Species((5, 5), 1, 1.05, 0.0, (285, 330, 0, 50), (0.05, 0.75), 0.12, 60, 0.9),  # petunia
    "54": Species((18, 26), 2, 0.24, 0.8, (42, 50), (0.75, 0.95), 0.42, 28, 0.3),  # sunflower
    "74": Species((7, 9), 4, 0.95, 0.1, (350, 335, 48), (0.25, 0.85), 0.08, 350, 0.5),  # rose
    "78": Species((10, 14), 2, 0.42, 0.6, (325, 335, 50), (0.08, 0.5), 0.17, 55, 0.9),  # lotus
    "91": Species((6, 6), 1, 0.55, 0.7, (0, 10, 340), (0.15, 0.9), 0.1, 75, 0.75),  # hippeastrum
}


def draw_dataset(folder: Path, pictures: dict[str, int] | None = None, seed: int = 0, size: int = SIZE) -> None:
    """Write `pictures` of every species into `folder`; the same picture for the same seed, split and number."""
    for split, count in (pictures or PICTURES).items():
        for name, species in SPECIES.items():
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                key = [seed, list(PICTURES).index(split), int(name), i]
                picture = species.draw(np.random.default_rng(key), size)
                picture.save(folder / split / name / f"drawn_{i:03d}.jpg", quality=88)


def draw_garden(rng: np.random.Generator, size: int) -> Image.Image:
    """Draw a background of blurred leaves, sometimes soil or sky."""
    hue, value = rng.choice([110, 95, 130, 35, 205]), rng.uniform(0.2, 0.6)
    garden = Image.new("RGB", (size, size), hsv(hue, 0.45, value))
    draw = ImageDraw.Draw(garden)
    for _ in range(rng.integers(12, 30)):
        x, y = rng.uniform(-0.1, 1.0, 2) * size
        width, height = rng.uniform(0.08, 0.4, 2) * size
        leaf = hsv(rng.normal(105, 15), rng.uniform(0.3, 0.7), rng.uniform(0.15, 0.65))
        draw.ellipse((x, y, x + width, y + height), fill=leaf)
    return garden.filter(ImageFilter.GaussianBlur(size * rng.uniform(0.01, 0.04)))


def placed(points: list[Point], angle: float, centre: Point, tilt: float) -> list[Point]:
    """Turn points about the origin, tilt them away from the viewer, and move them to the flower's centre."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return [(centre[0] + x * cosine - y * sine, centre[1] + (x * sine + y * cosine) * tilt) for x, y in points]


def hsv(hue: float, saturation: float, value: float) -> Color:
    """Make an RGB colour of a hue in degrees, a saturation and a value from 0 to 1."""
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1, min(max(saturation, 0), 1), min(max(value, 0), 1))
    return round(255 * red), round(255 * green), round(255 * blue)


def darker(color: Color, factor: float) -> Color:
    """Scale a colour's brightness."""
    red, green, blue = (min(255, round(channel * factor)) for channel in color)
    return red, green, blue


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the set into the folder named on the command line."""
    parser = Parser("demo.py", __doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where the pictures go; created if missing")
    folder = parser.parse(argv)["folder"]
    try:
        draw_dataset(folder)
    except OSError as error:
        raise InputError(f"cannot write to {folder}: {error.strerror}") from None


if __name__ == "__main__":
    process.run(main, as_program=True)
