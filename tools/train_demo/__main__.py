import os
import sys

# Before PyTorch is imported: a thread that waits by spinning takes a processor from the one that
# it waits for, as soon as there are other programs (50 steps took over 70 s, without it 30).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from .cli import main

sys.exit(main())
