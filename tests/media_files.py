"""Small files that tests of media put into archives, records and answers of servers."""

import io

from PIL import Image


def picture(width=60, height=40, format="PNG", **options):
    """An encoded picture of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (220, 30, 30)).save(stream, format, **options)
    return stream.getvalue()
