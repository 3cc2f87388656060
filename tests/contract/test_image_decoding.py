"""Image files of every depth, turn and colour, each with the right levels; the files are written byte by byte."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_bytes import (
    P3_PRIMARIES,
    SRGB_PRIMARIES,
    png_chunk,
    srgb_curve,
    to_d50,
    write_ink_profile,
    write_png,
    write_profile,
    write_tiff,
)
from image_files import write_tree
from PIL import Image, ImageCms, features

from undiffuse.data import FolderConfig, load_dataset
from undiffuse.data.readers.decoding.code_points import NOT_READ
from undiffuse.data.readers.decoding.colour import BROKEN, UNFIT
from undiffuse.data.readers.decoding.image import BROKEN_EXIF, FRAMES, decode_image, read_header, read_image
from undiffuse.errors import UsageError

LEVELS_16 = [0, 127, 128, 129, 0x1FF, 1000, 32767, 32768, 40000, 65407, 65408, 65535]


def decoded(content: bytes, background: int = 255) -> np.ndarray:
    """The pixels, (H, W) or (H, W, 3); the header has said as much."""
    image, header = read_image(content, background), read_header(content, background)
    assert (header.height, header.width, header.grey) == (image.height, image.width, image.mode == "L")
    return np.asarray(image).astype(int)


def nearest(levels: object, white: int = 65535) -> np.ndarray:
    return np.floor(np.asarray(levels, dtype=np.float64) * 255 / white + 0.5).astype(int)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    if form == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow does not write AVIF")
    image.save(content := io.BytesIO(), form, **options)
    return content.getvalue()


# PNG


@pytest.mark.parametrize("filtered", [0, 1])
def test_sixteen_bit_levels_are_rounded_in_every_kind_of_png(filtered: int) -> None:
    grey = np.array([LEVELS_16])
    assert decoded(write_png(grey, 16, 0, filtered=filtered)).tolist() == nearest(grey).tolist()
    colours = np.stack([grey, grey[:, ::-1], grey // 2], axis=-1)
    assert np.array_equal(decoded(write_png(colours, 16, 2, filtered=filtered)), nearest(colours))
    opaque = np.full_like(grey, 65535)
    assert np.array_equal(decoded(write_png(np.stack([grey, opaque], -1), 16, 4, filtered=filtered)), nearest(grey))
    rgba = np.dstack([colours, opaque])
    assert np.array_equal(decoded(write_png(rgba, 16, 6, filtered=filtered)), nearest(colours))
    half = decoded(write_png(np.dstack([colours, opaque // 2 + 1]), 16, 6, filtered=filtered), background=0)
    assert np.abs(half - nearest(colours) / 2).max() <= 1


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_level_of_a_grey_png_shows_the_background_at_every_depth(depth: int) -> None:
    white = 2**depth - 1
    levels = np.array([[0, white, 0, white // 2]])
    transparency = png_chunk(b"tRNS", struct.pack(">H", white))
    expected = np.where(levels == white, 77, nearest(levels, white))
    assert np.array_equal(decoded(write_png(levels, depth, 0, transparency), background=77), expected)


def test_the_transparent_colour_of_a_png_of_16_bits_is_compared_with_all_its_bits() -> None:
    levels = np.array([[[1000, 2000, 3000], [1001, 2000, 3000], [1000, 2000, 3256]]])
    found = decoded(write_png(levels, 16, 2, png_chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000))))
    assert found.tolist() == [[[255, 255, 255], *nearest(levels)[0, 1:].tolist()]]


def exif(orientation: int, start: bytes = b"") -> bytes:
    return start + b"MM\0\x2a\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x112, 3, 1, orientation, 0) + bytes(4)


def xmp(orientation: int) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()


def raw_profile(orientation: int) -> bytes:
    content = exif(orientation, b"Exif\0\0")
    return b"Raw profile type exif\0\nexif\n%8d\n%s\n" % (len(content), content.hex().encode())


XMP = b"XML:com.adobe.xmp\0\0\0\0\0"
TURNS = {
    "eXIf": lambda value: png_chunk(b"eXIf", exif(value)),
    "text": lambda value: png_chunk(b"tEXt", raw_profile(value)),
    "packed text": lambda value: png_chunk(
        b"zTXt", raw_profile(value).replace(b"\0", b"\0\0", 1)[:23] + zlib.compress(raw_profile(value)[22:])
    ),
    "XMP": lambda value: png_chunk(b"iTXt", XMP + xmp(value)),
    "packed XMP": lambda value: png_chunk(b"iTXt", XMP[:-4] + b"\1\0\0\0" + zlib.compress(xmp(value))),
}
LYING = np.array([[1, 2, 3], [4, 5, 6]])  # its first row becomes the right-hand column where it is turned by 6
UPRIGHT_6 = [[4, 1], [5, 2], [6, 3]]


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize("kind", sorted(TURNS))
def test_a_png_is_turned_wherever_its_orientation_stands(kind: str, place: str) -> None:
    content = write_png(LYING, 8, 0, **{place: TURNS[kind](6)})
    assert decoded(content).tolist() == UPRIGHT_6 and decode_image(content).rotated


def test_exif_is_believed_before_its_text_and_that_before_xmp() -> None:
    def found(*chunks: bytes) -> list[list[int]]:
        return decoded(write_png(LYING, 8, 0, after=b"".join(chunks))).tolist()

    assert found(TURNS["XMP"](3), TURNS["text"](1), TURNS["eXIf"](6)) == UPRIGHT_6
    assert found(TURNS["XMP"](3), TURNS["text"](6)) == UPRIGHT_6
    assert found(TURNS["XMP"](6), TURNS["eXIf"](1)) == LYING.tolist()
    assert found(TURNS["XMP"](6), TURNS["eXIf"](0)) == UPRIGHT_6  # 0 says nothing
    assert found(TURNS["XMP"](6), png_chunk(b"eXIf", b"garbage of some length")) == UPRIGHT_6


def avif_with_broken_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "the camera's maker"
    content = saved(Image.new("L", (8, 4), 9), "AVIF", exif=exif, quality=100)
    assert content.count(b"MM\0\x2a") == 1
    return content.replace(b"MM\0\x2a", b"????")


def jpeg(segment: bytes) -> bytes:
    content = saved(Image.new("L", (8, 4), 9), "JPEG")
    return content[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(segment)) + segment + content[2:]


BROKEN_METADATA = {
    "eXIf of a PNG": lambda: write_png(np.full((4, 8), 9), 8, 0, png_chunk(b"eXIf", b"garbage!" * 4)),
    "eXIf of a PNG, changed": lambda: write_png(np.full((4, 8), 9), 8, 0, TURNS["eXIf"](6)[:-1] + b"?"),
    "text of a PNG": lambda: write_png(np.full((4, 8), 9), 8, 0, png_chunk(b"tEXt", raw_profile(6)[:-3] + b"xyz")),
    "WebP": lambda: saved(Image.new("L", (8, 4), 9), "WEBP", exif=b"garbage!" * 4, lossless=True),
    "AVIF": avif_with_broken_exif,
    "JPEG": lambda: jpeg(b"Exif\0\0garbage!garbage!"),
}


@pytest.mark.parametrize("kind", sorted(BROKEN_METADATA))
def test_intact_pixels_with_broken_exif_are_read_and_counted(kind: str, tmp_path: Path) -> None:
    content = BROKEN_METADATA[kind]()
    assert decoded(content).shape[:2] == (4, 8) and np.abs(decoded(content) - 9).max() <= 1
    write_tree(tmp_path, {"a.png": content, "b.png": write_png(np.full((4, 8), 9), 8, 0)})
    assert load_dataset(FolderConfig(path=str(tmp_path))).provenance["decoding"] == f"1 image {BROKEN_EXIF}"


def test_no_metadata_of_a_png_stops_it() -> None:
    text = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**21)))  # more than Pillow unpacks
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**21)))
    damaged = png_chunk(b"tEXt", b"Comment\0hello")[:-1] + b"?"
    frames = png_chunk(b"acTL", struct.pack(">II", 3, 0)) + png_chunk(b"fcTL", bytes(26))[:-2] + b"??"
    for chunk in (text, profile, damaged, frames, png_chunk(b"gAMA", b""), png_chunk(b"tIME", b"x")):
        for place in ("before", "after"):
            assert decoded(write_png(LYING, 8, 0, **{place: chunk})).tolist() == LYING.tolist()
    shortened = write_png(LYING, 8, 0, text)
    with pytest.raises(UsageError, match="damaged or cut short"):
        read_image(shortened[: shortened.index(b"IDAT") + 8])


def test_no_bit_that_flips_in_a_png_changes_its_pixels_unsaid() -> None:
    levels = np.random.default_rng(0).integers(0, 4, (12, 12), np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="PNG")
    content, others = file.getvalue(), 0
    for bit in range(8 * 8, 8 * len(content), 3):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = np.asarray(read_image(bytes(damaged)))
        except UsageError as error:
            others += "its pixels do not match their checksum" in str(error)
        else:
            assert np.array_equal(found, levels), bit
    assert others > 100


def test_an_animated_png_gives_its_first_frame_and_reports_so(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), level) for level in (200, 10, 30)]
    content = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert (decoded(content) == 200).all()
    write_tree(tmp_path, {"a.png": content, "b.gif": saved(frames[1], "GIF", save_all=True, append_images=frames)})
    assert load_dataset(FolderConfig(path=str(tmp_path))).provenance["decoding"] == f"2 images {FRAMES}"


# TIFF


def packed(levels: list[int], bits: int) -> bytes:
    """Levels one after the other, the most significant bit first."""
    return np.packbits([level >> bit & 1 for level in levels for bit in range(bits - 1, -1, -1)]).tobytes()


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiffs_of_one_channel_have_the_right_black_and_white(order: str, compression: int) -> None:
    def found(levels: list[int], bits: int, photometric: int, **tags: int) -> list[int]:
        content = np.array(levels, f"{order}u{bits // 8}").tobytes() if bits > 12 else packed(levels, bits)
        tags |= {"compression": compression}
        return decoded(write_tiff([content], (1, len(levels)), [bits], photometric, order, **tags))[0].tolist()

    assert found(LEVELS_16, 16, 1) == nearest(LEVELS_16).tolist()
    for bits in (1, 2, 4, 8):
        levels = [0, 2**bits - 1, 2 ** (bits - 1), 1] * 2
        assert found(levels, bits, 1) == nearest(levels, 2**bits - 1).tolist()
        assert found(levels, bits, 0) == (255 - nearest(levels, 2**bits - 1)).tolist()
    twelve = [0, 1, 0x800, 2000, 4094, 4095]
    if order == "<":
        assert found(twelve, 12, 1) == nearest(twelve, 4095).tolist()
        assert found(LEVELS_16, 16, 0) == nearest(65535 - np.array(LEVELS_16)).tolist()
        assert found(LEVELS_16, 16, 0, big=1) == nearest(65535 - np.array(LEVELS_16)).tolist()
        return
    for levels, bits, photometric in [(LEVELS_16, 16, 0), (twelve, 12, 1)]:
        with pytest.raises(
            UsageError, match=f"TIFF of {bits} bits, photometric interpretation .*, which is not supported"
        ):
            found(levels, bits, photometric)


@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("order", ["<", ">"])
def test_tiffs_of_several_channels_of_16_bits_are_rounded(order: str, compression: int) -> None:
    def found(levels: np.ndarray, photometric: int, **tags: int) -> np.ndarray:
        content, bits = levels.astype(f"{order}u2").tobytes(), [16] * levels.shape[-1]
        tags |= {"compression": compression}
        return decoded(write_tiff([content], levels.shape[:2], bits, photometric, order, **tags), background=0)

    grey = np.array([LEVELS_16])
    rgb = np.stack([grey, grey[:, ::-1], grey // 2], axis=-1)
    half = np.full_like(grey, 32768)
    assert np.array_equal(found(rgb, 2), nearest(rgb))
    assert np.array_equal(found(np.dstack([rgb, half]), 2, extra=0), nearest(rgb))
    assert np.abs(found(np.dstack([rgb, half]), 2, extra=2) - nearest(rgb) / 2).max() <= 1
    assert np.abs(found(np.dstack([rgb // 2, half]), 2, extra=1) - nearest(rgb) / 2).max() <= 1
    ink = np.dstack([rgb, np.zeros_like(grey)])
    assert np.array_equal(found(ink, 5), 255 - nearest(rgb))
    with pytest.raises(UsageError, match="not supported; save it with 8 or 16 unsigned bits"):
        found(np.dstack([grey, half]), 1, extra=2)


@pytest.mark.parametrize("compression", [1, 8])
def test_tiffs_in_separate_planes_are_right_or_rejected(compression: int) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (3, 2, 4))

    def tiff(kind: str, bits: list[int], photometric: int) -> bytes:
        planes = [plane.astype(kind).tobytes() for plane in levels[: len(bits)]]
        return write_tiff(planes, (2, 4), bits, photometric, planar=2, compression=compression)

    assert np.array_equal(decoded(tiff("u1", [8] * 3, 2)), levels.transpose(1, 2, 0))
    assert np.array_equal(decoded(tiff("u1", [8], 1)), levels[0])
    for bits, photometric in [([16] * 3, 2), ([16], 1), ([8], 0)]:
        try:
            found = decoded(tiff("<u2" if bits[0] == 16 else "u1", bits, photometric))
        except UsageError as error:
            assert "separate planes (PlanarConfiguration 2)" in str(error) and "save it interleaved" in str(error)
        else:
            assert len(bits) == 1
            assert np.array_equal(found, 255 - levels[0] if photometric == 0 else nearest(levels[0]))


@pytest.mark.parametrize(("kind", "bits", "form"), [("<i2", 16, 2), ("i1", 8, 2), ("<f8", 64, 3), ("<f2", 16, 3)])
def test_numbers_without_a_known_black_and_white_are_rejected(kind: str, bits: int, form: int) -> None:
    content = write_tiff([np.array([0, 1], kind).tobytes()], (1, 2), [bits], 1, format=form)
    with pytest.raises(UsageError, match=r"x.tif: a TIFF of .*(signed|floating).*save"):
        read_image(content, title="x.tif")


@pytest.mark.parametrize("photometric", [0, 1])
def test_floats_are_from_0_to_1_whatever_the_other_tags(photometric: int, tmp_path: Path) -> None:
    def tiff(*levels: float) -> bytes:
        return write_tiff([np.array(levels, "<f4").tobytes()], (1, len(levels)), [32], photometric, format=3)

    found = decoded(tiff(0, 0.25, 0.5, 1))[0].tolist()
    assert found == ([0, 64, 128, 255] if photometric else [255, 191, 128, 0])
    write_tree(tmp_path, {"a.tif": tiff(1, 1), "b.tif": tiff(100, 1)})
    with pytest.raises(UsageError, match=r"b.tif: floating-point levels 1..100 are outside 0..1"):
        load_dataset(FolderConfig(path=str(tmp_path)))


def test_whole_numbers_of_32_bits_hold_levels_of_16() -> None:
    content = write_tiff([np.array(LEVELS_16, "<u4").tobytes()], (1, len(LEVELS_16)), [32], 1)
    assert decoded(content)[0].tolist() == nearest(LEVELS_16).tolist()
    for wrong in (65536, 2**32 - 1):
        with pytest.raises(UsageError, match=r"outside 0\.\.65535"):
            read_image(write_tiff([np.array([0, wrong], "<u4").tobytes()], (1, 2), [32], 1))


@pytest.mark.parametrize("white", [255, 1023, 65535])
def test_netpbm_levels_are_spread_over_their_own_range(white: int) -> None:
    levels = np.array([0, 1, white // 3, white // 2, white - 1, white])
    kind = ">u2" if white > 255 else "u1"
    assert (
        decoded(b"P5 6 1 %d\n" % white + levels.astype(kind).tobytes())[0].tolist() == nearest(levels, white).tolist()
    )
    colours = b"P6 2 1 %d\n" % white + levels.astype(kind).tobytes()
    assert decoded(colours).reshape(-1).tolist() == nearest(levels, white).tolist()


# Colour profiles


def in_srgb(colours: object, gamma: float, primaries: object) -> np.ndarray:
    """By the formulas, not rounded: to linear light, to the primaries of sRGB, to its curve."""
    light = (np.asarray(colours) / 255) ** gamma
    light = light @ np.linalg.solve(to_d50(SRGB_PRIMARIES), to_d50(primaries)).T  # type: ignore[arg-type]
    light = light.clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


P3 = write_profile(2.2, P3_PRIMARIES, "Display P3")
LINEAR = write_profile(1.0, SRGB_PRIMARIES, "Linear sRGB")
LINEAR_GREY = write_profile(1.0, name="Linear grey")
COLOURS = np.array([[[200, 60, 40], [60, 180, 60], [10, 20, 200], [128, 128, 128], [255, 255, 255], [0, 0, 0]]])


@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_a_profile_of_other_primaries_is_brought_to_srgb(form: str) -> None:
    options = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}, "AVIF": {"quality": 100}}
    image = Image.fromarray(COLOURS.astype(np.uint8).repeat(8, 0).repeat(8, 1))
    content = saved(image, form, icc_profile=P3, **options.get(form, {}))
    found = decoded(content)[4, 4::8]
    lossy = form in ("JPEG", "AVIF")
    assert np.abs(found - in_srgb(COLOURS[0], 2.2, P3_PRIMARIES)).max() <= (6 if lossy else 0.8)
    assert lossy or found[0].tolist() == [219, 37, 13]
    assert decode_image(content).notes == ("converted from Display P3 to sRGB",)


def iccp(profile: bytes) -> bytes:
    return png_chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))


def test_sixteen_bits_are_converted_with_all_of_them() -> None:
    levels = np.array([[[300, 700, 55 * 257], [1000, 20000, 65535], [40, 100, 200]]])
    found = decoded(write_png(levels, 16, 2, iccp(LINEAR)))
    assert np.abs(found - in_srgb(levels / 257, 1.0, SRGB_PRIMARIES)).max() <= 1.0
    assert found[0, 0, 0] == 15 and found[0, 0, 2] == 128  # of 8 bits the first would be 13
    grey = decoded(write_png(levels[..., 0], 16, 0, iccp(LINEAR_GREY)))
    expected = in_srgb(np.repeat(levels[..., :1], 3, -1) / 257, 1.0, SRGB_PRIMARIES)[..., 0]
    assert np.abs(grey - expected).max() <= 0.6


def test_grey_profiles_convert_grey_and_it_stays_grey() -> None:
    levels = np.arange(256)[None]
    content = write_png(levels, 8, 0, iccp(LINEAR_GREY))
    expected = in_srgb(np.repeat(levels[..., None], 3, -1), 1.0, SRGB_PRIMARIES)[..., 0]
    assert decoded(content)[0, 55] == 128 and np.abs(decoded(content) - expected).max() <= 0.6
    assert decode_image(content).notes == ("converted from Linear grey to sRGB",)


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize(("colour_type", "profile"), [(4, LINEAR_GREY), (6, LINEAR)])
def test_opacity_is_kept_by_a_conversion(depth: int, colour_type: int, profile: bytes) -> None:
    scale = 257 if depth == 16 else 1
    channels = 1 if colour_type == 4 else 3
    levels = np.array([[[55] * channels + [255], [55] * channels + [0]]]) * scale
    assert decoded(write_png(levels, depth, colour_type, iccp(profile)), background=7).reshape(2, -1)[
        :, 0
    ].tolist() == [128, 7]


def test_transparent_colours_and_palettes_are_converted_and_stay_transparent() -> None:
    levels = np.array([[[55, 55, 55], [9, 9, 9]]])
    trns = png_chunk(b"tRNS", struct.pack(">3H", 9, 9, 9))
    assert decoded(write_png(levels, 8, 2, iccp(LINEAR) + trns))[0, :, 0].tolist() == [128, 255]
    palette = png_chunk(b"PLTE", bytes([55, 55, 55, 9, 9, 9]))
    chunks = iccp(LINEAR) + palette + png_chunk(b"tRNS", b"\xff\0")
    assert decoded(write_png(np.array([[0, 1]]), 8, 3, chunks))[0, :, 0].tolist() == [128, 255]
    grey = write_png(np.array([[55, 9]]), 8, 0, iccp(LINEAR_GREY) + png_chunk(b"tRNS", struct.pack(">H", 9)))
    assert decoded(grey)[0].tolist() == [128, 255]


def test_a_profile_that_is_srgb_by_another_name_leaves_all_bits() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    built_in = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (built_in, write_profile(srgb_curve(), SRGB_PRIMARIES, "Adobe RGB (1998)")):
        content = write_png(noise, 8, 2, iccp(profile))
        assert np.array_equal(decoded(content), noise) and decode_image(content).notes == ()
    grey = write_png(noise[..., 0], 8, 0, iccp(write_profile(srgb_curve())))
    assert np.array_equal(decoded(grey), noise[..., 0]) and decode_image(grey).notes == ()


def test_broken_and_unfit_profiles_leave_the_levels_and_are_counted(tmp_path: Path) -> None:
    black = write_profile(1.0, SRGB_PRIMARIES, white=0.2)  # its white is none
    cases = {"a": (P3[:200], BROKEN), "b": (b"", BROKEN), "c": (black, BROKEN), "d": (LINEAR_GREY, UNFIT)}
    files = {f"{name}.png": write_png(COLOURS, 8, 2, iccp(profile)) for name, (profile, _) in cases.items()}
    files["e.png"] = write_png(COLOURS, 8, 2, png_chunk(b"iCCP", b"x\0\0not packed"))
    for name, content in files.items():
        expected = cases.get(name[0], (b"", BROKEN))[1]
        assert np.array_equal(decoded(content), COLOURS) and decode_image(content).notes == (expected,)
    files |= {f"{number}.png": write_png(COLOURS, 8, 2, iccp(P3)) for number in range(12)}
    text = load_dataset(FolderConfig(path=str(write_tree(tmp_path, files)))).provenance["decoding"]
    assert text == f"12 images converted from Display P3 to sRGB; 4 images {BROKEN}; 1 image {UNFIT}"


def test_a_converted_set_has_another_fingerprint_and_others_keep_theirs(tmp_path: Path) -> None:
    def fingerprint(name: str, chunks: bytes) -> str:
        folder = write_tree(tmp_path / name, {"a.png": write_png(COLOURS, 8, 2, chunks)})
        return load_dataset(FolderConfig(path=str(folder))).fingerprint

    plain = fingerprint("plain", b"")
    assert fingerprint("P3", iccp(P3)) != plain
    assert fingerprint("sRGB", iccp(write_profile(srgb_curve(), SRGB_PRIMARIES))) == plain


def test_every_level_of_16_bits_goes_to_the_nearest_of_8() -> None:
    levels = np.arange(65536).reshape(256, 256)
    assert np.array_equal(decoded(write_png(levels, 16, 0)), nearest(levels))


# Files that phones and browsers write


HEIC_START = b"\0\0\0\x1cftypheic\0\0\0\0mif1heic"


def test_formats_that_are_not_read_are_known_by_their_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("undiffuse.data.readers.decoding.heic.is_installed", lambda: False)
    with pytest.raises(UsageError, match=r"IMG_1.jpg: a HEIC image, despite its name; pip install 'undiffuse\[heic"):
        read_image(HEIC_START + bytes(300), title="IMG_1.jpg")
    for start in (b"\xff\x0a\x4f", b"\0\0\0\x0cJXL \r\n\x87\n"):
        with pytest.raises(UsageError, match=r"a.png: a JPEG XL image, .* convert it to PNG or JPEG"):
            read_image(start + bytes(50), title="a.png")


@pytest.mark.parametrize("installed", [False, True])
def test_heic_files_are_images_where_they_are_read_and_else_named(
    installed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("undiffuse.data.readers.decoding.heic.is_installed", lambda: installed)
    if installed:
        pytest.importorskip("pi_heif")
    write_tree(
        tmp_path, {"a.HEIC": HEIC_START + bytes(300), "b.png": write_png(LYING, 8, 0), "c.apng": write_png(LYING, 8, 0)}
    )
    found = load_dataset(FolderConfig(path=str(tmp_path), on_error="skip"))
    assert len(found) == 2
    if installed:
        assert "a.HEIC" in found.provenance["skipped"]
    else:
        assert found.provenance["left_out"].startswith("1 HEIC image: a.HEIC (pip install 'undiffuse[heic]'")


def test_a_heic_file_is_decoded(shared_data: Path) -> None:
    pytest.importorskip("pi_heif")
    path = shared_data / "faults" / "heic" / "a.heic"
    assert np.abs(np.asarray(read_image(path)).astype(int) - [9, 99, 200]).max() <= 2


def cicp(*points: int) -> bytes:
    return png_chunk(b"cICP", bytes(points))


def test_code_points_name_colours_and_go_before_a_png_s_profile() -> None:
    expected = in_srgb(COLOURS, 1.0, P3_PRIMARIES)
    linear = write_png(COLOURS, 8, 2, cicp(12, 8, 0, 1) + iccp(LINEAR))
    assert np.abs(decoded(linear) - expected).max() <= 0.8
    assert decode_image(linear).notes == ("converted from Display P3 in linear light to sRGB",)
    usual = write_png(COLOURS, 8, 2, cicp(12, 13, 0, 1))
    assert decoded(usual)[0, 0].tolist() == [217, 42, 23]  # 217.5, 41.6, 22.7 by the formulas
    for points in [(1, 13, 0, 1), (2, 2, 0, 1), (1, 1, 0, 1)]:
        plain = write_png(COLOURS, 8, 2, cicp(*points))
        assert np.array_equal(decoded(plain), COLOURS) and decode_image(plain).notes == ()
    for points in [(9, 16, 0, 1), (12, 13, 0, 0), (99, 13, 0, 1)]:  # of high dynamic range, of part of the range
        other = write_png(COLOURS, 8, 2, cicp(*points))
        assert np.array_equal(decoded(other), COLOURS) and decode_image(other).notes == (NOT_READ,)


def test_an_avif_s_code_points_count_where_it_has_no_profile() -> None:
    image = Image.fromarray(np.full((8, 8, 3), [200, 60, 40], dtype=np.uint8))
    content = saved(image, "AVIF", quality=100, subsampling="4:4:4")
    place = content.index(b"colrnclx") + 8
    p3 = content[:place] + struct.pack(">HH", 12, 13) + content[place + 4 :]
    assert np.abs(decoded(p3)[4, 4] - [217, 42, 23]).max() <= 3
    assert decode_image(p3).notes == ("converted from Display P3 to sRGB",)
    assert decode_image(content).notes == ()


def test_levels_of_gamma_and_chromaticities_alone_are_left() -> None:
    chunks = png_chunk(b"gAMA", struct.pack(">I", 100_000)) + png_chunk(b"cHRM", bytes(32))
    content = write_png(COLOURS, 8, 2, chunks)
    assert np.array_equal(decoded(content), COLOURS) and decode_image(content).notes == ()


@pytest.mark.parametrize("scale", [257, 1])
def test_palettes_of_tiffs_are_rounded_and_those_of_8_bits_known(scale: int) -> None:
    colours = np.zeros((3, 256), dtype=int)
    colours[:, 1] = [200, 60, 40]
    colours[0, 2] = 255
    palette = colours * scale + (127 if scale == 257 else 0) * (colours > 0) * (colours < 255)
    content = write_tiff([bytes([0, 1, 2])], (1, 3), [8], 3, palette=palette.reshape(-1).tolist())
    assert decoded(content).tolist() == [[[0, 0, 0], [200, 60, 40], [255, 0, 0]]]
    if scale == 257:
        less = np.where(colours > 0, colours * 257 - 127, 0)
        content = write_tiff([bytes([0, 1, 2])], (1, 3), [8], 3, palette=less.reshape(-1).tolist())
        assert decoded(content).tolist() == [[[0, 0, 0], [200, 60, 40], [255, 0, 0]]]  # 199 by the upper bytes


def test_lab_and_ink_of_tiffs() -> None:
    # red, white and black in CIE L*a*b* under D50
    lab = write_tiff([bytes([138, 81, 70, 255, 0, 0, 0, 0, 0])], (1, 3), [8] * 3, 8)
    assert np.abs(decoded(lab) - [[[255, 0, 0], [255, 255, 255], [0, 0, 0]]]).max() <= 8
    ink = write_tiff([bytes([0, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 255])], (1, 3), [8] * 4, 5)
    assert decoded(ink).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 0]]]


def test_ink_is_converted_by_its_own_profile() -> None:
    levels = np.array([[[255, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    ink = Image.fromarray(levels.repeat(8, 1).repeat(8, 0), "CMYK")
    profile = write_ink_profile("Grey ink")
    for form in ("TIFF", "JPEG"):
        content = saved(ink, form, icc_profile=profile, **({"quality": 100} if form == "JPEG" else {}))
        found = decoded(content)[4, 4::8]
        assert np.abs(found - [[119] * 3, [255] * 3, [0] * 3]).max() <= 4  # L* = 50 is 118.9 in sRGB
        assert decode_image(content).notes == ("converted from Grey ink to sRGB",)


def test_the_first_page_of_a_tiff_is_read_and_reported() -> None:
    pages = [Image.new("L", (4, 4), level) for level in (200, 10)]
    content = saved(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    assert (decoded(content) == 200).all() and decode_image(content).notes == (FRAMES,)
