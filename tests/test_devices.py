"""What a GPU needs, as far as it shows without one: arithmetic, memory, indexing, copies."""

import sys
import tracemalloc
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from cuda_like import CudaLike, Recorder
from torch import nn

from models import baselines, upsampling
from models.guidance_losses import AnchorTerm, PairTerm
from models.losses import HeteroscedasticLoss
from models.networks import build_vae
from models.nn_modules import ConvUp
from models.upsampling import UpsampleConv2d
from quantitative_metrics import performance_metrics, scores
from quantitative_metrics.scores import Plan, score_projections
from quantitative_metrics.unsupervised_metric import co_ranking
from util.data_processing import CellBatches, Cells
from util.devices import (
    in_float32,
    pick_device,
    resolve_precision,
    scoring_device,
    select_rows,
    switch_off_tf32,
)
from util.errors import UserError, is_out_of_memory
from util.mutual_information import InformationEstimator
from util.runs import load_checkpoint
from util.streaming import StreamedBatches

CPU = torch.device("cpu")


def cells_of(images, low=0, high=255):
    channels = images.shape[1]
    return Cells(
        images=images,
        table=pd.DataFrame({"Unique_ID": [str(i) for i in range(len(images))]}),
        name="random",
        masked=False,
        padding=np.zeros(channels),
        low=np.full(channels, float(low)),
        high=np.full(channels, float(high)),
        channels=[f"c{i}" for i in range(channels)],
    )


def test_picking_a_device_switches_tf32_off():
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        pick_device("cpu")
        assert torch.backends.cudnn.conv.fp32_precision != "tf32"
        assert torch.backends.cuda.matmul.fp32_precision != "tf32"
        assert not torch.backends.cudnn.allow_tf32
    finally:
        switch_off_tf32()


def test_auto_precision_is_that_of_the_device():
    assert resolve_precision("auto", CPU) == "float32"
    assert resolve_precision("auto", torch.device("cuda:1")) == "bfloat16"
    assert resolve_precision("float32", torch.device("cuda")) == "float32"


@pytest.mark.parametrize("architecture", ["vanilla", "sc", "simple"])
def test_what_reads_or_writes_a_code_is_float32_in_bfloat16(architecture):
    torch.manual_seed(0)
    model = build_vae(architecture, image_size=32, channels=1, base=4).eval()
    x, z = torch.rand(8, 1, 32, 32), 3 * torch.randn(8, 3)
    seen = {}
    ends = {"sc": (model.encoder.down[-1], getattr(model.decoder, "first", None))}
    last, first = ends.get(architecture, (None, None))
    if last is None:
        last, first = model.encoder.mean, model.decoder.linear[0]
    last.register_forward_hook(lambda module, given, out: seen.update(last=(given[0], out)))
    first.register_forward_hook(lambda module, given, out: seen.update(first=(given[0], out)))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        mean, logvar = model.encode(x)
        model.decode(z)
        deep = model.encoder.down[0].conv(x)
    assert deep.dtype == torch.bfloat16  # the bulk of the work is in low precision
    for given, out in seen.values():
        assert given.dtype == out.dtype == torch.float32
    assert mean.dtype == logvar.dtype == torch.float32
    assert torch.equal(seen["first"][0].flatten(1), z)  # with all digits


def test_losses_of_codes_have_all_digits_in_bfloat16():
    torch.manual_seed(0)
    z, images = 3 * torch.randn(6, 3), torch.rand(6, 2, 8, 8)
    loss = HeteroscedasticLoss(2, 3)
    nn.init.normal_(loss.logvar[-1].weight)
    rows, share = torch.arange(6), torch.full((6,), 1 / 6)
    anchors = AnchorTerm(rows, torch.zeros(6, 3), torch.full((6,), 1.3), torch.zeros(6).long())
    pairs = PairTerm(torch.arange(6).view(3, 2), torch.tensor([1, 0, 1]) > 0, torch.ones(3), 2.0)
    critic = InformationEstimator((3,), 3, "interpolated")
    found = {}
    for low in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=low), torch.no_grad():
            found[low] = (
                loss(torch.zeros(6, 2, 8, 8), images, z),
                anchors(z, rows, share),
                pairs(z, torch.arange(3), torch.full((3,), 1 / 3)),
                critic(z, z),
            )
    for full, low in zip(found[False], found[True], strict=True):
        assert torch.equal(full, low)


def test_in_float32_is_the_layer_itself_without_autocast():
    layer = nn.Linear(3, 2).double()
    x = torch.rand(4, 3, dtype=torch.float64)
    assert torch.equal(in_float32(layer, x), layer(x))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", [CellBatches, StreamedBatches])
def test_batches_of_16_bit_need_no_index_that_cuda_lacks(dtype, kind):
    high = np.iinfo(dtype).max
    images = np.random.default_rng(0).integers(0, high, (30, 2, 8, 8), dtype, endpoint=True)
    batches = kind(cells_of(images, 0, high), CPU, 8, False)
    order = np.array([29, 3, 17, 0, 5, 6, 7, 8, 9])
    with CudaLike():
        found = torch.cat(list(batches.in_order(order)))
        batches.take(torch.tensor([4]))
        list(batches.shuffled(order))
    np.testing.assert_allclose(found.numpy(), images[order] / high, rtol=1e-6)


@pytest.mark.parametrize("kind", ["u2", "u4", "i2", "f4", "u1"])
def test_rows_of_any_type_are_selected(kind):
    values = np.random.default_rng(0).integers(0, 250, (9, 4)).astype(kind)
    values[2] = np.iinfo(kind).max if kind[0] != "f" else 1e30
    rows = torch.tensor([2, 8, 0])
    with CudaLike():
        found = select_rows(torch.from_numpy(values), rows)
    assert np.array_equal(found.numpy(), values[rows]) and found.numpy().dtype == kind


def test_ranks_of_16_bit_pixels_need_no_index_that_cuda_lacks():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 65535, (60, 40), dtype=np.uint16)
    codes = {"codes": rng.normal(size=(60, 3))}
    for sample in (None, 20):
        plain = co_ranking(pixels.astype(np.float64), codes, sample=sample)["codes"]
        with CudaLike():
            found = co_ranking(pixels, codes, sample=sample)["codes"]
        np.testing.assert_array_equal(found.trustworthiness, plain.trustworthiness)


def test_the_order_of_an_epoch_is_uploaded_once():
    images = np.zeros((60, 1, 8, 8), np.uint8)
    batches = CellBatches(cells_of(images), torch.device("meta"), 8, augmentation=True)
    for once in (batches.shuffled, batches.in_order):
        with Recorder() as recorder:
            assert len(list(once(np.arange(60)))) >= 7
        assert recorder.uploads == 1


def test_a_map_goes_to_the_device_without_lying_in_host_memory(tmp_path):
    path = tmp_path / "images.npy"
    images = np.lib.format.open_memmap(path, "w+", np.uint16, (4000, 1, 64, 64))
    tracemalloc.start()
    try:
        CellBatches(cells_of(images), torch.device("meta"), 8, augmentation=False)
        assert tracemalloc.get_traced_memory()[1] < images.nbytes / 4
    finally:
        tracemalloc.stop()


def test_a_fast_block_stays_in_channels_last_memory_on_cuda(monkeypatch):
    strides, conv2d = [], torch.nn.functional.conv2d

    def look(x, *rest, **options):
        strides.append(x.is_contiguous(memory_format=torch.channels_last))
        return conv2d(x, *rest, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", look)
    block, x = ConvUp(6, 5), torch.rand(2, 6, 4, 4)
    plain = block(x)
    with CudaLike():
        assert torch.equal(block(x), plain)
    assert len(strides) == 2 and all(strides)


def test_the_whole_map_of_a_small_image_is_one_product_on_a_gpu(monkeypatch):
    monkeypatch.setattr(upsampling, "in_float32", lambda layer, *x: layer(*x))  # meta: no autocast
    x = torch.rand(4, 512, 2, 2, device="meta")
    with Recorder() as recorder:
        UpsampleConv2d(512, 256).to("meta")(x)
    assert recorder.names.count("addmm") == 1


CUDA_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
CPU_FULL = RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ...")
MPS_FULL = RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)")
CUBLAS_FULL = RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")


@pytest.mark.parametrize("error", [CUDA_FULL, CPU_FULL, MPS_FULL, CUBLAS_FULL, MemoryError()])
def test_a_full_memory_is_no_damaged_checkpoint(error, tmp_path, monkeypatch):
    assert is_out_of_memory(error)
    path = tmp_path / "checkpoint.pt"
    torch.save({"history": []}, path)

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(type(error)) as caught:
        load_checkpoint(path)
    assert caught.value is error


def test_other_errors_are_no_full_memory():
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(UserError("out of memory"))  # already said in a user's words


def test_checkpoints_are_read_to_the_cpu(tmp_path, monkeypatch):
    path, asked = tmp_path / "checkpoint.pt", []
    torch.save({"history": []}, path)
    load = torch.load
    monkeypatch.setattr(
        torch, "load", lambda *a, **k: asked.append(k["map_location"]) or load(*a, **k)
    )
    load_checkpoint(path)
    assert asked == ["cpu"]


@pytest.mark.parametrize(
    "metric, function", [("neighbours", "co_ranking"), ("classifier", "m_scores")]
)
def test_scores_that_do_not_fit_on_a_gpu_come_from_the_cpu(metric, function, monkeypatch):
    rng = np.random.default_rng(0)
    codes = {name: rng.normal(size=(60, 3)) for name in "ab"}
    table = pd.DataFrame({"Unique_ID": range(60), "class": rng.integers(0, 2, 60)})
    space = {"features": rng.normal(size=(60, 5))}
    task = scores.ClassifierTask("accuracy", "class")
    plan = Plan(metrics=(metric, "axes"), task=task)
    plain, devices = getattr(scores, function), []

    def full(*args, device, **options):
        devices.append(device)
        if device == "cuda:1" and len(devices) == 2:  # after some rows were made
            raise CUDA_FULL
        return plain(*args, device="cpu", **options)

    expected = score_projections(codes, space, table, plan)
    monkeypatch.setattr(scores, function, full)
    if metric == "neighbours":
        space = {"features": space["features"], "again": space["features"]}
    found = score_projections(codes, space, table, Plan(**vars(plan) | {"device": "cuda:1"}))
    assert f"{metric}: out of memory on cuda:1, scored on the CPU" in found.notes
    assert devices[:3] == ["cuda:1", "cuda:1", "cpu"]
    if metric == "neighbours":
        mine = found.table[found.table["reference"] != "again"].reset_index(drop=True)
    else:
        mine = found.table
    pd.testing.assert_frame_equal(mine, expected.table)


def test_scores_are_computed_where_the_model_was():
    assert scoring_device(torch.device("cuda:1")) == "cuda:1"
    assert scoring_device(CPU) == "cpu"
    assert scoring_device(torch.device("mps")) == "cpu"  # knows no float64


def test_a_csv_is_scored_on_the_gpu_that_was_named(monkeypatch):
    monkeypatch.setattr(performance_metrics, "pick_device", torch.device)
    plans = []

    def look(latents, projections, references, plan):
        plans.append(plan)
        raise UserError("seen")

    monkeypatch.setattr(performance_metrics, "score_latents", look)
    table = pd.DataFrame({"UMAP_X": [0.0, 1, 2], "UMAP_Y": [2.0, 1, 0]})
    with pytest.raises(UserError, match="seen"):
        performance_metrics.compute_perf_metrics(table, device="cuda:1")
    assert plans[0].device == "cuda:1"


@pytest.mark.parametrize(
    "project, name", [("umap_projection", "UMAP"), ("tsne_projection", "TSNE")]
)
def test_torchdr_is_told_its_device(project, name, monkeypatch):
    told = {}

    def reducer(**settings):
        told.update(settings)
        return SimpleNamespace(fit_transform=lambda values: values[:, :3])

    monkeypatch.setitem(sys.modules, "torchdr", SimpleNamespace(**{name: reducer}))
    monkeypatch.setattr(baselines, "pick_device", lambda asked: torch.device(asked))
    values = np.random.default_rng(0).normal(size=(20, 5))
    getattr(baselines, project)(values, engine="torchdr", device="cuda:1")
    assert told["device"] == "cuda:1"


def test_an_unknown_device_is_refused():
    assert pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="`device` tpu9"):
        pick_device("tpu9")
