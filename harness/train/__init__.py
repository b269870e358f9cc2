"""Training the fixed CLIP on a subset: open_clip's model and loss, our own order of samples, loop and accounting."""

import os

# Threads that wait for each other sleep instead of spinning: with a loader, or anything else, on the same cores,
# spinning makes a step several times as slow. Read by OpenMP when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
