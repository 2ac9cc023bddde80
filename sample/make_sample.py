"""Draws the sample image of the demo: a shop front with large and small, Latin and Chinese, level and upright text.

    python sample/make_sample.py [HR.png]        # needs the extra train, and fonts-noto-cjk, fonts-liberation

Writes sample/sample.png (320 x 240), and where a name is given the 1280 x 960 image it was made from.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

HERE = Path(__file__).parent
WIDTH, HEIGHT = 1280, 960
NOTO = "/usr/share/fonts/opentype/noto/"
LIBERATION = "/usr/share/fonts/truetype/liberation/"
FONTS = {
    "sans": NOTO + "NotoSansCJK-Regular.ttc",
    "bold": NOTO + "NotoSansCJK-Bold.ttc",
    "serif": NOTO + "NotoSerifCJK-Bold.ttc",
    "latin": LIBERATION + "LiberationSans-Regular.ttf",
    "roman": LIBERATION + "LiberationSerif-Regular.ttf",
    "italic": LIBERATION + "LiberationSerif-BoldItalic.ttf",
}
SIMPLIFIED = 2  # the face of Noto's collections

rng = np.random.default_rng(7)


def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(FONTS[name], size, index=SIMPLIFIED if FONTS[name].endswith(".ttc") else 0)


def wall() -> Image.Image:
    """Bricks with mortar, every one of its own shade, lit from the upper left."""
    picture = np.full((HEIGHT, WIDTH, 3), (176, 168, 156), np.float32)
    for row, y in enumerate(range(0, HEIGHT, 40)):
        for x in range(-60 * (row % 2), WIDTH, 120):
            shade = np.array((148, 86, 66)) * rng.uniform(0.8, 1.15) + rng.normal(0, 5, 3)
            picture[y + 3 : y + 37, max(x, 0) + 3 : x + 117] = shade
    grain = cv2.GaussianBlur(rng.normal(0, 1, (HEIGHT, WIDTH)), (0, 0), 2.0) * 26 + rng.normal(0, 5, (HEIGHT, WIDTH))
    light = np.linspace(1.12, 0.78, WIDTH)[None] * np.linspace(1.06, 0.86, HEIGHT)[:, None]
    return Image.fromarray(np.clip((picture + grain[..., None]) * light[..., None], 0, 255).astype(np.uint8))


def board(size: tuple[int, int], color: tuple[int, int, int]) -> Image.Image:
    """A painted plate, a little uneven, darker towards its foot."""
    width, height = size
    uneven = cv2.GaussianBlur(rng.normal(0, 1, (height, width)), (0, 0), 9) * 30
    shade = np.linspace(8, -12, height)[:, None]
    pixels = np.array(color, np.float32) + (uneven + shade)[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def hang(scene: Image.Image, plate: Image.Image, corners: list[tuple[int, int]], shadow: int = 10) -> Image.Image:
    """The plate in perspective at its four corners (clockwise from the upper left), with its shadow on the wall."""
    width, height = plate.size
    source = np.array([(0, 0), (width, 0), (width, height), (0, height)], np.float32)
    matrix = cv2.getPerspectiveTransform(source, np.array(corners, np.float32))
    flat = cv2.warpPerspective(np.asarray(plate), matrix, (WIDTH, HEIGHT), flags=cv2.INTER_AREA)
    cover = cv2.warpPerspective(np.full((height, width), 255, np.uint8), matrix, (WIDTH, HEIGHT))
    dark = Image.fromarray(cover).transform(scene.size, Image.Transform.AFFINE, (1, 0, -shadow, 0, 1, -shadow))
    dark = dark.filter(ImageFilter.GaussianBlur(shadow * 0.7)).point(lambda v: v * 0.55)
    scene.paste((20, 16, 14), (0, 0), dark)
    scene.paste(Image.fromarray(flat), (0, 0), Image.fromarray(cover))
    return scene


def shop_sign() -> Image.Image:
    plate = board((820, 250), (22, 66, 58))
    d = ImageDraw.Draw(plate)
    d.rectangle((12, 12, 807, 237), outline=(206, 172, 96), width=4)
    d.text((410, 88), "老街书店", font=font("serif", 122), fill=(238, 214, 150), anchor="mm")
    d.text((410, 196), "OLD STREET BOOKS & TEA", font=font("roman", 50), fill=(240, 232, 210), anchor="mm")
    return plate


def upright_sign() -> Image.Image:
    plate = board((150, 560), (150, 28, 30))
    d = ImageDraw.Draw(plate)
    for i, character in enumerate("茶馆营业中"):
        d.text((75, 66 + i * 92), character, font=font("bold", 82), fill=(250, 236, 214), anchor="mm")
    d.text((75, 524), "OPEN", font=font("latin", 40), fill=(250, 220, 120), anchor="mm")
    return plate


def notice() -> Image.Image:
    plate = board((470, 500), (238, 236, 228))
    d = ImageDraw.Draw(plate)
    d.text((24, 18), "营业时间 Opening hours", font=font("bold", 34), fill=(30, 30, 34))
    d.line((24, 76, 446, 76), fill=(120, 30, 30), width=3)
    lines = [
        ("latin", 30, "Monday - Friday   9:00 - 18:30"),
        ("latin", 30, "Saturday            10:00 - 17:00"),
        ("sans", 29, "星期日休息，节假日照常营业"),
        ("roman", 27, "Please ring the bell and wait inside."),
        ("sans", 25, "请勿在门前停放自行车和电动车"),
        ("latin", 25, "Tel. 010-6552 8841  www.oldst.cn"),
        ("sans", 22, "地址：东城区和平里北街十七号"),
        ("latin", 21, "Second-hand books bought every Tuesday"),
        ("sans", 19, "旧书收购请先电话联系，谢谢您的配合"),
        ("latin", 18, "No. 20418  printed in Beijing, March 2021"),
    ]
    y = 92
    for name, size, text in lines:
        d.text((24, y), text, font=font(name, size), fill=(40, 40, 46))
        y += round(size * 1.28) + 6
    return plate


def price() -> Image.Image:
    plate = board((330, 190), (244, 206, 70))
    d = ImageDraw.Draw(plate)
    d.text((165, 48), "今日特价 Today only", font=font("bold", 30), fill=(110, 20, 16), anchor="mm")
    d.text((165, 120), "¥38.50", font=font("italic", 84), fill=(150, 16, 16), anchor="mm")
    return plate


def scene() -> Image.Image:
    picture = wall()
    picture = hang(picture, shop_sign(), [(70, 60), (900, 34), (900, 296), (70, 306)], 14)
    picture = hang(picture, upright_sign(), [(1010, 60), (1166, 84), (1160, 660), (1008, 620)], 18)
    picture = hang(picture, notice(), [(90, 380), (560, 372), (566, 884), (84, 890)], 6)
    picture = hang(picture, price(), [(620, 480), (948, 452), (960, 648), (630, 668)], 8)
    vignette = 1 - 0.25 * np.hypot(*np.meshgrid(np.linspace(-1, 1, WIDTH), np.linspace(-1, 1, HEIGHT))) ** 2 / 2
    pixels = np.asarray(picture, np.float32) * vignette[..., None]
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.5))


def photograph(hr: Image.Image) -> Image.Image:
    """What a small camera makes of it: a little blur, a quarter of each side, noise, JPEG."""
    small = hr.filter(ImageFilter.GaussianBlur(1.1)).resize((WIDTH // 4, HEIGHT // 4), Image.Resampling.BICUBIC)
    noisy = np.asarray(small, np.float32) + rng.normal(0, 1.5, (HEIGHT // 4, WIDTH // 4, 3))
    _, data = cv2.imencode(".jpg", np.clip(noisy, 0, 255).astype(np.uint8)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
    return Image.fromarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


if __name__ == "__main__":
    hr = scene()
    photograph(hr).save(HERE / "sample.png")
    for name in sys.argv[1:]:
        hr.save(name)
