"""The forward: records become a batch, one call of one module becomes token statistics.

`Encoder` turns a record into tokens and pixels (in data workers), `Batch.of` lays a list of them out, and
`Engine` - the module that DeepSpeed wraps - answers with the statistics of policy and reference. What a row
looks like is known to `batch` and `statistics` alone.
"""

from mmalign.forward.batch import FATES, Batch
from mmalign.forward.encoding import EncodedRecord, Encoder, RecordDataset, Shown, rough_length, shown, split_view
from mmalign.forward.engine import Engine, only_adapter_trains, share_tower
from mmalign.forward.precomputed import Precompute, PrecomputedReference
from mmalign.forward.usable import IGNORABLE, Usable
from mmalign.forward.vocabulary import TILE

__all__ = [
    "FATES",
    "IGNORABLE",
    "TILE",
    "Batch",
    "EncodedRecord",
    "Encoder",
    "Engine",
    "Precompute",
    "PrecomputedReference",
    "RecordDataset",
    "Shown",
    "Usable",
    "only_adapter_trains",
    "rough_length",
    "share_tower",
    "shown",
    "split_view",
]
