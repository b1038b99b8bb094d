"""Retrieval: pictures made searchable by what an image encoder sees in them, and neighbours that are safe negatives.

`mmalign index` embeds pictures (`make`) and writes a folder that any number of processes search at once (`Index`)::

    index = Index.open("runs/index")
    for near in index.neighbours(["a.jpg", "b.jpg"], k=10, guard=Guard()):
        print(near)  # [Neighbour(name="c.jpg", similarity=0.81), ...], the most similar first; None: not in the index

A neighbour that shows the same as the picture asked about is no negative: `Guard` says which are passed over.
"""

from mmalign.retrieval.index import Guard, Index, Neighbour

__all__ = ["Guard", "Index", "Neighbour"]
