"""Speed of feeding: the augmentation on the device, an epoch with and without feeding, streaming.

    python tests/benchmarks/feeding.py                     batches against a scikit-image loader,
                                                           an epoch against one fixed batch
    python tests/benchmarks/feeding.py --stream            310,000 cells from a sparse memory map
    python tests/benchmarks/feeding.py --device cuda --stream 50000

Both sides of a comparison take turns in one process, so a drift of the machine meets both.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
import torch
from common import machine_line, spread, synchronize
from skimage.io import imread
from skimage.transform import resize, rotate
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from models.losses import ELBOObjective  # noqa: E402  the repository root has to be on the path
from models.networks import build_vae  # noqa: E402
from util.data_processing import CellBatches, Cells  # noqa: E402
from util.simulate_cells import simulate_bbbc031  # noqa: E402
from util.streaming import StreamedBatches  # noqa: E402

PARTS = ("loaders", "epochs")
SIZE = 64  # pixels
STREAMED_SHAPE = (4, 128, 128)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or mps")
    parser.add_argument("--batch", type=int, default=64, help="images per step")
    parser.add_argument("--cells", type=int, default=2560, help="of 3 x 64 x 64 in memory")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side")
    parser.add_argument("--steps", type=int, default=20, help="training steps of a turn")
    parser.add_argument(
        "--threads",
        type=int,
        default=None,
        help="of the CPU, default: PyTorch's; take 1 where others use the cores too",
    )
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--base", type=int, default=32, help="width of the vanilla VAE")
    parser.add_argument(
        "--stream",
        type=int,
        nargs="?",
        const=310_000,
        metavar="N",
        help="only this: stream N cells of 4 x 128 x 128 uint16 (default 310,000) once",
    )
    return parser.parse_args()


def cells_of(images: np.ndarray) -> Cells:
    """Cells scaled by the range of their type."""
    channels = images.shape[1]
    return Cells(
        images=images,
        table=pd.DataFrame({"Unique_ID": np.arange(len(images)).astype(str)}),
        name="benchmark",
        masked=True,
        padding=np.zeros(channels),
        low=np.zeros(channels),
        high=np.full(channels, float(np.iinfo(images.dtype).max)),
        channels=["channel"] * channels,
    )


def random_cells(n_cells: int) -> Cells:
    """Noise of 3 x 64 x 64 uint8; what the pixels show does not change the time."""
    return cells_of(np.random.default_rng(0).integers(0, 256, (n_cells, 3, SIZE, SIZE), np.uint8))


def write_crops(n_cells: int, folder: Path) -> list[Path]:
    """Simulated BBBC031 cells as TIFF crops of varying size, as the original loader read them."""
    crops, _ = simulate_bbbc031(n_cells, seed=0)
    paths = [folder / f"cell_{i}.tiff" for i in range(n_cells)]
    for path, crop in zip(paths, crops, strict=True):
        tifffile.imwrite(path, crop, photometric="rgb")
    return paths


def scikit_image_loader(
    sources: Sequence, read: Callable[..., np.ndarray], batch_size: int, seed: int
) -> Iterator[Tensor]:
    """The plain reference: reads, turns and flips image by image, in one process."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(sources))
    for start in range(0, len(order) - batch_size + 1, batch_size):
        cells = order[start : start + batch_size]
        batch = [turn_and_flip(read(sources[cell]), rng) for cell in cells]
        yield torch.from_numpy(np.stack(batch)).float()


def read_resident(image: np.ndarray) -> np.ndarray:
    """(C, S, S) uint8 in memory, at the input size already -> (S, S, C) in 0..1."""
    return image.transpose(1, 2, 0) / 255


def read_file(path: Path) -> np.ndarray:
    """A TIFF crop -> (S, S, C) in 0..1, rescaled where it is too large, else padded."""
    image = imread(path) / 255
    if max(image.shape[:2]) > SIZE:
        return resize(image, (SIZE, SIZE), order=1, anti_aliasing=True)
    before = [round((SIZE - side) / 2) for side in image.shape[:2]]
    pads = [(b, SIZE - side - b) for b, side in zip(before, image.shape[:2], strict=True)]
    return np.pad(image, [*pads, (0, 0)])


def turn_and_flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The thesis's augmentation of one image (S, S, C) -> (C, S, S)."""
    if rng.random() < 0.5:
        image = rotate(image, 90)
    if rng.random() < 0.5:
        image = rotate(image, 5 * rng.integers(1, 18))
    if rng.random() < 0.5:
        image = np.fliplr(image)
    if rng.random() < 0.5:
        image = np.flipud(image)
    return image.transpose(2, 0, 1)


def images_per_second(batches: Iterable[Tensor], device: str) -> float:
    """Speed of a whole pass over the batches."""
    synchronize(device)
    start = time.perf_counter()
    n_images = sum(len(x) for x in batches)
    synchronize(device)
    return n_images / (time.perf_counter() - start)


def compare_loaders(args: argparse.Namespace) -> None:
    """Augmented batches on the device against the scikit-image loader, from files and without."""
    cells = random_cells(args.cells)
    batches = CellBatches(cells, torch.device(args.device), args.batch, augmentation=True)
    indices = np.arange(args.cells)
    n_few = 5 * args.batch  # the slow sides' share of a turn
    list(batches.shuffled(indices))  # warm-up
    with tempfile.TemporaryDirectory() as folder:
        references = {
            "scikit-image from TIFF crops": (write_crops(n_few, Path(folder)), read_file),
            "scikit-image, augmentation alone": (cells.images[:n_few], read_resident),
        }
        speeds: dict[str, list[float]] = {"CellBatches": [], **{name: [] for name in references}}
        for turn in range(args.rounds):
            ours = images_per_second(batches.shuffled(indices), args.device)
            speeds["CellBatches"].append(ours)
            for name, (sources, read) in references.items():
                loader = scikit_image_loader(sources, read, args.batch, turn)
                speeds[name].append(images_per_second(loader, args.device))
    print(f"\naugmented batches of {args.batch}, 3 x {SIZE} x {SIZE} uint8")
    for name, values in speeds.items():
        print(f"  {name}: {spread(values, ' images/s', 0)}")
    for name in references:
        ratios = [a / b for a, b in zip(speeds["CellBatches"], speeds[name], strict=True)]
        print(f"  over {name}: {spread(ratios, ' x')} (target: 20 x)")


def training_steps(model: torch.nn.Module, device: str) -> Callable[[Iterable[Tensor]], float]:
    """A function that makes a step of Adam per batch and returns the seconds of a step."""
    objective = ELBOObjective().to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=device != "mps")

    def run(batches: Iterable[Tensor]) -> float:
        synchronize(device)
        start, steps = time.perf_counter(), 0
        for x in batches:
            optimizer.zero_grad(set_to_none=True)
            objective(model, x)["loss"].backward()
            optimizer.step()
            steps += 1
        synchronize(device)
        return (time.perf_counter() - start) / steps

    return run


def compare_epochs(args: argparse.Namespace) -> None:
    """Training steps that are fed, resident and streamed, against steps on one fixed batch."""
    n_cells = args.steps * args.batch
    cells, device = random_cells(n_cells), torch.device(args.device)
    sources = {
        "CellBatches": CellBatches(cells, device, args.batch, augmentation=True),
        "StreamedBatches": StreamedBatches(cells, device, args.batch, augmentation=True),
    }
    model = build_vae("vanilla", SIZE, 3, args.base).to(device).train()
    run = training_steps(model, args.device)
    fixed = sources["CellBatches"].take(torch.arange(args.batch))
    run(repeat(fixed, 3))  # warm-up
    seconds: dict[str, list[float]] = {"fixed batch": [], **{name: [] for name in sources}}
    for _ in range(args.rounds):
        seconds["fixed batch"].append(run(repeat(fixed, args.steps)))
        for name, batches in sources.items():
            seconds[name].append(run(batches.shuffled(np.arange(n_cells))))
    print(f"\ntraining, vanilla base {args.base}, batch {args.batch}, turns of {args.steps} steps")
    for name, values in seconds.items():
        print(f"  {name}: {spread([1e3 * s for s in values])} ms per step")
    for name in sources:
        speeds = [
            100 * alone / fed
            for alone, fed in zip(seconds["fixed batch"], seconds[name], strict=True)
        ]
        print(f"  {name}, speed of the fixed batch: {spread(speeds, ' %')} (target: 95 %)")


def anonymous_bytes() -> int:
    """Anonymous memory of this process; pages of a file are not part of it (Linux)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    return 0


def stream_once(n_cells: int, args: argparse.Namespace) -> None:
    """One pass, shuffled and augmented, over a sparse file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sparse.npy"
        shape = (n_cells, *STREAMED_SHAPE)
        np.lib.format.open_memmap(path, mode="w+", dtype=np.uint16, shape=shape)
        cells = cells_of(np.load(path, mmap_mode="r"))
        device = torch.device(args.device)
        batches = StreamedBatches(cells, device, args.batch, augmentation=True)
        before = peak = anonymous_bytes()
        start, seen = time.perf_counter(), 0
        for x in batches.shuffled(np.arange(n_cells)):
            seen += len(x)
            peak = max(peak, anonymous_bytes())
        synchronize(args.device)
        seconds = time.perf_counter() - start
    print(f"\nstreamed {seen:,} of {n_cells:,} cells, {cells.images.nbytes / 2**30:.1f} GiB")
    print(f"  {seen / seconds:,.0f} cells/s, {seconds:.0f} s")
    print(f"  anonymous memory: {before / 2**20:.0f} MiB before, {peak / 2**20:.0f} MiB at most")


def main() -> None:
    """Run the parts asked for."""
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    print(machine_line(args.device))
    if args.stream is not None:
        stream_once(args.stream, args)
        return
    print("median (quartiles) of", args.rounds, "turns")
    if "loaders" in args.parts:
        compare_loaders(args)
    if "epochs" in args.parts:
        compare_epochs(args)


if __name__ == "__main__":
    main()
