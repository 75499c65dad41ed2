"""A model worker of the machines benchmark: Celery's, in a process where the first so many people
of the demo corpus are those who may be erased, so that no probe takes one of them for somebody who
stays.

    python -m benchmarks.machines_worker 40 worker -Q model …
"""

import sys

from rtbf.celery import app
from workers import corpus

if __name__ == "__main__":
    corpus.ERASABLE = range(int(sys.argv[1]))
    app.worker_main(sys.argv[2:])
