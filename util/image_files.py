"""What an image file means: its axes, channels, photometric interpretation and number type.

A TIFF says what its axes are (OME, ImageJ, tifffile's own description, samples per pixel), and that
is believed. Only an array whose axes nothing names is guessed by its shape, and refused where two
guesses fit. Every reader gives (C, H, W) in the numbers of the file; how the numbers of a whole set
become 8 or 16 bit is in `util.pixel_numbers`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from util.errors import UserError, first_line

MOST_CHANNELS = 16  # an axis of unknown meaning with at most so many entries can be the channels
CHANNEL_AXES = "CES"  # channel, emission wavelength, sample
ALPHA = (1, 2)  # ExtraSamples: associated and unassociated alpha
DESCRIPTION, ORIENTATION, FIRST_PRIVATE_TAG = 270, 274, 32_768  # of TIFF
PHOTOMETRIC = {  # what can be shown as it is, and what is done to the others
    "MINISBLACK": "",
    "RGB": "",
    "YCBCR": "",  # decoded as RGB
    "MINISWHITE": "turned",
    "PALETTE": "coloured",
}

Projection = Literal["max", "mean"]


@dataclass(frozen=True)
class Meaning:
    """What the user says of the image files where they do not say it themselves.

    Attributes:
        axes: of the stored array, e.g. CYX, YXC, ZCYX; None believes the file.
        project_z: how focal planes become one; None refuses more than one plane.
    """

    axes: str | None = None
    project_z: Projection | None = None


AS_THE_FILE_SAYS = Meaning()


def read_image(
    path: Path, meaning: Meaning = AS_THE_FILE_SAYS, turn: bool = True
) -> tuple[np.ndarray, bool]:
    """One image as (C, H, W) in the numbers of the file, and whether an alpha channel was dropped.

    A bit is 0 or 255, as are the grey levels of fewer than 8 bits stretched. Palettes become
    colours, min-is-white is turned, and an image that is stored rotated or mirrored (TIFF's and
    EXIF's Orientation) is brought upright.

    Args:
        path: TIFF, PNG or JPEG.
        meaning: what the user says of the axes.
        turn: bring it upright where it is stored turned. Else such a file is refused: positions
            and masks that other programs made may be those of the stored pixels.

    Raises:
        UserError: the file holds something else than one image of one kind, or does not say what
            its axes are.
        Exception: whatever the reader raises on a damaged file.
    """
    if path.suffix.lower() in (".tif", ".tiff"):
        image, orientation, alpha = _read_tiff(path, meaning)
    else:
        image, orientation, alpha = _read_picture(path)
    if not turn:
        refuse_turned(path, orientation)
    return _upright(image, orientation), alpha


def refuse_turned(path: Path, orientation: int) -> None:
    """Raise a UserError if an image is stored rotated or mirrored."""
    if orientation != 1:
        raise UserError(
            f"{path} is stored turned (Orientation {orientation}), which not all programs heed: "
            "save it upright"
        )


def _upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image (..., H, W) as it is to be seen, by the number 1 to 8 that TIFF and EXIF store."""
    if orientation >= 5:
        image = np.swapaxes(image, -1, -2)
    if orientation in (3, 4, 7, 8):
        image = image[..., ::-1, :]
    return image[..., ::-1] if orientation in (2, 3, 6, 7) else image


def image_shape(path: Path, meaning: Meaning = AS_THE_FILE_SAYS) -> tuple[int, int] | None:
    """Height and width in pixels from the header of the file; None if it cannot be read."""
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            with _open_tiff(path) as opened:
                stack = _stack_of(opened, path)
                sizes = dict(zip(_axes_of(stack, path, meaning), stack.shape, strict=True))
                shape, turned = (sizes["Y"], sizes["X"]), orientation_of_tiff(opened) >= 5
        else:
            from PIL import Image

            with Image.open(path) as opened:
                shape, turned = (opened.height, opened.width), orientation_of_picture(opened) >= 5
        return shape[::-1] if turned else shape
    except Exception:  # readers raise anything on a damaged file
        return None


@dataclass(frozen=True)
class _Stack:
    """The pages of a TIFF that make one array.

    Attributes:
        series: of equal shape and axes; several where pages were appended one by one.
        axes, shape: of the array: those of the series, below an axis `I` of the pages.
    """

    series: list[Any]
    axes: str
    shape: tuple[int, ...]

    def array(self) -> np.ndarray:
        """Its numbers, in the shape of the stack and in the byte order of this machine."""
        parts = [np.asarray(one.asarray()) for one in self.series]
        array = parts[0] if len(parts) == 1 else np.stack(parts)
        return array.astype(array.dtype.newbyteorder("="), copy=False).reshape(self.shape)


def _open_tiff(path: Path) -> Any:
    import tifffile

    # A file of a multi-file OME set gives its own pages, not those of the whole set.
    return tifffile.TiffFile(path, _multifile=False)


def orientation_of_tiff(opened: Any) -> int:
    """1 to 8: how its first page is to be turned (`_upright`)."""
    return int(opened.pages[0].tags.valueof(ORIENTATION, default=1))


def orientation_of_picture(opened: Any) -> int:
    """The same of what Pillow opened."""
    return opened.getexif().get(ORIENTATION, 1) if "exif" in opened.info else 1


def _stack_of(opened: Any, path: Path) -> _Stack:
    """The array of a TIFF; thumbnails, masks of transparency and the smaller levels of a pyramid
    are no part of it.
    """
    if len(opened.pages) == 1 and _says_nothing_more(opened.pages[0]):
        page = opened.pages[0]  # what a series would be, in two thirds of the time
        return _Stack([page], page.axes, page.shape)
    series = [
        one for one in opened.series if not (one.keyframe.is_reduced or one.keyframe.is_mask)
    ] or opened.series
    if opened.is_ome and any(page is None for one in series for page in one.pages):
        raise UserError(
            f"{path} names more pages than it holds ({len(opened.pages)}): save it anew, with the "
            "pages that it has"
        )
    kinds = {(one.axes, one.shape) for one in series}
    if len(kinds) > 1:
        shapes = ", ".join(" x ".join(map(str, shape)) for _, shape in sorted(kinds))
        raise UserError(f"{path} holds several images ({shapes}): save one image per file")
    axes, shape = series[0].axes, series[0].shape
    if len(series) > 1:
        axes, shape = f"I{axes}", (len(series), *shape)
    return _Stack(series, axes, shape)


def _says_nothing_more(page: Any) -> bool:
    """Whether the page has neither a description nor private tags, as OME, ImageJ and others do."""
    codes = [tag.code for tag in page.tags]
    return max(codes) < FIRST_PRIVATE_TAG and DESCRIPTION not in codes


def _axes_of(stack: _Stack, path: Path, meaning: Meaning) -> str:
    """A letter for each axis of the array, with Y and X among them."""
    if meaning.axes is not None:
        return _asked_axes(stack, path, meaning.axes.upper())
    unknown = [
        axis for axis, n in zip(stack.axes, stack.shape, strict=True) if axis in "QI" and n > 1
    ]
    if not unknown:
        return stack.axes
    sizes = " x ".join(map(str, stack.shape))
    ask = "say what they are with `image_axes`, e.g. CYX, YXC or ZYX"
    if "I" in unknown:
        pages = stack.shape[stack.axes.index("I")]
        raise UserError(
            f"{path} holds {pages} pages of one size, and does not say whether they are channels, "
            f"focal planes or time points: {ask}, or save one image per file"
        )
    if len(stack.shape) != 3:
        raise UserError(f"{path} has unnamed axes ({sizes}): {ask}")
    first, last = stack.shape[0] <= MOST_CHANNELS, stack.shape[-1] <= MOST_CHANNELS
    if first == last:
        why = (
            "its channels may be the first axis or the last" if first else "no axis can be channels"
        )
        raise UserError(f"{path} has unnamed axes ({sizes}), and {why}: {ask}")
    return "CYX" if first else "YXC"


def _asked_axes(stack: _Stack, path: Path, asked: str) -> str:
    """The axes that the user names, with those of length 1 that he leaves out."""
    if sorted(set(asked)) != sorted(asked) or not {"Y", "X"} <= set(asked) <= set("CZYX"):
        raise UserError(f"`image_axes` {asked}: give Y, X and perhaps C and Z, e.g. CYX or ZCYX")
    if len(asked) == len(stack.shape):
        return asked
    long = [n > 1 for n in stack.shape]
    if sum(long) != len(asked):
        sizes = " x ".join(map(str, stack.shape))
        raise UserError(f"`image_axes` {asked} does not fit {path} of {sizes}")
    letters = iter(asked)
    return "".join(next(letters) if is_long else "Q" for is_long in long)


def _read_tiff(path: Path, meaning: Meaning) -> tuple[np.ndarray, int, bool]:
    """(C, H, W), the orientation, and whether alpha was dropped."""
    with _open_tiff(path) as opened:
        stack = _stack_of(opened, path)
        axes = _axes_of(stack, path, meaning)
        page = stack.series[0].keyframe
        way = PHOTOMETRIC.get(page.photometric.name)
        if way is None:
            raise UserError(
                f"{path} has colours of the kind {page.photometric.name}: convert it to RGB or grey"
            )
        array = stack.array()
        if way == "coloured":
            array, axes = _coloured(array, page.colormap), f"{axes}S"
        else:
            array = _in_full_range(array, page.bitspersample)
        if way == "turned":
            array = _turned(array, page.bitspersample)
        alpha = meaning.axes is None and _has_alpha(opened, page, array, axes)
        if alpha:
            array = np.take(array, _colour_samples(page), axis=axes.index("S"))
        orientation = orientation_of_tiff(opened)
    return _channels_first(array, axes, path, meaning), orientation, alpha


def _in_full_range(array: np.ndarray, bits: int) -> np.ndarray:
    """Grey levels of fewer than 8 bits stretched to 0..255."""
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if bits < 8 and array.dtype == np.uint8:
        return (array.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    return array


def _turned(array: np.ndarray, bits: int) -> np.ndarray:
    """Min-is-white as min-is-black."""
    if array.dtype.kind == "f":
        return array.max() - array
    if array.dtype.kind == "i":
        return ~array
    top = 255 if bits < 8 else 2**bits - 1
    return (top - array.astype(np.int64)).astype(array.dtype)


def _coloured(array: np.ndarray, colormap: np.ndarray) -> np.ndarray:
    """Indices (...) into a map (3, n) of 16 bit as colours (..., 3) of 8 bit."""
    return (np.moveaxis(np.asarray(colormap), 0, -1) >> 8).astype(np.uint8)[array.astype(np.intp)]


def _colour_samples(page: Any) -> list[int]:
    """Samples of a pixel that are not flagged as alpha."""
    extra = list(page.extrasamples)
    plain = page.samplesperpixel - len(extra)
    return [i for i in range(page.samplesperpixel) if i < plain or extra[i - plain] not in ALPHA]


def _has_alpha(opened: Any, page: Any, array: np.ndarray, axes: str) -> bool:
    """Whether samples of a pixel are alpha.

    tifffile and scikit-image flag the last of any four samples as alpha, a fourth stain as well.
    Of their files it is alpha only where it is opaque throughout.
    """
    kept = _colour_samples(page)
    if "S" not in axes or len(kept) == page.samplesperpixel:
        return False
    if not opened.is_shaped:
        return True
    flagged = [i for i in range(page.samplesperpixel) if i not in kept]
    samples = np.take(array, flagged, axis=axes.index("S"))
    opaque = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
    return bool((samples == opaque).all())


def _channels_first(array: np.ndarray, axes: str, path: Path, meaning: Meaning) -> np.ndarray:
    """(C, H, W) of an array with these axes."""
    long = [i for i, axis in enumerate(axes) if array.shape[i] > 1 or axis in "YX"]
    axes, array = "".join(axes[i] for i in long), array.reshape([array.shape[i] for i in long])
    if "Z" in axes:
        if meaning.project_z is None:
            planes = array.shape[axes.index("Z")]
            raise UserError(
                f"{path} holds {planes} focal planes: choose a projection with `project_z` max or "
                "mean, or save one plane per file"
            )
        place = axes.index("Z")
        array = _projected(array, place, meaning.project_z)
        axes = axes[:place] + axes[place + 1 :]
    other = [axis for axis in axes if axis not in "YX" + CHANNEL_AXES]
    channels = [axis for axis in axes if axis in CHANNEL_AXES]
    if other:
        what = "time points" if "T" in other else f"entries along an axis {other[0]}"
        n = array.shape[axes.index(other[0])]
        raise UserError(f"{path} holds {n} {what}: save one image per file")
    if len(channels) > 1:
        raise UserError(f"{path} has colour pictures in several channels: save them one per file")
    array = np.transpose(array, [axes.index(axis) for axis in [*channels, "Y", "X"]])
    array = array if channels else array[None]
    if len(array) > MOST_CHANNELS or 0 in array.shape:
        raise UserError(
            f"{path} has {len(array)} channels of {array.shape[1]} x {array.shape[2]}: one image "
            f"of at most {MOST_CHANNELS} channels is expected"
        )
    return array


def _projected(array: np.ndarray, axis: int, how: Projection) -> np.ndarray:
    """Focal planes as one, in the type of the array."""
    if how == "max":
        return array.max(axis=axis)
    mean = array.mean(axis=axis, dtype=np.float64)
    return (mean if array.dtype.kind == "f" else np.rint(mean)).astype(array.dtype)


def _read_picture(path: Path) -> tuple[np.ndarray, int, bool]:
    """(C, H, W) of a PNG or JPEG, the orientation, and whether alpha was dropped."""
    from PIL import Image

    with Image.open(path) as opened:
        refuse_several(path, opened)
        orientation = orientation_of_picture(opened)
        if _is_deep_png(path):
            image = _read_deep_png(path)
        elif opened.mode == "CMYK":
            raise UserError(f"{path} has colours of the kind CMYK: convert it to RGB or grey")
        elif opened.mode in ("P", "PA"):  # with what is transparent as alpha, which is dropped
            image = np.asarray(opened.convert("RGBA"))[..., :3]
        else:
            as_read = {"1": "L", "YCbCr": "RGB"}.get(opened.mode)
            image = np.asarray(opened.convert(as_read) if as_read else opened)
    alpha = image.ndim == 3 and image.shape[-1] in (2, 4)
    image = image[..., :-1] if alpha else image
    return np.moveaxis(np.atleast_3d(image), -1, 0), orientation, alpha


def refuse_several(path: Path, opened: Any) -> None:
    """Raise a UserError if what Pillow opened holds several pictures."""
    if (n := getattr(opened, "n_frames", 1)) > 1:
        raise UserError(f"{path} holds {n} pictures: save one image per file")


def _is_deep_png(path: Path) -> bool:
    """A PNG of 16 bits that Pillow would cut to 8: its colour type is 2, 4 or 6."""
    with path.open("rb") as file:
        header = file.read(26)
    is_png = header[:4] == b"\x89PNG" and len(header) == 26
    return is_png and header[24] == 16 and header[25] in (2, 4, 6)


def _read_deep_png(path: Path) -> np.ndarray:
    from torchvision.io import ImageReadMode, decode_image, read_file

    decoded = decode_image(read_file(str(path)), mode=ImageReadMode.UNCHANGED)  # (C, H, W) uint16
    return np.moveaxis(decoded.numpy(), 0, -1)


def try_read(
    path: Path, meaning: Meaning = AS_THE_FILE_SAYS
) -> tuple[np.ndarray | None, str, bool]:
    """`read_image` of a file that may be damaged: the image or None, the reason, alpha dropped.

    Raises:
        UserError: the file is sound but means something else than one image, or is compressed in a
            way that no installed package reads.
    """
    try:
        image, alpha = read_image(path, meaning)
        return image, "", alpha
    except UserError:
        raise
    except Exception as error:  # readers raise anything on a damaged file; it is named and counted
        if not path.exists():
            return None, "a link that leads nowhere", False
        reason = first_line(error)
        if "imagecodecs" in str(error):
            raise UserError(
                f"{path} is compressed in a way that cannot be read ({reason}): "
                "pip install imagecodecs, or save it uncompressed"
            ) from error
        return None, reason, False


def read_array(
    path: Path, key: str | None, axes: str | None
) -> tuple[np.ndarray, list[str] | None]:
    """The images of an array file as (N, C, H, W) numbers, perhaps a memory map, and the channel
    names if the file has them.
    """
    try:
        loaded = np.load(path, mmap_mode="r", allow_pickle=False)
        arrays = {"": loaded} if isinstance(loaded, np.ndarray) else _numeric_arrays(loaded)
        names = _channel_names(loaded) if not isinstance(loaded, np.ndarray) else None
    except Exception as error:  # zip, header and pickle errors of many kinds
        reason = str(error)
        if "pickle" in reason or "Python objects" in reason:
            reason = "it holds more than numbers, which is never loaded"
        raise UserError(
            f"{path} cannot be read as an array file ({reason}): is it complete?"
        ) from error
    if key is not None and key not in arrays:
        raise UserError(f"`array_key` {key}: {path} holds {', '.join(arrays) or 'no images'}")
    candidates = {k: v for k, v in arrays.items() if v.ndim in (3, 4)}
    if key is None and len(candidates) != 1:
        found = ", ".join(f"{k} {v.shape}" for k, v in arrays.items())
        raise UserError(f"{path} holds {found or 'no array'}: name the images with `array_key`")
    array = arrays[key] if key is not None else next(iter(candidates.values()))
    axes = axes or _guess_axes(path, array.shape)
    if sorted(axes) not in (sorted("NHW"), sorted("NHWC")) or len(axes) != array.ndim:
        raise UserError(
            f"`array_axes` {axes} does not fit shape {array.shape} of {path}: say NHWC, NCHW or NHW"
        )
    array = np.transpose(array, [axes.index(a) for a in "NCHW" if a in axes])
    if array.ndim == 3:
        array = array[:, None]
    if array.shape[0] == 0:
        raise UserError(f"{path} holds no image")
    return array, names if names and len(names) == array.shape[1] else None


def _numeric_arrays(loaded: np.lib.npyio.NpzFile) -> dict[str, np.ndarray]:
    found = {}
    for name in loaded.files:
        try:
            array = loaded[name]
        except ValueError:  # an object array; it is never unpickled
            continue
        if array.ndim in (3, 4) and array.dtype.kind in "biuf":
            found[name] = array
    return found


def _channel_names(loaded: np.lib.npyio.NpzFile) -> list[str] | None:
    if "channels" not in loaded.files:
        return None
    names = loaded["channels"]
    return [str(name) for name in names] if names.dtype.kind in "US" and names.ndim == 1 else None


def _guess_axes(path: Path, shape: tuple[int, ...]) -> str:
    if len(shape) == 3:
        return "NHW"
    last, second = shape[3] <= 16 < shape[2], shape[1] <= 16 < shape[2]
    if last == second:
        raise UserError(
            f"{path} has shape {shape}: which axis is the channel? Say `array_axes` NHWC or NCHW"
        )
    return "NHWC" if last else "NCHW"
