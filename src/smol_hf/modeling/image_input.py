"""The images that someone hands to the processor, in any of their shapes → PIL images, in reading order."""

import io
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from PIL import Image, ImageOps

from .image_tiling import bytes_of, flatten_to_rgb

ADDRESSES = ("http://", "https://", "data:image/")


def images_of(messages):
    """The images in the parts of a conversation, loaded, in reading order."""
    parts = [part for message in messages if not isinstance(message["content"], str) for part in message["content"]]
    images = []
    for part in parts:
        if part["type"] == "image":
            given = [part[key] for key in ("image", "path", "url") if part.get(key) is not None]
            if len(given) != 1:
                raise ValueError('an image part has one image: {"type": "image", "image": PIL image, path or URL}')
            images.append(as_image(given[0]))
        elif part["type"] != "text":
            raise ValueError(f"a part has the type {part['type']!r}: text or image")
    return images


def as_image(image):
    """A PIL image in RGB from a PIL image, a path, a URL, or an array or tensor (height, width[, 1, 3 or 4]).

    The same picture as in training: turned as its EXIF tag says, on a white page where it is transparent, 16 bits
    scaled to 8, float pixels taken from [0, 1].

    Raises:
        ValueError: for animations, for arrays of another shape, and for pixels without a known white.
    """
    if isinstance(image, (str, Path)):
        image = open_picture(str(image))
    elif not isinstance(image, Image.Image):
        image = from_array(np.asarray(image))
    if frames_of(image) > 1:
        raise ValueError(f"the image holds {image.n_frames} frames or pages: give the one that is meant")
    return flatten_to_rgb(ImageOps.exif_transpose(image))


def frames_of(image):
    """Frames of an animation or pages of a document. A camera's MPO is one photograph with its previews."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def open_picture(place):
    if place.startswith(ADDRESSES):
        with urlopen(place, timeout=30) as answer:
            return Image.open(io.BytesIO(answer.read()))
    return Image.open(place)


def from_array(pixels):
    if pixels.ndim not in (2, 3) or 0 in pixels.shape or (pixels.ndim == 3 and pixels.shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"an array of shape {pixels.shape} is no picture: (height, width) or (height, width, 1, 3 or 4)"
        )
    if pixels.dtype.kind in "iu" and pixels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"an array of {pixels.dtype} has no known white: give uint8, uint16, or floats in [0, 1]")
    return Image.fromarray(bytes_of(pixels).squeeze(2) if pixels.shape[2:] == (1,) else bytes_of(pixels))


def distribute(images, counts):
    """One list of images per prompt, from any of the shapes that `SmolHFProcessor.__call__` takes."""
    if images is None:
        return [[] for _ in counts]
    if not isinstance(images, (list, tuple)):
        images = [images]
    if images and isinstance(images[0], (list, tuple)):
        if len(images) != len(counts):
            raise ValueError(f"there are {len(counts)} texts, but images for {len(images)}: give a list for each")
        return [[as_image(image) for image in group] for group in images]
    images = [as_image(image) for image in images]
    if len(images) != sum(counts):
        raise ValueError(f"the text has places for {sum(counts)} images, but {len(images)} images were given")
    stops = np.cumsum(counts).tolist()
    return [images[stop - count : stop] for stop, count in zip(stops, counts)]
