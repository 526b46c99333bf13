"""Small pictures of every kind that is read, each with the pixels that Pillow gives.

    pip install -r golden/images/requirements.txt
    python golden/images/make.py golden/images

`NAME.EXT` is the picture, `NAME.EXT.rgb.png` what a model is shown: `Image.open`, `exif_transpose`,
transparency composited onto white, `convert("RGB")`. Kinds that Pillow cannot write are written here.
"""

import argparse
import io
import random
import struct
import sys
import zlib
from pathlib import Path

import PIL
from PIL import Image, ImageDraw, ImageOps

PILLOW = "13.0.0"
SIZE = WIDTH, HEIGHT = 37, 23


def chart(mode="RGB"):
    """A picture that is not symmetric in any way."""
    image = Image.new("RGB", SIZE, (250, 240, 230))
    draw = ImageDraw.Draw(image)
    for bar in range(5):
        draw.rectangle((3 + 7 * bar, 20 - 3 * bar, 7 + 7 * bar, 21), (40 * bar, 200 - 30 * bar, 90))
    draw.line((0, 0, 36, 11), (255, 0, 0))
    return image.convert(mode)


def smooth():
    """Slow changes, as a photograph has."""
    image = Image.new("RGB", SIZE)
    image.putdata([(6 * x, 10 * y, 3 * x + 5 * y) for y in range(HEIGHT) for x in range(WIDTH)])
    return image


def alpha(levels=range(256)):
    generator = random.Random(7)
    mask = Image.new("L", SIZE)
    mask.putdata([generator.choice(levels) for _ in range(WIDTH * HEIGHT)])
    return mask


def rgba():
    image = chart("RGBA")
    image.putalpha(alpha())
    return image


# First column and row, and steps between them, of each pass of an interlaced PNG.
ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]


def png(depth, colour, samples, channels, interlaced=False):
    """A PNG written here: `samples` in rows, `channels` a pixel."""

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    def lines():
        for x0, y0, dx, dy in ADAM7 if interlaced else [(0, 0, 1, 1)]:
            for y in range(y0, HEIGHT, dy):
                places = [(y * WIDTH + x) * channels for x in range(x0, WIDTH, dx)]
                yield [value for at in places for value in samples[at : at + channels]]

    raw = b""
    for line in lines():
        bits = "".join(f"{value:0{depth}b}" for value in line)
        bits += "0" * (-len(bits) % 8)
        raw += b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, depth, colour, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def xmp(orientation):
    return (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        f'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{orientation}"/>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def noise(limit, channels):
    generator = random.Random(limit * 10 + channels)
    return [generator.randrange(limit) for _ in range(WIDTH * HEIGHT * channels)]


def pictures():
    colour, palette = chart(), chart().quantize(13)
    yield "rgb.png", saved(colour, "PNG")
    yield "grey.png", saved(chart("L"), "PNG")
    yield "bits.png", saved(chart("1"), "PNG")
    yield "grey-2.png", png(2, 0, noise(4, 1), 1)
    yield "grey-4.png", png(4, 0, noise(16, 1), 1)
    yield "palette.png", saved(palette, "PNG")
    yield "palette-8.png", saved(smooth().quantize(200), "PNG")
    yield "palette-transparent.png", saved(palette, "PNG", transparency=2)
    yield "palette-alpha.png", saved(palette, "PNG", transparency=bytes(range(10, 250, 20)))
    yield "grey-key.png", saved(chart("L"), "PNG", transparency=chart("L").getpixel((20, 1)))
    yield "rgb-key.png", saved(colour, "PNG", transparency=(250, 240, 230))
    yield "grey-alpha.png", saved(rgba().convert("LA"), "PNG")
    yield "rgba.png", saved(rgba(), "PNG")
    yield "grey-16.png", png(16, 0, [v // 9 for v in noise(65536, 1)], 1)
    yield "rgb-16.png", png(16, 2, noise(65536, 3), 3)
    yield "grey-alpha-16.png", png(16, 4, noise(65536, 2), 2)
    yield "rgba-16.png", png(16, 6, noise(65536, 4), 4)
    yield "interlaced.png", png(8, 2, list(smooth().tobytes()), 3, interlaced=True)
    yield "turned.png", saved(colour, "PNG", exif=exif(6))
    for orientation in range(1, 9):
        yield f"turned-{orientation}.jpg", saved(colour, "JPEG", quality=95, subsampling=0, exif=exif(orientation))
    yield "turned-xmp.jpg", saved(colour, "JPEG", quality=95, subsampling=0, xmp=xmp(8))
    yield "rgb.jpg", saved(smooth(), "JPEG", quality=92, subsampling=0)
    yield "subsampled.jpg", saved(smooth(), "JPEG", quality=85, subsampling=2)
    yield "subsampled-bars.jpg", saved(colour, "JPEG", quality=85, subsampling=2)
    yield "half.jpg", saved(smooth(), "JPEG", quality=85, subsampling=1)
    yield "progressive.jpg", saved(colour, "JPEG", quality=85, progressive=True)
    yield "restarts.jpg", saved(colour, "JPEG", quality=85, restart_marker_blocks=2)
    yield "grey.jpg", saved(chart("L"), "JPEG", quality=90)
    yield "cmyk.jpg", saved(smooth().convert("CMYK"), "JPEG", quality=95)
    yield "rgb.webp", saved(colour, "WEBP", lossless=True)
    yield "rgba.webp", saved(rgba(), "WEBP", lossless=True, exact=True)
    yield "lossy.webp", saved(smooth(), "WEBP", quality=80)
    yield "lossy-alpha.webp", saved(rgba(), "WEBP", quality=80)
    yield "turned.webp", saved(colour, "WEBP", lossless=True, exif=exif(8))
    frames = [colour, smooth()]
    yield "frames.webp", saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    second = smooth().convert("RGBA")
    yield "frames-alpha.webp", saved(rgba(), "WEBP", save_all=True, append_images=[second], lossless=True, exact=True)
    yield "palette.gif", saved(palette, "GIF")
    yield "transparent.gif", saved(palette, "GIF", transparency=2)
    yield "interlaced.gif", saved(palette, "GIF", interlace=1)
    yield "frames.gif", saved(palette, "GIF", save_all=True, append_images=[smooth().quantize(9)])
    yield "frames-transparent.gif", saved(palette, "GIF", save_all=True, append_images=[smooth().quantize(9)], transparency=3)
    yield "rgb.bmp", saved(colour, "BMP")
    yield "palette.bmp", saved(palette, "BMP")
    yield "bits.bmp", saved(chart("1"), "BMP")
    yield "rgba.bmp", saved(rgba(), "BMP")


def shown(data):
    """What the reference loader gives."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    if PIL.__version__ != PILLOW:
        sys.exit(f"Pillow {PILLOW} is needed, found {PIL.__version__}: pip install -r requirements.txt")
    out.mkdir(parents=True, exist_ok=True)
    for name, data in pictures():
        (out / name).write_bytes(data)
        shown(data).save(out / f"{name}.rgb.png", optimize=True)


if __name__ == "__main__":
    main()
