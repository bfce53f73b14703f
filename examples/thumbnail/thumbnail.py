"""Makes a thumbnail of the photograph in the request body.

The body is the image file itself, the answer is a JPEG. Pillow does the pixels; everything else is
what a web service has to care about: pictures that lie on their side, pictures with transparency,
files that are not pictures, and pictures that are far too large.
"""

import base64
import io

from PIL import Image, ImageOps, UnidentifiedImageError

# A file of a few kilobytes can unpack to gigabytes of pixels.
Image.MAX_IMAGE_PIXELS = 50000000


def handler(event, context):
    if not isinstance(event, bytes):
        return refusal(415, "send an image file as the request body")
    try:
        picture = Image.open(io.BytesIO(event))
        picture.load()
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        return refusal(415, "cannot read this as an image: {}".format(error))

    longest = int(context.getUserData("longest", "160"))
    thumbnail = upright_rgb(picture)
    thumbnail.thumbnail((longest, longest))
    context.getLogger().info("%s %s -> %s", picture.format, picture.size, thumbnail.size)

    file = io.BytesIO()
    thumbnail.save(file, "JPEG", quality=82, optimize=True)
    return {
        "statusCode": 200,
        "headers": {
            "Content-Type": "image/jpeg",
            "X-Original-Size": "{}x{}".format(*picture.size),
            "X-Thumbnail-Size": "{}x{}".format(*thumbnail.size),
        },
        "isBase64Encoded": True,
        "body": base64.b64encode(file.getvalue()).decode("ascii"),
    }


def upright_rgb(picture):
    """Turns the picture as its camera meant it, and puts transparent ones on white."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("RGBA", "LA", "P"):
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return picture.convert("RGB")


def refusal(status, reason):
    return {
        "statusCode": status,
        "headers": {"Content-Type": "text/plain; charset=utf-8"},
        "body": reason + "\n",
    }
