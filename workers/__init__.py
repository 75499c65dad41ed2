"""The model side: engine, methods, probes, gate, releases, and the Celery task that uses them."""

import os

# Before torch is imported: idle OpenMP threads must sleep, not spin. Spinning makes training
# several times slower as soon as another process wants a core.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
