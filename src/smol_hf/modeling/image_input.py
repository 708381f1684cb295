"""The images that someone hands to the processor, in any of their shapes → PIL images, in reading order."""

from pathlib import Path

import numpy as np
from PIL import Image
from transformers.image_utils import load_image


def images_of(messages):
    """The images in the parts of a conversation, loaded, in reading order."""
    parts = [part for message in messages if not isinstance(message["content"], str) for part in message["content"]]
    images = []
    for part in parts:
        if part["type"] == "image":
            image = next((part[key] for key in ("image", "path", "url") if part.get(key) is not None), None)
            if image is None:
                raise ValueError('an image part needs its image: {"type": "image", "image": PIL image, path or URL}')
            images.append(as_image(image))
    return images


def as_image(image):
    """A PIL image from a PIL image, an array or tensor (height, width, 3), a path or a URL."""
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, (str, Path)):
        return load_image(str(image))
    return Image.fromarray(np.asarray(image))


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
