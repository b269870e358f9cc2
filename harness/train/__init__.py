"""Training the fixed CLIP on a subset: open_clip's model and loss, our own order of samples, loop and accounting."""
