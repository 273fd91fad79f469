"""A model of a Qdrant server, alone or in a cluster, for tests: REST and gRPC over loopback.

Its answers follow what Qdrant 1.18.3 answered; `tests/qdrant/test_server_model.py` compares them
with recorded ones.
"""

from tests.support.qdrant_server.faults import FAULTS, random_faults
from tests.support.qdrant_server.server import Server, running_server

__all__ = ["FAULTS", "Server", "random_faults", "running_server"]
