"""Compares faces, in a process of its own, for the room that loads no engine: `face_worker dlib`. Leaves when stdin closes.

Out, first: {"model": "…"} or {"refused": "engine-missing"|"engine-refused"}. In: {"ask": n, "live": bytes, "photo": bytes}, a line, then
the two pictures. Out: {"ask": n, "score_x1000": distance} or {"ask": n, "word": one of face.PICTURE_WORDS}. It gives up the network
before it loads anything (`cage`), writes no file and keeps no picture. Started by `face`.

The one engine, dlib (Boost licence): faces found by HOG, turned by five landmarks, described by 128 numbers of a ResNet; the score is the
distance of two descriptions in thousandths (its authors: the same person below 600). Weights: package face-recognition-models (CC0);
its file of 68 landmarks, trained on data for research only, is never opened. LIMIT: whether a living person stands there is not asked.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final, Protocol

from edge.idcheck.cage import CageError, no_outside

MOST_BYTES: Final = 8 << 20
MOST_PIXELS: Final = 40_000_000
SIDE: Final = 800
"""Pictures are brought to this longer side: found once doubled, faces from 40 pixels on are found, in 0.2 s."""
SMALL_SIDE: Final = 400
"""A chip's photo (102 x 126) is enlarged to this: its face is some 70 pixels wide, and the engine works on 150."""
WEIGHTS: Final = {"landmarks": "shape_predictor_5_face_landmarks.dat", "describer": "dlib_face_recognition_resnet_model_v1.dat"}


class Unusable(Exception):
    """A picture that cannot be compared. `word`: one of face.PICTURE_WORDS."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class NoEngine(Exception):
    """The engine cannot be had. `word`: engine-missing, engine-refused."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word


class Engine(Protocol):
    """What `serve` asks."""

    model: str

    def compare(self, live: bytes, photo: bytes) -> int:
        """Distance of the largest faces in two pictures, in thousandths. Unusable with its word if there is none."""


class DlibEngine:
    """dlib with the weights of face-recognition-models. NoEngine if the optional packages are not installed, or not whole."""

    def __init__(self) -> None:
        # dlib, NumPy and OpenCV are looked for here and nowhere else: a room without the extra has none of the first
        os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MOST_PIXELS)
        found = importlib.util.find_spec("face_recognition_models")     # found, not imported: its __init__ wants an old setuptools
        if found is None or not found.submodule_search_locations:
            raise NoEngine("engine-missing")
        folder = Path(next(iter(found.submodule_search_locations))) / "models"
        try:
            import cv2
            import dlib
            import numpy

            self._cv2, self._numpy = cv2, numpy
            cv2.setNumThreads(1)
            self._find = dlib.get_frontal_face_detector()
            self._turn = dlib.shape_predictor(str(folder / WEIGHTS["landmarks"]))
            self._describe = dlib.face_recognition_model_v1(str(folder / WEIGHTS["describer"]))
            digest = hashlib.sha256((folder / WEIGHTS["describer"]).read_bytes()).hexdigest()
        except ImportError as error:
            raise NoEngine("engine-missing") from error
        except (OSError, RuntimeError) as error:        # dlib: a file that is missing or torn
            raise NoEngine("engine-refused") from error
        self.model = f"dlib-{dlib.__version__}-resnet-v1-{digest[:12]}"

    def compare(self, live: bytes, photo: bytes) -> int:
        """See Engine."""
        one, other = self._description(live, "live"), self._description(photo, "photo")
        return round(1000 * float(self._numpy.linalg.norm(one - other)))

    def _description(self, data: bytes, which: str) -> Any:
        picture = self._picture(data)
        if picture is None:
            raise Unusable(f"unreadable-{which}")
        faces = self._find(picture, 1)
        if not faces:
            raise Unusable(f"no-face-{which}")
        face = self._turn(picture, max(faces, key=lambda each: each.area()))
        return self._numpy.array(self._describe.compute_face_descriptor(picture, face))

    def _picture(self, data: bytes) -> Any:
        """Red, green, blue, brought to a size that the engine likes; None if it is no picture."""
        cv2, numpy = self._cv2, self._numpy
        try:
            picture = cv2.imdecode(numpy.frombuffer(data, numpy.uint8), cv2.IMREAD_COLOR)
            if picture is None:
                return None
            longer = max(picture.shape[:2])
            factor = SIDE / longer if longer > SIDE else SMALL_SIDE / longer if longer < SMALL_SIDE else 1.0
            if factor != 1.0:
                picture = cv2.resize(picture, None, fx=factor, fy=factor,
                                     interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
            return numpy.ascontiguousarray(picture[:, :, ::-1])
        except cv2.error:               # too many pixels, or none
            return None


def serve(engine: Engine, stdin: BinaryIO, stdout: BinaryIO) -> None:
    """Answer until stdin ends. ValueError for what is no question: then there is no knowing where the next one begins."""
    _say(stdout, {"model": engine.model})
    while line := stdin.readline(4096):
        question = json.loads(line)
        sizes = question["live"], question["photo"]
        if not all(type(size) is int and 0 <= size <= MOST_BYTES for size in sizes):
            raise ValueError("a picture of no size")
        live, photo = (stdin.read(size) for size in sizes)
        if (len(live), len(photo)) != sizes:
            return                      # the room left in the middle of a picture
        try:
            answer: dict[str, Any] = {"score_x1000": engine.compare(live, photo)}
        except Unusable as unusable:
            answer = {"word": unusable.word}
        _say(stdout, {"ask": question["ask"], **answer})


def _say(stdout: BinaryIO, what: dict[str, Any]) -> None:
    stdout.write(json.dumps(what).encode() + b"\n")
    stdout.flush()


def main(engine: str) -> int:
    """Run with the engine of that name (there is one: dlib)."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)                       # whatever a library prints is no answer
    with suppress(OSError):
        os.nice(5)                      # the recording comes first
    try:
        no_outside()
        if engine != "dlib":
            raise NoEngine("engine-missing")
        loaded = DlibEngine()
    except CageError:
        _say(answers, {"refused": "engine-refused"})
        return 1
    except NoEngine as missing:
        _say(answers, {"refused": missing.word})
        return 1
    serve(loaded, sys.stdin.buffer, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
