"""What CUDA does otherwise than the CPU, on the CPU: for tests of code that is meant for a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
WIDE_UNSIGNED = (torch.uint16, torch.uint32, torch.uint64)
INDEXING = (aten.index.Tensor, aten.index_select.default, aten.gather.default)


class CudaLike(TorchDispatchMode):
    """Refuses to index wide unsigned integers; replicate padding forgets channels-last memory."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op in INDEXING and args[0].dtype in WIDE_UNSIGNED:
            raise NotImplementedError(f'"index_cuda" not implemented for {args[0].dtype}')
        result = op(*args, **kwargs or {})
        if op is aten.replication_pad2d.default:
            return result.contiguous()
        return result


class Recorder(TorchDispatchMode):
    """Keeps the name of every operation, and counts copies from the CPU to another device."""

    def __init__(self):
        super().__init__()
        self.names, self.uploads = [], 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **kwargs or {})
        self.names.append(op.overloadpacket.__name__)
        if self.names[-1] in ("_to_copy", "copy_"):
            kinds = [x.device.type for x in tree_leaves(args) if isinstance(x, torch.Tensor)]
            self.uploads += kinds[-1] == "cpu" and result.device.type != "cpu"
        return result
