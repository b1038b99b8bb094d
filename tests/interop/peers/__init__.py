"""The real loaders of LLaMA-Factory and ms-swift on files that mmalign wrote, and mmalign's readers on theirs.

    python -m tests.interop.peers --work /tmp/peers

Each peer gets a virtual environment of its own below ``--work``, made once (about 2 GB each, from PyPI), since their
requirements exclude each other's and ours. No test of `make test` needs it.
"""
