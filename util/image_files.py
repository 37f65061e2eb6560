"""Image files and array files as integers (C, H, W), and the way to one input size and range."""

import math
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import skimage

from util.errors import UserError

IMAGE_SUFFIXES = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
MASKED_BORDER = 0.1  # crops are masked from this share of border pixels 0 in every channel
LOOK_AT = 1000  # images looked at to choose padding and scaling


def list_images(folder: Path) -> list[Path]:
    """All TIFF, PNG and JPEG files below a folder, sorted; hidden ones are passed over.

    Raises:
        UserError: there are none.
    """
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )
    if not files:
        raise UserError(
            f"`dataset` {folder}: no TIFF, PNG or JPEG image in it or in its subfolders"
        )
    return files


def read_image(path: Path) -> tuple[np.ndarray, bool]:
    """One image as (C, H, W), with its own integers; True beside it if an alpha channel was
    dropped.

    A TIFF may be H x W, H x W x C or C x H x W: C is the axis of at most 16 entries, the last one
    if both are.

    Raises:
        UserError: it holds something else than one image of 8 or 16 bit.
        Exception: whatever the reader raises on a damaged file.
    """
    alpha = False
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        image = tifffile.imread(path)
    else:
        image = _read_deep_png(path) if _is_deep_png(path) else _read_with_pillow(path)
        alpha = image.ndim == 3 and image.shape[-1] == 4
        if alpha:
            image = image[..., :3]
    if image.ndim == 2:
        image = image[None]
    elif image.ndim == 3 and (image.shape[-1] <= 16 or image.shape[0] > 16):
        image = np.moveaxis(image, -1, 0)
    if image.ndim != 3 or image.shape[0] > 16 or 0 in image.shape:
        raise UserError(
            f"{path} has shape {image.shape}: one image of at most 16 channels is expected"
        )
    return _as_integers(image, str(path)), alpha


def image_shape(path: Path) -> tuple[int, int] | None:
    """Height and width in pixels from the header of the file; None if it cannot be read."""
    try:
        if path.suffix.lower() in (".tif", ".tiff"):
            import tifffile

            with tifffile.TiffFile(path) as opened:
                shape = opened.series[0].shape
            if len(shape) == 3 and (shape[-1] <= 16 or shape[0] > 16):
                return shape[:2]
            return shape[-2:] if len(shape) in (2, 3) else None
        from PIL import Image

        with Image.open(path) as opened:
            return opened.height, opened.width
    except Exception:  # readers raise anything on a damaged file
        return None


def _read_with_pillow(path: Path) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as opened:
        if opened.mode in ("P", "1", "LA", "PA", "CMYK", "YCbCr"):
            return np.asarray(opened.convert({"1": "L", "LA": "L"}.get(opened.mode, "RGB")))
        return np.asarray(opened)


def _is_deep_png(path: Path) -> bool:
    """A PNG of 16 bit colour, which Pillow would cut to 8: bit depth 16 and colour type 2 or 6."""
    with path.open("rb") as file:
        header = file.read(26)
    return (
        header[:4] == b"\x89PNG" and len(header) == 26 and header[24] == 16 and header[25] in (2, 6)
    )


def _read_deep_png(path: Path) -> np.ndarray:
    from torchvision.io import ImageReadMode, decode_image, read_file

    decoded = decode_image(read_file(str(path)), mode=ImageReadMode.UNCHANGED)  # (C, H, W) uint16
    return np.moveaxis(decoded.numpy(), 0, -1)


def _as_integers(image: np.ndarray, name: str) -> np.ndarray:
    """uint8 or uint16 as they are; bool and floats in 0..1 and small integers converted."""
    if image.dtype in (np.uint8, np.uint16):
        return image
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if not np.isfinite(image).all():
        raise UserError(
            f"{name} holds NaN or infinite pixels: replace them, or leave these images out"
        )
    low, high = float(image.min()), float(image.max())
    if image.dtype.kind in "iu" and 0 <= low and high <= 65535:
        return image.astype(np.uint16)
    if image.dtype.kind == "f" and 0 <= low and high <= 1:
        return np.round(image * 65535).astype(np.uint16)
    raise UserError(
        f"{name} has {image.dtype} pixels from {low:g} to {high:g}: "
        "give 8 or 16 bit integers, or floats in 0..1"
    )


def try_read(path: Path) -> tuple[np.ndarray | None, str, bool]:
    """`read_image` of a file that may be damaged: the image or None, the reason, alpha dropped."""
    try:
        image, alpha = read_image(path)
        return image, "", alpha
    except UserError:
        raise
    except Exception as error:  # readers raise anything on a damaged file; it is named and counted
        reason = str(error).strip().splitlines()
        return None, (reason[0] if reason else type(error).__name__)[:100], False


def read_array(
    path: Path, key: str | None, axes: str | None
) -> tuple[np.ndarray, list[str] | None]:
    """The images of an array file as (N, C, H, W) integers, and the channel names if the file has
    them.
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
    return _as_integers(array, str(path)), names if names and len(names) == array.shape[1] else None


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


def choose_padding(images: Sequence[np.ndarray]) -> tuple[bool, np.ndarray]:
    """Zeros for crops masked by the cell's outline, the channel's border median for windows of the
    field.

    Crops count as masked if at least a tenth of all border pixels are 0 in every channel at once.

    Args:
        images: (C, H, W) each, any size.

    Returns:
        masked, and (C,) padding values.
    """
    rims = [
        np.concatenate([im[:, 0], im[:, -1], im[:, 1:-1, 0], im[:, 1:-1, -1]], axis=1)
        for im in images
    ]  # (C, pixels)
    rim = np.concatenate(rims, axis=1)
    masked = bool((rim == 0).all(axis=0).mean() >= MASKED_BORDER)
    padding = np.zeros(len(rim)) if masked else np.median(rim, axis=1)
    return masked, padding


def choose_scaling(images: np.ndarray, masked: bool) -> tuple[np.ndarray, np.ndarray]:
    """Raw values (C,), (C,) that become 0 and 1.

    8-bit images keep 0..255, as in the thesis. 16-bit ones run per channel to the 99.99 percentile
    of all pixels, so that hot pixels (up to one pixel in ten thousand) do not press the cells
    together; from 0 for masked crops, else from the 0.01 percentile. At most `LOOK_AT` images,
    evenly spaced, are looked at.
    """
    n_channels = images.shape[1]
    if images.dtype == np.uint8:
        return np.zeros(n_channels), np.full(n_channels, 255.0)
    some = images[:: math.ceil(len(images) / LOOK_AT)]
    low, high = np.empty(n_channels), np.empty(n_channels)
    for c in range(n_channels):
        pixels = np.sort(some[:, c], axis=None)
        if masked:
            pixels = pixels[np.searchsorted(pixels, 1) :]
        if len(pixels) == 0:
            pixels = np.zeros(1)
        low[c] = 0.0 if masked else np.quantile(pixels, 1e-4)
        high[c] = np.quantile(pixels, 1 - 1e-4)
    return low, np.maximum(high, low + 1)


def scaling_rule(dtype: np.dtype, masked: bool) -> str:
    """The rule of `choose_scaling` in words, for settings.json and the report."""
    if dtype == np.uint8:
        return "0..255 -> 0..1"
    low = "0" if masked else "0.01 percentile"
    return f"per channel, {low} to 99.99 percentile of the pixels -> 0..1"


@cache
def _resize_matrix(length: int, size: int) -> np.ndarray:
    """(size, length) matrix of scikit-image's anti-aliased linear resize along one axis.

    The resize is linear and separable, so what it does to the identity is all there is to know.
    """
    return skimage.transform.resize(
        np.eye(length),
        (size, length),
        order=1,
        anti_aliasing=True,
        mode="reflect",
        preserve_range=True,
        clip=False,
    ).astype(np.float32)


class Fitter:
    """Brings images to S x S: rescaled, whatever their aspect, if a side is larger, else padded to
    the centre.

    Args:
        size: S in pixels.
        padding: (C,) value around smaller images.
    """

    def __init__(self, size: int, padding: np.ndarray):
        self.size = size
        self.padding = np.asarray(padding)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """(..., C, H, W) integers -> (..., C, S, S) of the same type."""
        height, width = images.shape[-2:]
        size = self.size
        if height > size or width > size:
            rows, columns = _resize_matrix(height, size), _resize_matrix(width, size)
            scaled = rows @ images.astype(np.float32) @ columns.T  # (..., C, S, S)
            limit = np.iinfo(images.dtype).max
            return np.clip(np.round(scaled), 0, limit).astype(images.dtype)
        if (height, width) == (size, size):
            return images
        out = np.empty((*images.shape[:-2], size, size), images.dtype)
        out[...] = np.round(self.padding).astype(images.dtype)[:, None, None]
        top, left = round((size - height) / 2), round((size - width) / 2)
        out[..., top : top + height, left : left + width] = images
        return out
