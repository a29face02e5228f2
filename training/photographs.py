"""Photographs that scikit-image ships, split once and for all into training and evaluation.

Only those whose entry in scikit-image names CC0 or the public domain (or "no known copyright
restrictions") are used; its stereo pair, its faces and the images without a statement are not.
"""

from pathlib import Path

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

FOR_TRAINING = {
    "astronaut.png": "public domain, NASA",
    "coffee.png": "CC0, Rachel Michetti",
    "hubble_deep_field.jpg": "public domain, NASA",
    "retina.jpg": "CC0, Mikael Häggström",
    "ihc.png": "no known copyright restrictions, CMMI",
    "brick.png": "CC0, cc0textures.com",
    "gravel.png": "CC0, cc0textures.com",
    "text.png": "public domain, Wikipedia",
    "clock_motion.png": "public domain, Stefan van der Walt",
}
FOR_EVALUATION = {
    "chelsea.png": "CC0, Stefan van der Walt",
    "rocket.jpg": "public domain, SpaceX",
    "camera.png": "CC0, Lav Varshney",
    "grass.png": "CC0, linolafett",
    "coins.png": "no known copyright restrictions, Brooklyn Museum",
}
"""Never seen in training, not even as a crop."""


def load_photograph(name: str) -> NDArray[np.uint8]:
    """Read one of the photographs named above as H x W x 3."""
    folder = Path(skimage.__file__).parent / "data"
    return np.asarray(Image.open(folder / name).convert("RGB"))
