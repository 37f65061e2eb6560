"""Where the cell is in its image: the pixels that its features are measured on."""

import numpy as np
import scipy
import skimage

_SATURATION = 8.0  # border noises above which a pixel is surely not background
_SMOOTHING = 1.0  # pixels; the noise of single pixels goes, the outline stays
_BORDER = 2  # pixels; width of the frame that shows the background


def find_masks(images: np.ndarray, masked: bool) -> tuple[np.ndarray, np.ndarray]:
    """Find the cell in each image.

    Masked crops (background exactly 0 in every channel): the pixels above 0 in any channel.

    Unmasked windows: per channel the absolute deviation from the median of the window's border,
    in units of the border's noise (1.4826 MAD, at least one grey level) and cut at
    `_SATURATION`, so that a bright nucleus does not outshine its cell; the mean over the channels
    is smoothed (Gaussian, sigma `_SMOOTHING` pixels) and thresholded by Otsu's method (1979).
    A constant margin, as padding leaves it, is no part of the window.

    Of several components (8-connected) a masked crop keeps the largest, a window the one nearest to
    its centre among those of at least a quarter of the largest one's area. Holes are filled.

    Args:
        images: (N, C, S, S) integers.
        masked: whether the background is exactly 0.

    Returns:
        The masks, (N, S, S) bool, never empty: where no cell is found a central disc of radius
        S / 4 stands in. And whether a cell was found, (N,) bool.
    """
    if masked:
        foreground = (images > 0).any(axis=1)  # (N, S, S)
        labels = _label_each(foreground, connectivity=2)
        masks = _pick_component(labels, _component_areas(labels))
    else:
        masks = _segment_windows(images)
    masks = _fill_holes(masks)
    found = masks.any(axis=(1, 2))
    masks[~found] = _central_disc(images.shape[-1])
    return masks, found


def _segment_windows(images: np.ndarray) -> np.ndarray:
    """Masks of unmasked windows by the rule of `find_masks`: (N, C, S, S) -> (N, S, S) bool."""
    window = _window_extent(images, margin=0)
    border = window & ~_window_extent(images, margin=_BORDER)
    signal = np.stack([_signal(*pair) for pair in zip(images, border, strict=True)]) * window
    signal = scipy.ndimage.gaussian_filter(signal, (0, _SMOOTHING, _SMOOTHING))  # (N, S, S)

    # Otsu's threshold over the window alone: padding would only add weight to the background.
    thresholds = [skimage.filters.threshold_otsu(s[w]) for s, w in zip(signal, window, strict=True)]
    labels = _label_each(signal > np.reshape(thresholds, (-1, 1, 1)), connectivity=2)
    areas = _component_areas(labels)
    large = areas >= 0.25 * areas.max(axis=(1, 2), keepdims=True)
    rows, columns = np.indices(signal.shape[1:]) - (signal.shape[-1] - 1) / 2
    nearness = signal.shape[-1] - np.hypot(rows, columns)  # > 0 everywhere
    return _pick_component(labels, np.where(large, nearness, 0))


def _signal(image: np.ndarray, border: np.ndarray) -> np.ndarray:
    """How far each pixel is from the background that `border` shows: (C, S, S) -> (S, S), 0..8."""
    background = np.median(image[:, border], axis=1)[:, None]  # (C, 1)
    noise = 1.4826 * np.median(np.abs(image[:, border] - background), axis=1)  # (C,)
    deviation = np.abs(image - background[..., None]) / np.maximum(noise, 1)[:, None, None]
    return np.minimum(deviation, _SATURATION).mean(axis=0)


def _window_extent(images: np.ndarray, margin: int) -> np.ndarray:
    """The bounding box of what differs from the corner pixel, less `margin`: (N, S, S) bool."""
    differs = (images != images[..., :1, :1]).any(axis=1)  # (N, S, S)
    differs[~differs.any(axis=(1, 2))] = True  # a flat image is all window
    size = images.shape[-1]
    position = np.arange(size)

    def span(occupied: np.ndarray) -> np.ndarray:
        first = occupied.argmax(axis=1)[:, None] + margin
        last = size - 1 - occupied[:, ::-1].argmax(axis=1)[:, None] - margin
        return (position >= first) & (position <= last)  # (N, S)

    return span(differs.any(axis=2))[:, :, None] & span(differs.any(axis=1))[:, None, :]


def _label_each(masks: np.ndarray, connectivity: int) -> np.ndarray:
    """Connected components of each plane of (N, S, S), numbered through all planes in one call."""
    structure = np.zeros((3, 3, 3), dtype=bool)  # no connection between planes
    structure[1] = scipy.ndimage.generate_binary_structure(2, connectivity)
    return scipy.ndimage.label(masks, structure)[0]


def _component_areas(labels: np.ndarray) -> np.ndarray:
    """The area of each pixel's component, 0 on the background: (N, S, S)."""
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return areas[labels]


def _pick_component(labels: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Per plane the component that holds the pixel of highest score, the first one in a tie."""
    best = (score * (labels > 0)).reshape(len(labels), -1).argmax(axis=1)
    winner = labels.reshape(len(labels), -1)[np.arange(len(labels)), best]
    return (labels == winner[:, None, None]) & (labels > 0)


def _fill_holes(masks: np.ndarray) -> np.ndarray:
    """Fill background that is not 4-connected to the outside of its plane: (N, S, S) bool."""
    outside = np.pad(~masks, ((0, 0), (1, 1), (1, 1)), constant_values=True)
    labels = _label_each(outside, connectivity=1)
    return (labels != labels[:, :1, :1])[:, 1:-1, 1:-1]


def _central_disc(size: int) -> np.ndarray:
    """A disc of radius size / 4 in the middle: (size, size) bool."""
    offset = np.arange(size) - (size - 1) / 2
    return np.hypot(offset[:, None], offset) <= size / 4
