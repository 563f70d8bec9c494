"""Faces of nobody, drawn from ellipses: enough for a detector trained on gradients, and no person's picture in the repository."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def draw(seed: int, width: int = 640, height: int = 480) -> Picture:
    """Head, hair, eyes, brows, nose and mouth, their places and colours from `seed`; blurred, shaded and a little noisy (BGR)."""
    dice = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), dice.integers(90, 160, 3), np.float32)
    x, y, across, down = width // 2, height // 2, 90 + int(dice.integers(-12, 12)), 125 + int(dice.integers(-12, 12))
    skin = np.array([150, 175, 215]) - dice.integers(0, 60)
    hair = dice.integers(10, 60, 3)

    def oval(at_x: float, at_y: float, half_x: float, half_y: float, colour: Any, turn: float = 0, begin: int = 0, thick: int = -1) -> None:
        at, half = (int(at_x), int(at_y)), (int(half_x), int(half_y))
        cv2.ellipse(canvas, at, half, turn, begin, 360, [float(c) for c in colour], thick, cv2.LINE_AA)

    oval(x, y + down * 1.5, across * 1.8, down * 0.7, dice.integers(30, 120, 3))
    oval(x, y + down * 0.8, across * 0.5, down * 0.6, skin * 0.85)
    oval(x, y - down * 0.25, across * 1.12, down, hair)
    oval(x, y, across, down, skin)
    oval(x, y - down * 0.85, across * 0.9, down * 0.35, hair)
    apart, up = across * (0.42 + dice.uniform(-0.05, 0.05)), y - down * (0.18 + dice.uniform(-0.03, 0.03))
    for side in (-1, 1):
        oval(x + side * apart, up, across * 0.28, down * 0.13, skin * 0.75)
        oval(x + side * apart, up, across * 0.2, down * 0.065, (235, 235, 235))
        oval(x + side * apart, up, across * 0.085, down * 0.062, (40, 40, 50))
        oval(x + side * apart, up - down * (0.16 + dice.uniform(-0.02, 0.02)), across * 0.27, down * 0.045, hair, side * 6, 180, 6)
    oval(x, y + down * 0.12, across * 0.1, down * 0.2, skin * 0.93)
    oval(x, y + down * 0.3, across * 0.2, down * 0.06, skin * 0.72)
    wide, low = across * (0.38 + dice.uniform(-0.08, 0.08)), y + down * (0.56 + dice.uniform(-0.04, 0.04))
    oval(x, low, wide, down * 0.08, (90, 80, 160))
    oval(x, low, wide, down * 0.015, (50, 40, 90))
    soft = cv2.GaussianBlur(canvas, (0, 0), 3)
    away = np.abs(np.linspace(-1, 1, width))[None, :, None]
    return np.asarray(np.clip(soft * (1 - 0.5 * away * (away < 0.5)) + dice.normal(0, 3, soft.shape), 0, 255), np.uint8)


def jpeg(picture: NDArray[Any]) -> bytes:
    """As a camera's picture comes."""
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
