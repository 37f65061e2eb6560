"""Sound but unusual inputs, as tables: what it is, how to make it, the value that is right.

`tests/faults.py` holds what must be refused; what stands here must be read, each kind as the same
array, table or objects. `tests/test_unusual.py` runs all rows. Many are kinds that users of other
programs have reported as read wrongly; the address of such a thread stands above the row.
"""

import decimal
import gzip
import struct
import zlib

import numpy as np
import pandas as pd
import tifffile
from PIL import Image
from skimage.draw import disk, ellipse

RNG = np.random.default_rng(0)
CHW = RNG.integers(0, 60_000, (3, 40, 30)).astype(np.uint16)
CHW8 = (CHW >> 8).astype(np.uint8)
GREY, GREY8 = CHW[0], CHW8[0]
GREY12 = GREY >> 4
SMOOTH = np.asarray(Image.fromarray(CHW8[0, :3, :3]).resize((30, 40), Image.BICUBIC))


def image_j(path, array, axes, **metadata):
    tifffile.imwrite(path, array, imagej=True, metadata={"axes": axes, **metadata})


def ome(path, array, axes):
    tifffile.imwrite(path, array, ome=True, metadata={"axes": axes}, photometric="minisblack")


def said(path, array, axes):
    tifffile.imwrite(path, array, metadata={"axes": axes}, photometric="minisblack")


def plain(path, array, **how):
    tifffile.imwrite(path, array, **{"metadata": None, "photometric": "minisblack"} | how)


def pillow(path, array, **how):
    Image.fromarray(array).save(path, **how)


def turned(path, array, orientation):
    """A picture that is stored turned; for TIFF and EXIF."""
    if path.suffix == ".tif":
        plain(path, array, extratags=[(274, 3, 1, orientation, True)])
    else:
        exif = Image.Exif()
        exif[274] = orientation
        pillow(path, array, exif=exif)


def pyramid(path, array, **how):
    """Two smaller levels in SubIFDs, as OME and QuPath write them."""
    how = {"photometric": "minisblack"} | how
    with tifffile.TiffWriter(path, ome=".ome." in path.name) as writer:
        writer.write(array, subifds=2, **how)
        for step in (2, 4):
            small = array[::step, ::step] if array.shape[-1] == 3 else array[..., ::step, ::step]
            writer.write(small, subfiletype=1, **how)


def packed(path, array, bits, photometric, colormap=()):
    """A TIFF of 1, 4 or 12 bits a pixel, which tifffile reads but does not write."""
    height, width = array.shape
    bit = np.unpackbits(array.astype(">u2")[..., None].view(np.uint8), axis=-1)[..., 16 - bits :]
    data = np.packbits(bit.reshape(height, -1), axis=-1).tobytes()
    maps = struct.pack(f"<{len(colormap)}H", *colormap)
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 1),
            (262, 3, 1, photometric), (273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, height),
            (279, 4, 1, len(data))]  # fmt: skip
    if colormap:
        tags.append((320, 3, len(colormap), 8 + len(data)))
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    start = struct.pack("<4sI", b"II*\0", 8 + len(data) + len(maps))
    end = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    path.write_bytes(start + data + maps + end)


def png(path, array, colour_type, **chunks):
    """A PNG with chunks that Pillow does not write; `array` (H, W, samples) gives the bit depth."""

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width, depth = *array.shape[:2], 8 * array.itemsize
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in array.astype(array.dtype.newbyteorder(">")))
    parts = [(b"IHDR", header), *((name.encode(), data) for name, data in chunks.items()),
             (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]  # fmt: skip
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))


def samples(*planes):
    return np.stack(planes, axis=-1)


RED_BY_16 = [257 * v for v in (*range(0, 256, 17), *range(255, -1, -17), *[9] * 16)]
OPAQUE = np.full_like(GREY, 65_535)

# name, with the ending of the file -> (how to write it, what was meant: (C, H, W))
IMAGES = {
    "one plane": (lambda p: plain(p, GREY), GREY[None]),
    "samples": (lambda p: plain(p, np.moveaxis(CHW, 0, -1), planarconfig="contig"), CHW),
    "planes of samples": (lambda p: plain(p, CHW, planarconfig="separate"), CHW),
    "RGB planar": (lambda p: plain(p, CHW8, photometric="rgb", planarconfig="separate"), CHW8),
    "ImageJ channels": (lambda p: image_j(p, CHW, "CYX"), CHW),
    "ImageJ, one time point": (lambda p: image_j(p, CHW[None, None], "TZCYX"), CHW),
    "OME channels": (lambda p: ome(p, CHW, "CYX"), CHW),
    "OME, one of all": (lambda p: ome(p, CHW[None, :, None], "TCZYX"), CHW),
    "named axes": (lambda p: said(p, CHW, "CYX"), CHW),
    "a spectrum": (lambda p: said(p, CHW, "EYX"), CHW),
    "a few pixels, named": (lambda p: said(p, CHW[:, :12, :12], "CYX"), CHW[:, :12, :12]),
    "narrow, named": (lambda p: said(p, CHW[:, :, :14], "CYX"), CHW[:, :, :14]),
    "unnamed, channels first": (lambda p: tifffile.imwrite(p, CHW, photometric="minisblack"), CHW),
    "unnamed, channels last": (
        lambda p: tifffile.imwrite(p, np.moveaxis(CHW, 0, -1)[..., :2], photometric="minisblack"),
        CHW[:2],
    ),
    "four stains by tifffile": (
        lambda p: tifffile.imwrite(p, np.dstack([*CHW, GREY[::-1]])),
        np.stack([*CHW, GREY[::-1]]),
    ),
    "RGBA by tifffile": (
        lambda p: tifffile.imwrite(p, np.dstack([*CHW8, np.full((40, 30), 255, np.uint8)])),
        CHW8,
    ),
    "RGBA by Pillow": (lambda p: pillow(p, np.dstack([*CHW8, GREY8])), CHW8),
    "big-endian": (lambda p: plain(p, CHW[0].astype(">u2"), byteorder=">"), GREY[None]),
    "BigTIFF, tiles, deflate": (
        lambda p: plain(p, GREY, bigtiff=True, tile=(16, 16), compression="zlib", predictor=True),
        GREY[None],
    ),
    "LZW": (lambda p: plain(p, GREY, compression="lzw"), GREY[None]),
    "ZSTD": (lambda p: plain(p, GREY, compression="zstd"), GREY[None]),
    "JPEG 2000": (lambda p: plain(p, GREY, compression="jpeg2000"), GREY[None]),
    "PackBits": (lambda p: plain(p, GREY8, compression="packbits"), GREY8[None]),
    "min is white": (lambda p: plain(p, 255 - GREY8, photometric="miniswhite"), GREY8[None]),
    "min is white, 16 bit": (
        lambda p: plain(p, 65_535 - GREY, photometric="miniswhite"),
        GREY[None],
    ),
    "one bit": (lambda p: pillow(p, GREY8 > 100), np.uint8(255) * (GREY8 > 100)[None]),
    "with a thumbnail": (
        lambda p: [
            plain(p, GREY),
            tifffile.imwrite(p, GREY[::4, ::4], append=True, subfiletype=1, metadata=None),
        ],
        GREY[None],
    ),
    # https://github.com/python-pillow/Pillow/issues/414: unreadable, or every second pixel
    "12 bits packed": (lambda p: packed(p, GREY12, 12, 1), GREY12[None]),
    "12 bits packed, min is white": (lambda p: packed(p, 4095 - GREY12, 12, 0), GREY12[None]),
    # https://github.com/CellProfiler/CellProfiler/issues/292: divided by 65,535 or by 4,095?
    "12 bits in 16": (lambda p: plain(p, GREY12), GREY12[None]),
    "4 bits": (lambda p: packed(p, GREY8 % 16, 4, 1), 17 * (GREY8 % 16)[None]),
    "a palette of 4 bits": (
        lambda p: packed(p, GREY8 % 16, 4, 3, RED_BY_16),
        np.stack([17 * (GREY8 % 16), 255 - 17 * (GREY8 % 16), np.full_like(GREY8, 9)]),
    ),
    "a palette of 1 bit": (
        lambda p: packed(p, GREY8 % 2, 1, 3, [0, 65_535, 65_535, 0, 0, 0]),
        np.stack([255 * (GREY8 % 2), 255 - 255 * (GREY8 % 2), np.zeros_like(GREY8)]),
    ),
    # https://github.com/scikit-image/scikit-image/pull/1498: the labels were rotated by 90 degrees
    "stored upside down": (lambda p: turned(p, GREY[::-1, ::-1], 3), GREY[None]),
    "stored mirrored": (lambda p: turned(p, GREY[:, ::-1], 2), GREY[None]),
    "stored lying": (lambda p: turned(p, np.rot90(GREY), 6), GREY[None]),
    "stored lying the other way": (lambda p: turned(p, np.rot90(GREY, -1), 8), GREY[None]),
    "stored transposed": (lambda p: turned(p, GREY.T, 5), GREY[None]),
    "lying, EXIF .png": (lambda p: turned(p, np.rot90(GREY8), 6), GREY8[None]),
    "lying, EXIF .jpg": (
        lambda p: turned(p, np.full((30, 40), 77, np.uint8), 6),
        np.full((1, 40, 30), 77, np.uint8),
    ),
    # https://github.com/scikit-image/scikit-image/issues/5242: four samples instead of two
    "grey and alpha .png": (lambda p: pillow(p, samples(GREY8, GREY8)), GREY8[None]),
    "grey and alpha of 16 bits .png": (lambda p: png(p, samples(GREY, OPAQUE), 4), GREY[None]),
    "RGBA of 16 bits .png": (lambda p: png(p, samples(*CHW, OPAQUE), 6), CHW),
    # https://github.com/python-pillow/Pillow/issues/421, 3379: a transparent colour
    "a transparent colour .png": (
        lambda p: png(p, samples(*CHW8), 2, tRNS=struct.pack(">3H", *CHW8[:, 0, 0])),
        CHW8,
    ),
    "a transparent grey of 16 bits .png": (
        lambda p: png(p, samples(GREY), 0, tRNS=struct.pack(">H", GREY[0, 0])),
        GREY[None],
    ),
    "gamma and significant bits .png": (
        lambda p: png(p, samples(*CHW), 2, gAMA=struct.pack(">I", 45_455), sBIT=b"\x0c\x0c\x0c"),
        CHW,
    ),
    # https://github.com/cgohlke/tifffile/issues/50: 57 channels instead of 57 planes
    "ImageJ, seven channels": (
        lambda p: image_j(p, np.stack([GREY8 // (i + 1) for i in range(7)]), "CYX"),
        np.stack([GREY8 // (i + 1) for i in range(7)]),
    ),
    "ImageJ, coloured by tables": (
        lambda p: image_j(
            p, CHW8, "CYX", mode="composite", LUTs=[np.eye(3, 256, dtype=np.uint8)] * 3
        ),
        CHW8,
    ),
    "ImageJ, RGB": (lambda p: image_j(p, samples(*CHW8), "YXS"), CHW8),
    # https://github.com/scikit-image/scikit-image/issues/1496: (3, H, W) instead of (H, W, 3)
    "RGB of 16 bits, planar": (
        lambda p: plain(p, CHW, photometric="rgb", planarconfig="separate"),
        CHW,
    ),
    # https://github.com/cgohlke/tifffile/issues/5: a second sample in each pixel
    "two samples": (lambda p: plain(p, samples(*CHW[:2]), planarconfig="contig"), CHW[:2]),
    # https://github.com/BaroudLab/Griottes/issues/2: five channels in the last dimension
    "five channels, the last axis": (
        lambda p: tifffile.imwrite(p, samples(*CHW, *CHW[:2]), photometric="minisblack"),
        np.concatenate([CHW, CHW[:2]]),
    ),
    # https://github.com/cgohlke/tifffile/issues/118: one level of a pyramid, or a single channel
    "pyramid .ome.tif": (lambda p: pyramid(p, CHW, metadata={"axes": "CYX"}), CHW),
    "pyramid of colours": (lambda p: pyramid(p, samples(*CHW8), photometric="rgb"), CHW8),
    # https://github.com/cgohlke/tifffile/issues/65: samples within OME channels
    "RGB .ome.tif": (
        lambda p: tifffile.imwrite(p, samples(*CHW8), photometric="rgb", metadata={"axes": "YXS"}),
        CHW8,
    ),
    # https://github.com/AllenCellModeling/aicsimageio/pull/483: the samples come first
    "RGB in planes .ome.tif": (
        lambda p: tifffile.imwrite(p, CHW8, photometric="rgb", planarconfig="separate",
                                   metadata={"axes": "SYX"}),
        CHW8,
    ),
    # https://github.com/cgohlke/tifffile/issues/146: RGB that is stored as YCbCr
    "JPEG in a TIFF": (
        lambda p: plain(p, samples(*[SMOOTH] * 3), photometric="rgb", compression="jpeg",
                        compressionargs={"level": 100}),
        np.stack([SMOOTH] * 3),
    ),
    "floats with the predictor for floats": (
        lambda p: plain(p, (GREY / 65_535).astype(np.float32), predictor=3, compression="zlib"),
        GREY[None],
    ),
    # https://github.com/napari/napari/issues/1184: 64 bits, which Fiji does not open
    "doubles": (lambda p: plain(p, GREY / 65_535), GREY[None]),
}  # fmt: skip


def drawn():
    """Labels (120, 160) of five cells, two of which touch, and one in two pieces."""
    labels = np.zeros((120, 160), np.int32)
    for number, place in enumerate([(25, 25), (25, 110), (80, 30), (80, 62)], start=1):
        labels[disk(place, 17)] = number
    labels[ellipse(85, 125, 18, 25)] = 5
    labels[83:88, 95:155] = 0  # an actin cable runs over it
    return labels


LABELS = drawn()
INSIDE = LABELS > 0
BITS = np.uint8(255) * INSIDE


def tiff(array, **how):
    return lambda path: tifffile.imwrite(path, array, photometric="minisblack", **how)


def picture(array, mode=None, **how):
    def write(path):
        image = Image.fromarray(array)
        if mode == "P":
            image.putpalette([int(part) for part in np.random.default_rng(1).integers(0, 255, 768)])
        image.save(path, **how)

    return write


IDS = np.where(INSIDE, LABELS + 1_000_000, 0)
LABELLED = {
    "uint8": (tiff(LABELS.astype(np.uint8)), ".tif"),
    "uint16 png": (picture(LABELS.astype(np.uint16)), ".png"),
    "int64": (tiff(LABELS.astype(np.int64)), ".tif"),
    "big-endian": (tiff(LABELS.astype(">i4"), byteorder=">"), ".tif"),
    # https://github.com/MouseLand/cellpose/issues/741: more than 65,535 cells
    "ids above 65,535": (tiff(IDS.astype(np.uint32)), ".tif"),
    "ids that no table could hold": (
        tiff(np.where(INSIDE, 2**32 - 10 + LABELS.astype(np.int64), 0).astype(np.uint32)),
        ".tif",
    ),
    "float": (tiff(LABELS.astype(np.float32)), ".tif"),
    "double": (tiff(LABELS.astype(np.float64)), ".tif"),
    # https://github.com/MouseLand/cellpose/issues/283: int32 with -1 for the background
    "-1 for the background": (tiff(np.where(INSIDE, LABELS, -1).astype(np.int32)), ".tif"),
    # https://github.com/MouseLand/cellpose/issues/446: labelme writes indexed colours
    "palette": (picture(LABELS.astype(np.uint8), "P"), ".png"),
    "palette bmp as png": (picture(LABELS.astype(np.uint8) + 3 * BITS // 255, "P"), ".png"),
    "equal RGB": (picture(np.dstack([LABELS.astype(np.uint8)] * 3)), ".png"),
    "equal RGBA": (picture(np.dstack([LABELS.astype(np.uint8)] * 3 + [np.full_like(BITS, 255)])),
                   ".png"),
    "every tenth number": (tiff(10 * LABELS.astype(np.uint16)), ".tif"),
    "a page of length 1": (tiff(LABELS.astype(np.uint16)[None, None], metadata={"axes": "TZYX"}),
                           ".tif"),
    # https://github.com/napari/napari/issues/2899: int64 labels opened as a picture
    "a signed byte": (tiff(LABELS.astype(np.int8)), ".tif"),
    "uint64": (tiff(LABELS.astype(np.uint64)), ".tif"),
    "half floats": (tiff(LABELS.astype(np.float16)), ".tif"),
    # https://github.com/MouseLand/cellpose/issues/9: masks as .npy
    "npy": (lambda p: np.save(p, LABELS), ".npy"),
    # https://github.com/aiorhiroki/farmer/issues/29: sparse numbers, 0, 206 and 210
    "sparse numbers": (
        tiff(np.array([0, 206, 210, 211, 3, 90], np.uint8)[LABELS]), ".tif"),
    "OME": (lambda p: ome(p, LABELS.astype(np.uint16), "YX"), ".ome.tif"),
    "pyramid": (lambda p: pyramid(p, LABELS.astype(np.uint16)), ".ome.tif"),
    "deflate": (tiff(LABELS.astype(np.uint16), compression="zlib"), ".tif"),
}  # fmt: skip


BLURRED = np.asarray(
    Image.fromarray(BITS).resize((320, 240), Image.BILINEAR).resize((160, 120), Image.BILINEAR)
)
BINARY = {
    "0 and 255": (picture(BITS), ".png", ""),
    "0 and 1": (tiff(INSIDE.astype(np.uint16)), ".tif", ""),
    "0 and 65,535": (tiff(INSIDE.astype(np.uint16) * np.uint16(65_535)), ".tif", ""),
    "0.0 and 1.0": (tiff(INSIDE.astype(np.float32)), ".tif", ""),
    "a bit": (picture(INSIDE), ".png", ""),
    "RGB": (picture(np.dstack([BITS] * 3)), ".png", ""),
    "RGBA, as opaque as it is white": (picture(np.dstack([BITS] * 4)), ".png", ""),
    # https://github.com/cgohlke/tifffile/issues/5: tools that write grey levels of few bits
    "four bits": (lambda p: packed(p, 15 * INSIDE.astype(np.uint8), 4, 1), ".tif", "binary mask"),
    "128": (picture(np.uint8(128) * INSIDE), ".png", "binary mask"),
    # https://github.com/scikit-image/scikit-image/issues/1940: black and white inverted
    "a bit, min is white": (lambda p: plain(p, ~INSIDE, photometric="miniswhite"), ".tif", ""),
    "ImageJ's inverted table": (lambda p: plain(p, BITS, photometric="miniswhite"), ".tif", ""),
    "npy of truth values": (lambda p: np.save(p, INSIDE), ".npy", ""),
    "JPEG": (picture(BITS, quality=75), ".jpg", "JPEG keeps no labels"),
    "poor JPEG": (picture(BITS, quality=30), ".jpeg", "JPEG keeps no labels"),
    "smoothed": (picture(BLURRED), ".png", "edges are smoothed"),
    "smoothed, 16 bit": (tiff(BLURRED.astype(np.uint16) * np.uint16(257)), ".tif", "smoothed"),
    "probabilities": (tiff(BLURRED.astype(np.float32) / 255), ".tif", "no whole numbers"),
}


ROWS = [("c01.png", "a", "0.5"), ("c02.png", "b", "1.25"), ("c03.png", "", "7")]
HEADER = ("Unique_ID", "treatment", "dose")


def text_of(separator=",", decimal=".", start="", end="\n", pad="", header=HEADER):
    lines = [header, *((i, t, d.replace(".", decimal)) for i, t, d in ROWS)]
    return start + end.join(separator.join(f"{v}{pad}" for v in line) for line in lines) + end


DIALECTS = {
    "plain": text_of().encode(),
    "semicolons, decimal commas, mark": text_of(";", ",").encode("utf-8-sig"),
    # https://github.com/cytomining/pycytominer/issues/38: a plate map need not be split by tabs
    "tabs": text_of("\t").encode(),
    "tabs, decimal commas": text_of("\t", ",").encode(),
    "bars": text_of("|").encode(),
    "a line sep=;": text_of(";", start="sep=;\n").encode(),
    "Windows": text_of(end="\r\n").encode(),
    "old Mac": text_of(end="\r").encode(),
    # https://github.com/qbicsoftware/data-manager-app/pull/588
    "UTF-16 of Excel": text_of("\t").encode("utf-16"),
    # https://github.com/ome/omero-iviewer/pull/115: Excel wants windows-1252
    "Windows-1252": text_of().encode("cp1252"),
    "padded": text_of(pad=" ").encode(),
    "padded in front": text_of(", ").encode(),
    "blank last rows": (text_of() + ",,\n\n , ,\n").encode(),
    # https://github.com/ngscopeclient/scopehal/issues/408: lines of remarks before the header
    "remarks before the header": b"# exported, 2026\n#\n" + text_of().encode(),
    # https://github.com/bit-bots/imagetagger/issues/2
    "remarks as wide as the table": b"# a, b, c\n" + text_of().encode(),
    "gzip, as pycytominer writes it": gzip.compress(text_of().encode()),
    "two marks": "\ufeff".encode() + text_of().encode("utf-8-sig"),
    "blanks that do not break": text_of(pad="\u00a0").encode(),
    "no last line end": text_of().rstrip().encode(),
    "quoted": (b'"Unique_ID","treatment","dose"\n"c01.png","a","0.5"\n"c02.png","b","1.25"\n'
               b'"c03.png","","7"\n'),
    "an index without a name": (b",Unique_ID,treatment,dose\n0,c01.png,a,0.5\n1,c02.png,b,1.25\n"
                                b"2,c03.png,,7\n"),
    "small letters": text_of(header=("unique_id", "treatment", "dose")).encode(),
    "pycytominer": text_of(header=("Metadata_Unique_ID", "treatment", "dose")).encode(),
}  # fmt: skip


TABLES = {  # what other programs write -> its columns and values
    "R write.table, whose header lacks the names of the rows": (
        'UMAP_1\tUMAP_2\n"c1"\t0.5\t-1\n"c2"\t1.5\t2\n',
        {"index": ["c1", "c2"], "UMAP_1": [0.5, 1.5], "UMAP_2": [-1, 2]},
    ),
    "R write.csv with numbered rows": (
        '"","Unique_ID","dose"\n"1","c1",3\n"2","c2",4\n',
        {"Unique_ID": ["c1", "c2"], "dose": [3, 4]},
    ),
    "a separator at the end of each row": ("a;b\n1;2;\n3;4;\n", {"a": [1, 3], "b": [2, 4]}),
    "one name for two columns": (
        "Unique_ID,dose, dose\nc1,1,2\nc2,3,4\n",
        {"Unique_ID": ["c1", "c2"], "dose": [1, 3], "dose.1": [2, 4]},
    ),
    "a line end within quotes": (
        'Unique_ID,remark\nc1,"one\ntwo, three"\nc2,four\n',
        {"Unique_ID": ["c1", "c2"], "remark": ["one\ntwo, three", "four"]},
    ),
    "ids that pandas wrote beside a gap": (
        "Unique_ID,dose\n1.0,2.5\n2.0,3.5\n",
        {"Unique_ID": ["1", "2"], "dose": [2.5, 3.5]},
    ),
    "truth values beside a gap": (
        "Unique_ID,flag\nc1,True\nc2,\nc3,False\n",
        {"Unique_ID": ["c1", "c2", "c3"], "flag": ["True", None, "False"]},
    ),
    "numbers beside words": (
        "Unique_ID,mixed\nc1,1\nc2,x\nc3,2.50\n",
        {"Unique_ID": ["c1", "c2", "c3"], "mixed": ["1", "x", "2.50"]},
    ),
    "infinite and very small": (
        "Unique_ID,x\nc1,inf\nc2,-Infinity\nc3,4.9e-324\n",
        {"Unique_ID": ["c1", "c2", "c3"], "x": [np.inf, -np.inf, 5e-324]},
    ),
    "an index that has a name": (
        "index,Unique_ID\n0,c1\n1,c2\n",
        {"index": [0, 1], "Unique_ID": ["c1", "c2"]},
    ),
    "a line sep= with a tab": ("sep=\t\nUnique_ID\tx\nc1\t2\n", {"Unique_ID": ["c1"], "x": [2]}),
    "one column": ("Unique_ID\nc1\nc2\n", {"Unique_ID": ["c1", "c2"]}),
    "an empty column": (
        "Unique_ID,x\nc1,\nc2,\n",
        {"Unique_ID": ["c1", "c2"], "x": [np.nan, np.nan]},
    ),
    "dates": (
        "Unique_ID,day\n1,2024-01-31\n2,31.01.2024\n",
        {"Unique_ID": ["1", "2"], "day": ["2024-01-31", "31.01.2024"]},
    ),
    "R write.table with its own blanks": (
        '"UMAP_1" "UMAP_2"\n"c 1" 0.5 -1\n"c 2" 1.5 2\n',
        {"index": ["c 1", "c 2"], "UMAP_1": [0.5, 1.5], "UMAP_2": [-1, 2]},
    ),
    # https://github.com/qiita-spots/qiita/pull/643: names of the form 0000012.122204 became numbers
    "names like decimals": (
        "Unique_ID,x\n0000012.122204,1\n0000012.1222040,2\n",
        {"Unique_ID": ["0000012.122204", "0000012.1222040"], "x": [1, 2]},
    ),
    "wells that read like numbers": (
        "Unique_ID,well\nc1,1E05\nc2,2E05\n",
        {"Unique_ID": ["c1", "c2"], "well": ["1E05", "2E05"]},
    ),
    "genes that Excel made dates": (
        "Unique_ID,gene\nc1,2-Mar\nc2,SEPT7\n",
        {"Unique_ID": ["c1", "c2"], "gene": ["2-Mar", "SEPT7"]},
    ),
    "thousands": (
        'Unique_ID,area\nc1,"1,234.5"\nc2,12.5\nc3,"2,000,000"\n',
        {"Unique_ID": ["c1", "c2", "c3"], "area": [1234.5, 12.5, 2_000_000]},
    ),
    "thousands, German": (
        "Unique_ID;area\nc1;1.234,5\nc2;12,5\nc3;2.000.000\n",
        {"Unique_ID": ["c1", "c2", "c3"], "area": [1234.5, 12.5, 2_000_000]},
    ),
    "a comma that may be either": (
        'Unique_ID,area\nc1,"1,234"\nc2,"2,000"\n',
        {"Unique_ID": ["c1", "c2"], "area": ["1,234", "2,000"]},
    ),
    "the minus sign of typography": (
        "Unique_ID,x\nc1,\u22125\nc2,3\n",
        {"Unique_ID": ["c1", "c2"], "x": [-5, 3]},
    ),
    # https://github.com/Benchling-Open-Source/allotropy/pull/548: the micro sign and the letter mu
    "both micro signs": (
        "Unique_ID,\u00b5m,\u03bcm\nc1,1,2\n",
        {"Unique_ID": ["c1"], "\u00b5m": [1], "\u03bcm": [2]},
    ),
    "blank lines before the header": (
        "\n\nUnique_ID,x\nc1,1\n",
        {"Unique_ID": ["c1"], "x": [1]},
    ),
}


def typed(**columns):
    return pd.DataFrame({"Unique_ID": ["c1", "c2", "c3"], **columns})


# name -> (a table that knows its types, its column x as it is to be read)
TYPED_TABLES = {
    # https://github.com/scverse/anndata/issues/1710
    "categories that no cell has": (
        typed(x=pd.Categorical(["a", "b", "a"], categories=["a", "b", "c"])), ["a", "b", "a"]),
    # https://github.com/scverse/anndata/issues/122
    "ordered categories": (
        typed(x=pd.Categorical(["b", "a", "b"], ["b", "a"], ordered=True)), ["b", "a", "b"]),
    # https://github.com/scverse/anndata/issues/84
    "whole numbers as categories, with a gap": (
        typed(x=pd.Categorical([1, 2, None])), [1, 2, np.nan]),
    "truth values with a gap": (
        typed(x=pd.array([True, None, False], dtype="boolean")), [True, None, False]),
    "whole numbers with a gap": (
        typed(x=pd.array([1, None, 3], dtype="Int64")), [1, np.nan, 3]),
}  # fmt: skip
PARQUET = TYPED_TABLES | {
    "decimals of a database": (
        typed(x=[decimal.Decimal("1.5"), None, decimal.Decimal("2")]), [1.5, np.nan, 2]),
    "bytes": (typed(x=[b"a", b"b", None]), ["a", "b", None]),
    "lists": (typed(x=[[1, 2], [3], []]), ["[1 2]", "[3]", "[]"]),
    "times with a zone": (
        typed(x=pd.to_datetime(["2026-01-31 00:00", "2026-02-01 03:00", None]).tz_localize("UTC")),
        ["2026-01-31 00:00:00+00:00", "2026-02-01 03:00:00+00:00", None]),
}  # fmt: skip

# name -> (names in a table, names of the images in the same order)
NAMES = {
    "OME files": (["a.ome.tif", "b"], ["a.tif", "b.ome.tif"]),
    "capitals": (["C1.PNG", "C2.PNG"], ["c1.png", "c2.png"]),
    "small wells": (["a1", "b12"], ["A01.tif", "B12.tif"]),
    "three digits": (["A001", "B012"], ["A1.tif", "B12.tif"]),
    "addresses": (["file:///C:/plate/c1.png", "file:///C:/plate/c2.png"], ["c1.png", "c2.png"]),
    "a Windows share": (["\\\\host\\raw\\c1.png", "\\\\host\\raw\\c2.png"], ["c1.png", "c2.png"]),
    "numbers that pandas wrote beside a gap": (["1.0", "2.0"], ["1.tif", "2.tif"]),
}  # fmt: skip
